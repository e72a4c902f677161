from pathlib import Path

import mlflow
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.errors import UsageError
from cifar_mlflow.processes import Process, this_process
from cifar_mlflow.store import query, tracking
from cifar_mlflow.store.runs import PARENT, TRIAL_KEY, TrackedRun
from cifar_mlflow.training.checkpoint import Epoch
from tests.store.conftest import Leave
from tests.stores import tracked

pytestmark = pytest.mark.usefixtures("store")
REACHED = {"kept_val_accuracy": 0.7, "test_accuracy": 0.6, "test_loss": 1.0}


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The descriptions that were set."""
    texts: list[str] = []
    monkeypatch.setattr(mlflow, "set_tag", lambda name, text: texts.append(text))
    return texts


def test_a_description_that_no_tag_can_hold_ends_with_a_whole_line(described: list[str]) -> None:
    lines = [f"| {number} | 0.5 |" for number in range(2_000)]
    tracking.describe("\n".join(lines))
    (text,) = described
    assert len(text) <= mlflow.utils.validation.MAX_TAG_VAL_LENGTH
    *kept, last = text.splitlines()
    assert kept == lines[: len(kept)]
    assert len(kept) > 400
    assert last == "…"


def test_a_shorter_description_is_kept_as_it_is(described: list[str]) -> None:
    tracking.describe("short\ntext")
    assert described == ["short\ntext"]


def test_the_run_of_a_killed_command_that_nothing_resumes_ends_killed(
    leave: Leave, dead_process: Process
) -> None:
    process = tracking.process_tags(dead_process)
    client = mlflow.MlflowClient()
    killed, unclaimed = (  # the second was to train alone
        client.create_run("0", tags=process | more).info.run_id for more in ({}, {TRIAL_KEY: "a"})
    )
    others = {
        leave(),  # resumed by the same command
        client.create_run("0", tags=process | {TRIAL_KEY: "a", PARENT: "b"}).info.run_id,
        client.create_run("0", tags=process | {"machine": "elsewhere"}).info.run_id,
        client.create_run("0", tags=tracking.process_tags(this_process())).info.run_id,
    }
    with tracking.tracked_run("evaluate"):
        assert query.read(killed).status == "KILLED"
    assert query.read(killed).end_reason == "its process was killed"
    assert query.read(unclaimed).status == "KILLED"
    assert {query.read(run_id).status for run_id in others} == {"RUNNING"}


def test_a_command_that_is_interrupted_as_it_starts_ends_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(experiment_id: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking, "_end_dead_runs", interrupted)
    with pytest.raises(KeyboardInterrupt), tracking.tracked_run("grid"):
        pass
    (run,) = query.search("0", "tags.kind = 'grid'")
    assert (run.status, run.end_reason) == ("KILLED", "interrupted")
    assert not mlflow.active_run()


def trial(status: str, number: int = 0, key: str = "aaa") -> TrackedRun:
    return tracked(f"{status} {number}", key, status, REACHED, trial_key=key)


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_a_trial_that_finished_counts_whatever_the_clocks_say(status: str) -> None:
    # Sorted by when they began, each by the clock of its machine.
    runs = [trial("FINISHED"), trial(status)]
    assert query.latest(runs) == {"aaa": runs[0]}


def test_an_attempt_that_was_followed_by_another_counts_least() -> None:
    runs = [trial("FAILED"), trial("KILLED"), trial("KILLED", key="bbb")]
    assert query.latest(runs) == {"aaa": runs[0], "bbb": runs[2]}


def test_of_attempts_that_ended_alike_the_newest_counts() -> None:
    runs = [trial("FAILED", 1), trial("FAILED", 2)]
    assert query.latest(runs) == {"aaa": runs[1]}


def test_a_study_has_one_best_child_also_after_another_was_best() -> None:
    with tracking.tracked_run("grid") as run:
        ids = []
        for name in ("first", "second"):
            with tracking.tracked_run("trial", name) as child:
                mlflow.log_metrics(REACHED)
            ids.append(child.run_id)
            tracking.tag_best(query.read(ids[-1]), TrialConfig())
        marked = query.children(run.as_parent(), "tags.best = 'true'")
        assert [child.run_id for child in marked] == [ids[1]]
    assert query.read(run.run_id).tags["best_run_id"] == ids[1]


def test_a_trial_without_validation_logs_none_and_can_be_the_best() -> None:
    with tracking.tracked_run("grid") as run:
        with tracking.tracked_run("trial") as child:
            tracking.log_epochs([Epoch(1, 2.3, 0.1, None, None, 0.01, 3.5)])
            mlflow.log_metrics({"test_accuracy": 0.6, "test_loss": 1.0})
        best = query.read(child.run_id)
        tracking.tag_best(best, TrialConfig(validation_fraction=0))
    assert best.metrics.keys() >= {"epoch", "train_loss", "train_accuracy", "test_loss"}
    assert not {"val_loss", "val_accuracy"} & best.metrics.keys()
    reached = query.read(run.run_id).metrics
    assert reached == {"best_trial_test_accuracy": 0.6, "best_trial_test_loss": 1.0}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "grid"),  # MLflow made one up
        ("bright-hare-123", "grid"),  # as MLflow might
        ("try-two-3", "try-two-3"),
        ("my grid", "my grid"),
        ("bright-hare", "bright-hare"),
    ],
)
def test_a_run_of_mlflow_run_keeps_the_name_that_the_user_gave(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = mlflow.MlflowClient().create_run("0", run_name=given)
    monkeypatch.setenv("MLFLOW_RUN_ID", created.info.run_id)
    with tracking.tracked_run("grid") as run:
        assert run.run_id == created.info.run_id
    assert query.read(run.run_id).name == expected


def test_a_run_that_the_store_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(
        UsageError, match="is not in sqlite.*set MLFLOW_TRACKING_URI to an absolute path"
    ):
        tracking.start_run("grid")


def test_a_run_ends_failed_after_an_end_reason_though_nothing_was_raised() -> None:
    with tracking.tracked_run("grid") as run:
        tracking.tag_end_reason("not every trial finished")
    ended = query.read(run.run_id)
    assert (ended.status, ended.end_reason) == ("FAILED", "not every trial finished")
    assert ended.failure is None


def test_children_are_found_on_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "RUNS_PER_PAGE", 2)
    with tracking.tracked_run("grid") as study:
        started = []
        for number in range(5):
            with tracking.tracked_run("trial", str(number)) as trial:
                started.append(trial.run_id)
    assert {run.run_id for run in query.children(study.as_parent())} == set(started)
    assert len(query.children(study.as_parent())) == 5
    assert len(query.children(study.as_parent(), limit=3)) == 3


def test_a_logged_figure_has_the_pixels_that_savefig_writes(tmp_path: Path) -> None:
    def drawn() -> Figure:
        figure = Figure(figsize=(4, 3), dpi=150, layout="constrained")
        figure.subplots().set(title="a title", xlabel="a label")
        return figure

    with tracking.tracked_run("trial") as run:
        tracking.log_files(figures={"curves.png": drawn()})
    drawn().savefig(tmp_path / "saved.png", dpi="figure")
    logged = Image.open(Path(mlflow.get_run(run.run_id).info.artifact_uri, "curves.png"))
    assert logged.size == (600, 450)
    assert np.array_equal(np.asarray(logged), np.asarray(Image.open(tmp_path / "saved.png")))
