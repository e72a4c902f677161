"""What a worker does with a trial, and how the trial's run ends; with a fake training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import mlflow
import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.errors import Diverged, Failure, Superseded, UsageError, WorkerDied
from cifar_mlflow.store import query, tracking
from cifar_mlflow.store.runs import TRIAL_KEY, Parent, Status, TrackedRun
from cifar_mlflow.study import trial
from cifar_mlflow.study.trial import TrialOptions, run_child, run_trial, trial_run

pytestmark = pytest.mark.usefixtures("store")
CONFIG = TrialConfig()
OPTIONS = TrialOptions(threads=1)


def leave_attempt(parent: Parent, status: str = "RUNNING", **tags: str) -> str:
    """The run of an earlier attempt at the trial, whose process is gone."""
    client = mlflow.MlflowClient()
    tags = {"kind": "trial", TRIAL_KEY: CONFIG.key, "mlflow.parentRunId": parent.run_id, **tags}
    run_id = str(client.create_run(parent.experiment_id, tags=tags).info.run_id)
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


@dataclass
class Worker:
    """Runs the trial as a child of a study, with a training that the test provides."""

    data: DataSet
    parent: Parent
    given: list[list[str]] = field(
        default_factory=list
    )  # run ids of the attempts, for each training
    outcome: Callable[[], None] = lambda: None

    def run(self, retries: int = 1, max_same_failures: int = 3) -> None:
        """As the study starts the trial, which knows of all attempts."""
        options = TrialOptions(1, False, retries, max_same_failures)
        attempts = query.children(self.parent)
        run_child(CONFIG, self.data, options, self.parent, attempts, self._train)

    def run_again(self, retries: int = 1) -> None:
        """As an engine starts the trial again, which knows only what the study did at first."""
        options = TrialOptions(1, False, retries, restarts=True)
        run_child(CONFIG, self.data, options, self.parent, [], self._train)

    def _train(
        self,
        config: TrialConfig,
        data: DataSet,
        _: object,
        attempts: Sequence[TrackedRun],
        say: object,
    ) -> None:
        self.given.append([attempt.run_id for attempt in attempts])
        self.outcome()

    @property
    def newest(self) -> TrackedRun:
        return query.children(self.parent)[-1]


@pytest.fixture
def worker(small_cifar10: DataSet) -> Iterator[Worker]:
    with tracking.tracked_run("grid") as study:
        yield Worker(small_cifar10, study.as_parent())


def test_a_trial_becomes_a_finished_child_of_its_study(worker: Worker) -> None:
    worker.run()
    assert worker.given == [[]]
    assert (worker.newest.status, worker.newest.name) == (Status.FINISHED, CONFIG.name)
    assert worker.newest.key == CONFIG.key


def test_earlier_attempts_are_given_to_the_training_to_resume(worker: Worker) -> None:
    attempts = [leave_attempt(worker.parent, status) for status in ("KILLED", "FAILED")]
    worker.run()
    assert worker.given == [attempts]


def test_a_trial_that_another_worker_has_finished_is_not_run_again(worker: Worker) -> None:
    leave_attempt(worker.parent, "FINISHED")
    worker.run_again()
    assert worker.given == []


def test_a_run_of_another_round_is_no_attempt_at_this_one(worker: Worker) -> None:
    other = leave_attempt(worker.parent, "FINISHED")
    mlflow.MlflowClient().set_tag(other, "round", "1")
    options = TrialOptions(1, restarts=True, round=2)
    run_child(CONFIG, worker.data, options, worker.parent, [], worker._train)
    assert worker.given == [[]]


def test_no_trial_runs_once_the_study_has_ended(worker: Worker) -> None:
    mlflow.MlflowClient().set_terminated(worker.parent.run_id, "KILLED")
    worker.run()
    assert worker.given == []
    assert query.children(worker.parent) == []


def test_no_trial_runs_once_the_last_ones_failed_alike(worker: Worker) -> None:
    def fail() -> None:
        raise OSError("the disk is full")

    worker.outcome = fail
    for _ in range(3):
        worker.run(max_same_failures=2)
    assert len(worker.given) == 2
    assert query.read(worker.parent.run_id).stopped == "OSError: the disk is full"


def test_a_trial_that_does_not_fail_searches_for_no_other(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = [query.read(leave_attempt(worker.parent, "FAILED"))]
    searched: list[str] = []
    monkeypatch.setattr(query, "search", lambda _, where, *__: searched.append(where))
    run_child(CONFIG, worker.data, TrialOptions(1), worker.parent, attempts, worker._train)
    assert worker.given == [[attempts[0].run_id]]
    assert searched == []


def test_a_running_attempt_whose_worker_died_counts_as_a_failure(worker: Worker) -> None:
    attempt = leave_attempt(worker.parent)
    worker.run_again(retries=1)
    assert worker.given == [[attempt]]
    ended = query.read(attempt)
    assert (ended.status, ended.failure) == (Status.FAILED, "worker_died")
    assert ended.end_reason.startswith("WorkerDied: ")


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_trial_whose_workers_die_is_run_no_more_often_than_retries_allow(
    worker: Worker, retries: int
) -> None:
    for _ in range(retries):
        leave_attempt(worker.parent, "FAILED", failure="worker_died")
    attempt = leave_attempt(worker.parent)
    worker.run_again(retries)
    assert worker.given == []
    assert query.read(attempt).status == Status.FAILED


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (Diverged("the loss is nan"), "diverged"),
        (WorkerDied(), "worker_died"),
        (OSError("the disk is full"), "error"),
    ],
)
def test_a_failure_ends_the_run_failed_with_its_cause_and_goes_no_further(
    worker: Worker, error: Exception, failure: str
) -> None:
    def fail() -> None:
        raise error

    worker.outcome = fail
    worker.run()
    assert (worker.newest.status, worker.newest.failure) == (Status.FAILED, failure)
    assert worker.newest.end_reason == f"{type(error).__name__}: {error}"
    trace = query.read_file(worker.newest.run_id, "traceback.txt").decode()
    assert trace.splitlines()[-1].endswith(str(error))


def test_an_interruption_ends_the_run_killed_and_reaches_the_command(worker: Worker) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    worker.outcome = interrupt
    with pytest.raises(KeyboardInterrupt):
        worker.run()
    assert (worker.newest.status, worker.newest.failure) == (Status.KILLED, "interrupted")
    assert not worker.newest.was_tried
    assert query.find_file(worker.newest.run_id, "traceback.txt") is None


def test_a_worker_whose_run_was_resumed_by_another_stops_quietly(worker: Worker) -> None:
    def superseded() -> None:
        tracking.end_run(query.active().run_id, "resumed")
        tracking.raise_if_superseded()

    worker.outcome = superseded
    worker.run()
    assert (worker.newest.status, worker.newest.end_reason) == (Status.KILLED, "resumed")
    assert worker.newest.failure is None


def test_too_few_images_for_the_validation_are_refused_before_there_is_a_run(
    small_cifar10: DataSet,
) -> None:
    with pytest.raises(UsageError, match=r"validation_fraction=0.9999: of \d+ training images"):
        run_trial(TrialConfig(validation_fraction=0.9999), small_cifar10, OPTIONS, "auto")
    assert not query.search("0", "")


@pytest.mark.parametrize("error", [UsageError("a wrong value"), Superseded("0" * 32)])
def test_wrong_input_and_a_resumed_run_end_the_command_too(error: Exception) -> None:
    with pytest.raises(type(error)), trial_run(CONFIG, None, OPTIONS):
        raise error


def test_an_interrupt_that_tensorflow_made_another_error_of_is_still_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial, "interruptions", ["SIGINT"])
    with (
        pytest.raises(KeyboardInterrupt, match="SIGINT"),
        trial_run(CONFIG, None, OPTIONS) as run,
    ):
        raise AssertionError("Nesting violated for default stack")
    ended = query.read(run.run_id)
    assert (ended.status, ended.failure) == (Status.KILLED, Failure.INTERRUPTED)


def test_a_store_that_cannot_end_the_run_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("the disk is full")

    with (
        pytest.raises(OSError, match="the disk is full"),
        monkeypatch.context() as patch,
        trial_run(CONFIG, None, OPTIONS),
    ):
        patch.setattr(mlflow, "set_tags", full)
        patch.setattr(mlflow, "end_run", full)
        raise Diverged("the loss is nan")
    mlflow.end_run()
