"""How long a study is expected to take, by earlier trials."""

import mlflow
import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.store import tracking
from cifar_mlflow.store.runs import TrackedRun
from cifar_mlflow.study.timing import comparable_trials, expected_seconds
from tests.stores import tracked

TRIALS = [TrialConfig(batch_size=batch_size, epochs=10) for batch_size in (32, 32, 64)]
TRIALS[1] = TRIALS[1].model_copy(update={"seed": 1})


def timed(batch_size: int, seconds_per_epoch: float, epochs: int = 4) -> TrackedRun:
    metrics = {"epoch": float(epochs), "train_seconds": seconds_per_epoch * epochs}
    parameters = {"architecture": "deep", "batch_size": str(batch_size)}
    return tracked("earlier", metrics=metrics, parameters=parameters)


COMPARABLE = [timed(32, 3.0), timed(32, 4.0), timed(32, 40.0), timed(64, 2.0)]


def run_of(
    trial: TrialConfig, status: str, epochs: int, checkpoint: str = ""
) -> dict[str, TrackedRun]:
    metrics = {"epoch": float(epochs)}
    return {trial.key: tracked("run", trial.name, status, metrics, checkpoint=checkpoint)}


def test_an_epoch_takes_the_median_of_earlier_ones_of_its_network_and_batch_size() -> None:
    assert expected_seconds(TRIALS, {}, COMPARABLE, workers=1) == 10 * 4 + 10 * 4 + 10 * 2


def test_workers_share_the_epochs_but_a_trial_has_one_worker() -> None:
    assert expected_seconds(TRIALS, {}, COMPARABLE, workers=2) == 50
    assert expected_seconds(TRIALS, {}, COMPARABLE, workers=8) == 40


def test_a_network_that_was_never_timed_leaves_the_time_unknown() -> None:
    assert expected_seconds(TRIALS, {}, COMPARABLE[:3], workers=1) is None
    assert expected_seconds(TRIALS, {}, [], workers=1) is None


def test_only_epochs_that_are_left_count() -> None:
    finished = run_of(TRIALS[0], "FINISHED", 10)
    part_done = run_of(TRIALS[1], "KILLED", 6, checkpoint="{}")
    without_checkpoint = run_of(TRIALS[2], "KILLED", 6)
    runs = finished | part_done | without_checkpoint
    assert expected_seconds(TRIALS, runs, COMPARABLE, workers=1) == 4 * 4 + 10 * 2
    assert expected_seconds(TRIALS[:1], finished, [], workers=1) == 0


@pytest.mark.usefixtures("store")
def test_trials_count_that_finished_here_on_the_same_data_with_as_many_threads(
    small_cifar10: DataSet,
) -> None:
    def leave(threads: int = 1, **tags: str) -> str:
        with tracking.tracked_run("trial") as run:
            mlflow.set_tags({"data_digest": small_cifar10.digest, "threads": threads, **tags})
        return run.run_id

    expected = leave()
    leave(threads=2)
    leave(host="elsewhere")
    leave(data_digest="of other data")
    leave(end_reason="it failed")
    leave(kind="evaluate")
    (run,) = comparable_trials("0", small_cifar10, threads=1)
    assert run.run_id == expected


@pytest.mark.parametrize("status", ["RUNNING", "FAILED"])
def test_a_trial_without_a_checkpoint_starts_over(status: str) -> None:
    runs = run_of(TRIALS[0], status, 6)
    assert expected_seconds(TRIALS[:1], runs, COMPARABLE, workers=1) == 40
