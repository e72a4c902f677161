"""Which trials a study runs, in which order, and when it stops: with trials that train nothing."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import Cifar10
from cifar_mlflow.parameters import GridParameters, StudyOptions, expand
from cifar_mlflow.store import resume, tracking
from cifar_mlflow.study import runner, trial
from cifar_mlflow.study.engines import Engine, Jobs

pytestmark = pytest.mark.usefixtures("store")
RATES = [1.0, 2.0, 3.0, 4.0, 5.0]


class Diverged(ArithmeticError):
    """As training raises it."""


# By learning rate, what a trial raises; one without finishes.
Outcomes = Mapping[float, BaseException | Callable[[], BaseException]]
Train = Callable[[Outcomes], tuple[list[float], str | None]]


def one_by_one(jobs: Jobs) -> list[Any]:
    return [run(*arguments, **named) for run, arguments, named in jobs]


def plan() -> tuple[list[TrialConfig], StudyOptions]:
    rates = ",".join(map(str, RATES))
    options = GridParameters.model_validate(
        {"activation": "relu", "batch_size": "32", "optimizer": "sgd", "learning_rate": rates}
    )
    return expand(options), options


@pytest.fixture
def train(small_cifar10: Cifar10, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Runs a study, or goes on with it; gives the rates in the order tried, and the cause it gives."""

    before: list[Any] = []

    def train(outcomes: Outcomes) -> tuple[list[float], str | None]:
        tried = []

        def pretend(config: TrialConfig, *_: object) -> None:
            tried.append(config.learning_rate)
            if outcome := outcomes.get(config.learning_rate):
                raise outcome if isinstance(outcome, BaseException) else outcome()

        monkeypatch.setattr(trial, "_run", pretend)
        trials, options = plan()
        with tracking.tracked_run("grid") as run:
            parent = tracking.as_parent(run)
            resume.adopt_trials(resume.left_trials(before, parent), before, parent)
            before[:] = [SimpleNamespace(run_id=parent.run_id)]
            engine = Engine(1, 1, one_by_one)
            cause = runner.train_all(trials, small_cifar10, engine, options, parent)
        return tried, cause

    return train


def test_trials_that_diverge_stop_no_other_and_are_not_tried_again(train: Train) -> None:
    diverged = dict.fromkeys(RATES[:3], Diverged("the training loss is nan in epoch 1"))
    assert train(diverged) == (RATES, None)


def test_the_same_failure_again_and_again_stops_a_study(train: Train) -> None:
    full = dict.fromkeys(RATES, OSError("the disk is full"))
    assert train(full) == (RATES[:3], "OSError: the disk is full")


def test_a_path_with_the_runs_own_id_makes_no_other_cause(train: Train) -> None:
    def unwritable() -> OSError:
        return OSError(f"mlruns/{tracking.active_id()} is no folder")

    assert train(dict.fromkeys(RATES, unwritable)) == (RATES[:3], "OSError: mlruns/… is no folder")


def test_what_a_study_could_not_try_comes_first_when_it_is_resumed(train: Train) -> None:
    full = dict.fromkeys(RATES[:3], OSError("the disk is full"))
    assert train(full)[0] == RATES[:3]
    assert train({}) == ([4, 5, 1, 2, 3], None)


def test_a_study_that_is_resumed_twice_still_knows_what_it_tried(train: Train) -> None:
    unlucky = dict.fromkeys(RATES[:3], OSError("the disk is full"))
    assert train(unlucky)[0] == RATES[:3]
    stopped = {**unlucky, 4.0: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    assert train({}) == ([4, 5, 1, 2, 3], None)


def test_a_failed_trial_has_the_class_of_its_exception_as_a_tag(train: Train) -> None:
    train({1.0: Diverged("the training loss is nan"), 2.0: OSError("the disk is full")})
    runs = tracking.search("0", f"tags.{tracking.FAILURE} != ''")
    found = {run.data.tags[tracking.FAILURE] for run in runs}
    assert found == {"Diverged", "OSError"}


def test_divergence_has_the_name_that_studies_know_it_by() -> None:
    from cifar_mlflow import errors

    assert errors.Diverged.__name__ == trial.DIVERGED
