"""Studies that are interrupted, and what becomes of them."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import CompletedProcess

import pytest
from mlflow.entities import Run

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.errors import MISUSED
from cifar_mlflow.parameters import GridParameters, expand
from cifar_mlflow.store.runs import TrackedRun
from tests.end_to_end.conftest import QUICK, Alone, User, outcome, shown_by

EPOCHS = 3
GRID = QUICK | {"activation": "relu", "batch_size": "32,64", "optimizer": "adam", "workers": "2"}
GRID |= {"epochs": str(EPOCHS), "threads": "1"}


def outcomes(user: User, parent: Run) -> dict[str, dict[str, float]]:
    """Of each finished trial of a study."""
    return {
        run.info.run_name: outcome(run)
        for run in user.runs(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        if run.info.status == "FINISHED"
    }


@dataclass(frozen=True)
class Killed:
    """A study that was killed after the first epoch of its two trials, then run again."""

    user: User
    refused: CompletedProcess[str]  # the same command, while the study was alive
    left: list[bool]  # of each worker, whether it was alive long after its study
    shown: str  # by the second command


@pytest.fixture(scope="module")
def killed(new_user: Callable[[], User]) -> Killed:
    user = new_user().held_after(epoch=1)
    process = user.start_trials(user.script("grid", GRID), trials=2)
    study, *trials = user.runs()
    workers = [TrackedRun.of(run).process for run in trials]
    assert TrackedRun.of(study).process.id == process.pid
    assert all(worker.is_alive for worker in workers)
    refused = user.run_script("grid", GRID)
    process.kill()  # which nothing can pass on to the workers
    process.wait()  # and not for its output, which the workers keep open
    patience = time.monotonic() + 60
    while any(worker.is_alive for worker in workers) and time.monotonic() < patience:
        time.sleep(0.1)
    left = [worker.is_alive for worker in workers]
    assert process.stdout
    process.stdout.close()
    running = user.runs("attributes.status = 'RUNNING'")
    assert [run.info.run_id for run in running] == [run.info.run_id for run in (study, *trials)]
    user.open_gate()
    done = user.run_script("grid", GRID | {"workers": "1"})
    assert done.returncode == 0, done.stdout
    return Killed(user, refused, left, done.stdout)


def test_a_live_study_is_not_run_twice(killed: Killed) -> None:
    refused = killed.refused
    assert refused.returncode == MISUSED
    first = killed.user.runs()[0]
    assert f"grid: run {first.info.run_id} (grid), process " in refused.stdout
    assert "last heartbeat" in refused.stdout
    assert "Traceback" not in refused.stdout


def test_the_workers_of_a_killed_command_end_with_it(killed: Killed) -> None:
    assert killed.left == [False, False]


def test_a_killed_study_is_resumed_and_says_so(killed: Killed) -> None:
    first = killed.user.runs()[0]
    assert f"Resuming  study {first.info.run_id}: 0 of 2 finished, 2 part-done" in killed.shown


def test_the_killed_run_ends_killed_and_points_to_its_successor(killed: Killed) -> None:
    user = killed.user
    first, _, second = user.runs("tags.kind = 'grid'")  # and the refused one
    assert (first.info.status, second.info.status) == ("KILLED", "FINISHED")
    assert first.data.tags["superseded_by"] == second.info.run_id
    assert not user.runs("attributes.status = 'RUNNING'")


def test_each_trial_is_finished_once_under_the_successor(killed: Killed) -> None:
    user = killed.user
    second = user.runs("tags.kind = 'grid'")[-1]
    finished = user.runs("tags.kind = 'trial' and attributes.status = 'FINISHED'")
    assert len(finished) == 2
    assert {run.data.tags["mlflow.parentRunId"] for run in finished} == {second.info.run_id}
    assert len(user.client.search_model_versions()) == 1


def test_a_resumed_trial_has_its_whole_curve(killed: Killed) -> None:
    user = killed.user
    for run in user.runs("tags.kind = 'trial' and attributes.status = 'FINISHED'"):
        points = user.client.get_metric_history(run.info.run_id, "train_loss")
        assert [point.step for point in points] == list(range(1, EPOCHS + 1))
        assert user.client.get_run(run.data.tags["resumed_from"]).info.status == "KILLED"


def test_no_checkpoint_is_left(killed: Killed) -> None:
    user = killed.user
    for run in user.runs():
        assert "checkpoint" not in user.artifacts(run)
        assert "checkpoint" not in run.data.tags


def test_trials_of_a_killed_study_end_as_if_they_were_left_alone(
    killed: Killed, alone: Alone
) -> None:
    resumed = outcomes(killed.user, killed.user.runs("tags.kind = 'grid'")[-1])
    trials = expand(GridParameters.model_validate(GRID))
    assert resumed == {trial.name: alone(trial) for trial in trials}
    assert len(resumed) == 2


def test_a_study_ends_its_trials_when_interrupted(user: User) -> None:
    user = user.held_after(epoch=1)
    process = user.start_trials(user.mlflow_run("grid", GRID), trials=2)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
    shown = shown_by(process)
    assert process.returncode != 0
    assert "grid: interrupted by SIGINT" in shown
    trials = user.runs("tags.kind = 'trial'")
    assert [run.info.status for run in trials] == ["KILLED"] * 2
    # `mlflow run` says FAILED of every study that does not exit with 0.
    parent = user.runs()[0]
    assert (parent.info.status, parent.data.tags["end_reason"]) == ("FAILED", "interrupted")
    assert not user.client.search_registered_models()


def test_a_study_ends_when_mlflow_run_is_terminated(user: User) -> None:
    user = user.held_after(epoch=1)
    process = user.start_trials(user.mlflow_run("grid", GRID | {"batch_size": "32"}), trials=1)
    process.terminate()
    shown_by(process)  # until the study has closed its output too
    assert {run.info.status for run in user.runs()} == {"KILLED"}


def test_an_interrupted_training_is_resumed_and_ends_as_if_it_was_left_alone(
    user: User, alone: Alone
) -> None:
    user = user.held_after(epoch=2)
    parameters = QUICK | {"epochs": "4", "keep": "best"}
    train = user.script("train", parameters | {"threads": "1"})
    process = user.start(train, lambda: bool(user.runs("metrics.epoch >= 2")))
    os.killpg(process.pid, signal.SIGKILL)
    shown_by(process)
    user.open_gate()
    done = user.finish(train)
    assert done.returncode == 0, done.stdout
    assert "Resuming  after epoch 2" in done.stdout
    first, second = user.runs()
    assert (first.info.status, second.info.status) == ("KILLED", "FINISHED")
    assert first.data.tags["superseded_by"] == second.info.run_id
    assert outcome(second) == alone(TrialConfig.model_validate(parameters))
