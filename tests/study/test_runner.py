"""Which trials a study runs, in which order, and when it stops; with a fake engine and training."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import joblib
import mlflow
import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.errors import Diverged, Superseded, WorkerDied
from cifar_mlflow.parameters import GridParameters, expand
from cifar_mlflow.store import claims, query, resume, tracking
from cifar_mlflow.store.runs import (
    CHECKPOINT_LOST,
    KIND,
    REFIT,
    REFIT_OF,
    TRIAL,
    TRIAL_KEY,
    Parent,
    Status,
    TrackedRun,
)
from cifar_mlflow.study import runner
from cifar_mlflow.study.engines import Engine, Jobs
from cifar_mlflow.study.progress import Watch
from cifar_mlflow.study.summary import Finished
from cifar_mlflow.study.trial import TrialOptions
from cifar_mlflow.training.checkpoint import Checkpoint, Epoch
from tests.conftest import Screen

pytestmark = pytest.mark.usefixtures("store")
RATES = [1.0, 2.0, 3.0, 4.0, 5.0]
Outcome = BaseException | Callable[[], BaseException]


def one_by_one(jobs: Jobs) -> list[Any]:
    return [run(*arguments, **named) for run, arguments, named in jobs]


@dataclass
class Study:
    """A study of five learning rates; each call of `run` is a command that resumes the one before."""

    data: DataSet
    run_jobs: Callable[[Jobs], list[Any]] = one_by_one
    workers: int = 1
    tried: list[float] = field(default_factory=list)  # by the last command, in order
    previous: list[claims.UnfinishedRun] = field(default_factory=list)

    def run(
        self, outcomes: Mapping[float, Outcome] = {}, rates: Iterable[float] = RATES, **options: str
    ) -> str | None:
        """Run the trials; gives the reason that the study stopped for.

        Args:
            outcomes: by learning rate, what a trial raises; one without an outcome finishes.
        """
        factors = {"activation": "relu", "batch_size": "32", "optimizer": "sgd"}
        rate = ",".join(map(str, rates))
        parameters = GridParameters.model_validate(factors | {"learning_rate": rate} | options)
        self.tried = []

        def train(config: TrialConfig, *_: object) -> None:
            assert isinstance(config.learning_rate, float)
            self.tried.append(config.learning_rate)
            if outcome := outcomes.get(config.learning_rate):
                raise outcome if isinstance(outcome, BaseException) else outcome()

        with tracking.tracked_run("grid") as run:
            parent = run.as_parent()
            trials = resume.previous_trials(self.previous, parent)
            resume.adopt_trials(trials, self.previous, parent)
            self.previous = [claims.UnfinishedRun.of(run)]
            engine = Engine(self.workers, 1, self.run_jobs)
            each = TrialOptions.of(parameters, engine)
            return runner.train_all(expand(parameters), self.data, engine, each, parent, train)

    @property
    def trials(self) -> list[TrackedRun]:
        """All runs of trials under the last command, the oldest first."""
        return query.children(query.read(self.previous[0].run_id).as_parent())


@pytest.fixture
def study(small_cifar10: DataSet) -> Study:
    return Study(small_cifar10)


def test_every_trial_runs_once_if_none_fails(study: Study) -> None:
    assert study.run() is None
    assert study.tried == RATES
    assert {run.status for run in study.trials} == {Status.FINISHED}


# Failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_trial_that_fails_is_retried_after_the_others(study: Study, retries: int) -> None:
    attempts = iter(range(100))
    failing = {2.0: lambda: OSError(f"attempt {next(attempts)}")}
    assert study.run(failing, retries=str(retries)) is None
    assert study.tried == RATES + [2.0] * retries


def test_a_trial_that_succeeds_on_its_retry_has_finished(study: Study) -> None:
    def fail_once() -> BaseException:
        failing.clear()
        return OSError("a passing fault")

    failing: dict[float, Callable[[], BaseException]] = {2.0: fail_once}
    assert study.run(failing) is None
    assert study.tried == [*RATES, 2.0]
    assert {run.status for run in query.latest(study.trials).values()} == {Status.FINISHED}


def test_trials_that_diverge_do_not_stop_the_study_and_are_not_retried(study: Study) -> None:
    assert study.run(dict.fromkeys(RATES[:3], Diverged("the loss is nan"))) is None
    assert study.tried == RATES
    assert [run.failure for run in study.trials[:3]] == ["diverged"] * 3


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_study_stops_after_so_many_same_failures(study: Study, number: int) -> None:
    full = dict.fromkeys(RATES, OSError("the disk is full"))
    assert study.run(full, max_same_failures=str(number)) == "OSError: the disk is full"
    assert study.tried == RATES[:number]


def test_failures_are_the_same_although_their_messages_contain_their_run_ids(study: Study) -> None:
    def unwritable() -> OSError:
        return OSError(f"mlruns/{query.active().run_id} is not a folder")

    assert study.run(dict.fromkeys(RATES, unwritable)) == "OSError: mlruns/… is not a folder"
    assert study.tried == RATES[:3]


def test_different_failures_do_not_stop_a_study(study: Study) -> None:
    different = {rate: OSError(f"cause {rate}") for rate in RATES}
    assert study.run(different, retries="0") is None
    assert study.tried == RATES


# Workers that die -----------------------------------------------------------------------------


class Workers:
    """Two workers that run jobs in pairs; by learning rate, how often the worker of a trial dies."""

    def __init__(self, deaths: Mapping[float, int]) -> None:
        self.deaths = dict(deaths)
        self.rounds: list[list[float]] = []  # the trials that each call was given

    def __call__(self, jobs: Jobs) -> list[Any]:
        self.rounds.append([arguments[0].learning_rate for _, arguments, _ in jobs])
        for pair in (jobs[start : start + 2] for start in range(0, len(jobs), 2)):
            if any(self._dies(job) for job in pair):
                for _, (config, _, _, parent, *_), _ in pair:
                    leave_running(config, parent)
                raise WorkerDied
            one_by_one(pair)
        return []

    def _dies(self, job: Any) -> bool:
        rate = job[1][0].learning_rate
        self.deaths[rate] = self.deaths.get(rate, 0) - 1
        return self.deaths[rate] >= 0


def leave_running(config: TrialConfig, parent: Parent) -> None:
    """The run of a trial whose worker is gone."""
    tags = {KIND: "trial", TRIAL_KEY: config.key, "mlflow.parentRunId": parent.run_id}
    mlflow.MlflowClient().create_run(parent.experiment_id, tags=tags, run_name=config.name)


def statuses(study: Study, rate: float) -> list[tuple[str, str | None]]:
    """Status and failure of the runs of a trial, the oldest first."""
    name = f"learning_rate={rate}"
    return [(run.status, run.failure) for run in study.trials if name in run.name]


def test_trials_that_ran_when_a_worker_died_are_retried_alone(study: Study) -> None:
    study.workers, study.run_jobs = 2, (workers := Workers({2.0: 1}))
    assert study.run() is None
    assert workers.rounds == [RATES, [3.0, 4.0, 5.0], [1.0], [2.0]]
    for rate in (1.0, 2.0):  # nobody knows whose worker died, so neither counts as failed
        assert statuses(study, rate) == [("KILLED", None), ("FINISHED", None)]


def test_a_trial_that_kills_its_worker_alone_too_has_failed(study: Study) -> None:
    study.workers, study.run_jobs = 2, (workers := Workers({2.0: 100}))
    assert study.run(retries="1") is None
    assert workers.rounds == [RATES, [3.0, 4.0, 5.0], [1.0], [2.0], [2.0]]
    failed = ("FAILED", "worker_died")
    assert statuses(study, 2.0) == [("KILLED", None), failed, failed]
    assert statuses(study, 1.0)[-1] == ("FINISHED", None)


def test_a_trial_is_not_to_blame_for_a_worker_that_died_before_it_began(study: Study) -> None:
    study.workers, calls = 2, []

    def dies_first(jobs: Jobs) -> list[Any]:
        calls.append(len(jobs))
        if len(calls) > 1:
            return one_by_one(jobs)
        _, (config, _, _, parent, *_), _ = jobs[0]
        leave_running(config, parent)  # the other worker has not begun its run yet
        raise WorkerDied

    study.run_jobs = dies_first
    assert study.run(retries="0") is None
    assert statuses(study, RATES[0]) == [("KILLED", None), ("FINISHED", None)]


def test_a_failure_counts_once_though_a_worker_dies_before_its_retry(study: Study) -> None:
    failures = iter([OSError("a passing fault")])

    def fail_once() -> BaseException:
        failing.clear()
        return next(failures)

    failing: dict[float, Callable[[], BaseException]] = {1.0: fail_once}
    study.workers, study.run_jobs = 2, Workers({3.0: 1, 5.0: 1})
    assert study.run(failing) is None
    assert statuses(study, 1.0) == [("FAILED", "error"), ("KILLED", None), ("FINISHED", None)]


def test_a_finished_trial_keeps_no_checkpoint_though_its_worker_was_killed_in_between() -> None:
    with tracking.tracked_run("grid") as run:
        parent = run.as_parent()
        with runner.shown(Watch(parent, TRIAL, 1, 1)), tracking.tracked_run(TRIAL):
            epoch = Epoch(1, 1.0, 0.5, 1.0, 0.5, 0.1, 1.0)
            resume.save_checkpoint(Checkpoint((epoch,), [], []))
        (trial,) = query.children(parent)
    assert trial.status == Status.FINISHED
    assert not trial.checkpoint


def test_a_trial_that_lost_its_checkpoint_is_named_once(screen: Screen) -> None:
    shown = screen()
    with tracking.tracked_run("grid") as run:
        parent = run.as_parent()
        for name in ("one", "another"):  # and the next command of the study
            with (
                runner.shown(Watch(parent, TRIAL, 1, 1)),
                tracking.tracked_run(TRIAL, name, parent),
            ):
                mlflow.set_tag(CHECKPOINT_LOST, "it is damaged")
    said = [line for line in shown.getvalue().splitlines() if line.startswith("Retrained")]
    assert [line.split()[1] for line in said] == ["one;", "another;"]


def test_a_worker_that_dies_while_no_trial_runs_ends_the_study(study: Study) -> None:
    def die(jobs: Jobs) -> list[Any]:
        raise WorkerDied

    study.run_jobs = die
    with pytest.raises(WorkerDied):
        study.run()


# Resumed and superseded studies ---------------------------------------------------------------


def test_a_resumed_study_tries_first_what_it_could_not_try_before(study: Study) -> None:
    assert study.run(dict.fromkeys(RATES[:3], OSError("the disk is full")))
    assert study.run() is None
    assert study.tried == [4, 5, 1, 2, 3]


def test_a_study_that_is_resumed_twice_still_knows_what_it_tried(study: Study) -> None:
    full = dict.fromkeys(RATES[:3], OSError("the disk is full"))
    study.run(full)
    with pytest.raises(KeyboardInterrupt):
        study.run({**full, 4.0: KeyboardInterrupt()})
    assert study.run() is None
    assert study.tried == [4, 5, 1, 2, 3]


def test_finished_trials_of_a_resumed_study_are_not_run_again(study: Study) -> None:
    study.run(rates=RATES[:3])
    study.run()
    assert study.tried == RATES[3:]


def test_a_study_that_another_process_resumed_ends_without_further_trials(study: Study) -> None:
    def superseded() -> BaseException:
        (command,) = query.search("0", f"tags.kind = 'grid' and {query.RUNNING}")
        mlflow.MlflowClient().set_terminated(command.run_id, "KILLED")
        return OSError("a failure that would be retried")

    with pytest.raises(Superseded):
        study.run({2.0: superseded})
    assert study.tried == RATES[:2]
    assert query.search("0", "tags.kind = 'grid'")[0].status == Status.KILLED


# The refit ------------------------------------------------------------------------------------


def test_a_finished_refit_is_not_trained_again(study: Study) -> None:
    trial = TrialConfig()
    with tracking.tracked_run("grid") as run:
        parent = run.as_parent()
        with tracking.tracked_run("trial", trial.name, parent, {TRIAL_KEY: trial.key}) as best:
            pass
        again = trial.on_all_images
        with tracking.tracked_run(REFIT, again.name, parent, {TRIAL_KEY: again.key}) as refit:
            pass
        found = runner.refit(Finished(trial, best), study.data, GridParameters(), parent)
        assert found
        assert (found.trial, found.run.run_id) == (again, refit.run_id)
        assert len(query.children(parent)) == 2
    assert query.read(refit.run_id).tags[REFIT_OF] == best.run_id
    assert query.read(run.run_id).tags["refit_run_id"] == refit.run_id


def test_a_refit_has_all_cores_and_if_it_fails_there_is_no_model_and_the_reason_is_shown(
    study: Study, monkeypatch: pytest.MonkeyPatch, screen: Screen
) -> None:
    shown, trial = screen(), TrialConfig()
    engines: list[Engine] = []

    def fail(trials: list[TrialConfig], data: DataSet, engine: Engine, *_: object) -> None:
        engines.append(engine)
        with tracking.tracked_run(REFIT, tags={TRIAL_KEY: trials[0].key}):
            tracking.tag_end_reason("the disk is full")

    monkeypatch.setattr(runner, "run_trials", fail)
    with tracking.tracked_run("grid") as run:
        best = Finished(trial, run)
        assert runner.refit(best, study.data, GridParameters(), run.as_parent()) is None
    (engine,) = engines
    assert (engine.workers, engine.threads) == (1, joblib.cpu_count())
    assert "Failed    the refit: the disk is full" in shown.getvalue()
