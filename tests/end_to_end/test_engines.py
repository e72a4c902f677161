"""The grid on a cluster of dask, that gains and loses workers, and on ray."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from mlflow.entities import Run

from cifar_mlflow.store.runs import TrackedRun
from tests.conftest import PROJECT
from tests.end_to_end.conftest import QUICK, User, shown_by, wait_until
from tests.end_to_end.servers import free_port, tracking_server

EPOCHS = 3
GRID = QUICK | {"activation": "relu", "batch_size": "16,32,64", "optimizer": "adam"}
GRID |= {"epochs": str(EPOCHS)}


@pytest.fixture
def started(user: User) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def part(stack: ExitStack, user: User, *command: str) -> subprocess.Popen[bytes]:
    """A process of a cluster, as docs/scaling.md starts it in a clone of the project."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *command],
        cwd=PROJECT,
        env=user.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def end() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    stack.callback(end)
    return process


def curves_are_whole(user: User, trials: list[Run]) -> bool:
    return all(
        [point.step for point in user.client.get_metric_history(run.info.run_id, "val_accuracy")]
        == list(range(1, EPOCHS + 1))
        for run in trials
    )


def test_a_dask_cluster_loses_a_worker_and_gains_one_and_nothing_is_lost(
    user: User, started: ExitStack, make_store: Callable[..., str]
) -> None:
    user = user.held_after(epoch=1)
    address = f"127.0.0.1:{free_port()}"
    port = address.partition(":")[2]
    part(started, user, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
    first, _ = (
        part(started, user, "worker", address, "--nthreads", "1", "--no-dashboard")
        for _ in range(2)
    )
    database = make_store(user.folder, "server.db", "mlflow-artifacts:/0")
    remote = started.enter_context(
        tracking_server(user, database, "--artifacts-destination", str(user.folder / "artifacts"))
    )
    grid = remote.script("grid", GRID | {"engine": "dask", "address": address})
    study = remote.start_trials(grid, trials=2)
    os.killpg(first.pid, signal.SIGKILL)
    part(started, user, "worker", address, "--nthreads", "1", "--no-dashboard")
    # The third trial is one that the new worker took, because the other worker waits at the gate.
    wait_until(lambda: len(remote.begun()) >= 3, study)
    remote.open_gate()
    shown = shown_by(study)
    assert study.returncode == 0, shown
    finished = remote.runs("tags.kind = 'trial' and attributes.status = 'FINISHED'")
    assert len({run.info.run_name for run in finished}) == len(finished) == 3
    assert curves_are_whole(remote, finished)
    assert not remote.runs("attributes.status = 'RUNNING'")
    (lost,) = remote.runs("tags.failure = 'worker_died'")
    assert lost.info.status == "KILLED"
    assert lost.data.tags["superseded_by"] in {run.info.run_id for run in finished}


def test_a_ray_worker_that_dies_costs_its_study_nothing(user: User) -> None:
    user = user.held_after(epoch=1)
    two = {"batch_size": "16,32", "workers": "2"}
    grid = user.script("grid", GRID | two | {"engine": "ray"})
    study = user.start_trials(grid, trials=2)
    killed = user.begun()[0]
    os.kill(TrackedRun.of(killed).process.id, signal.SIGKILL)
    user.open_gate()
    shown = shown_by(study)
    assert study.returncode == 0, shown
    finished = user.runs("tags.kind = 'trial' and attributes.status = 'FINISHED'")
    assert len({run.info.run_name for run in finished}) == len(finished) == 2
    assert killed.info.run_id in {run.data.tags.get("resumed_from") for run in finished}
    assert curves_are_whole(user, finished)
