"""Which differences in network, versions or oneDNN a resumed trial or study notices."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable

import mlflow
import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.parameters import GridParameters, expand
from cifar_mlflow.store import claims, query, resume, tracking
from cifar_mlflow.store.runs import OUTDATED, PARENT, PLAN_KEY, REFIT, TRIAL_KEY, TrackedRun
from cifar_mlflow.study import engines, runner, trial
from cifar_mlflow.training import fit, origin
from cifar_mlflow.training.checkpoint import Checkpoint
from tests import standin
from tests.conftest import PROJECT, Screen

pytestmark = pytest.mark.usefixtures("store", "tensorflow")
CONFIG = TrialConfig(architecture="small", epochs=2)
NOW = {"network": "0123456789ab", "keras_version": "3.15.1", "onednn": "on"}
PARTS = tuple(NOW)


def test_equal_origins_do_not_differ() -> None:
    assert origin.differences(NOW, dict(NOW), PARTS) == ""


def test_what_differs_is_named_with_both_values() -> None:
    earlier = NOW | {"keras_version": "3.14.0", "onednn": "off"}
    text = "keras_version 3.14.0, now 3.15.1; onednn off, now on"
    assert origin.differences(earlier, NOW, PARTS) == text
    assert origin.differences({}, NOW, ("network",)) == "network unknown, now 0123456789ab"


ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


def test_onednn_is_switched_on_before_any_module_of_the_project_runs() -> None:
    program = (
        "import os, sys; import cifar_mlflow; "
        f"print(os.environ['{ONEDNN}'], 'tensorflow' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != ONEDNN}
    command = [sys.executable, "-c", program]
    printed = subprocess.check_output(command, cwd=PROJECT, env=environment, text=True)
    assert printed.split() == ["1", "False"]


def test_a_trial_says_what_tensorflow_says_of_onednn() -> None:
    from tensorflow.python.util import _pywrap_util_port

    enabled = _pywrap_util_port.IsMklEnabled()
    assert os.environ[ONEDNN] == "1" or not enabled  # some processors have none
    assert origin.environment()["onednn"] == ("on" if enabled else "off")


def test_onednn_is_off_where_the_user_has_switched_it_off() -> None:
    program = (
        "from cifar_mlflow.training.origin import environment; "
        "from tensorflow.python.util import _pywrap_util_port; "
        "print(_pywrap_util_port.IsMklEnabled(), environment()['onednn'])"
    )
    printed = subprocess.check_output(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env=os.environ | {ONEDNN: "0"},
        text=True,
        stderr=subprocess.DEVNULL,
    )
    assert printed.split() == ["False", "off"]


# Checkpoints ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_epoch(tensorflow: None, shared_cifar10: DataSet) -> Checkpoint:
    checkpoints: list[Checkpoint] = []
    config = CONFIG.model_copy(update={"epochs": 1})
    fit.train(config, shared_cifar10, checkpoints.append)
    return checkpoints[-1]


class _Begun(Exception):
    """The training would begin now."""


Resume = Callable[[Checkpoint], tuple[TrackedRun, list[str], Checkpoint | None]]


@pytest.fixture
def resume_trial(small_cifar10: DataSet, monkeypatch: pytest.MonkeyPatch, screen: Screen) -> Resume:
    """Runs a trial that finds a checkpoint: gives its run, what it says, and where it starts."""
    started: list[Checkpoint | None] = []

    def train(*_: object, start: Checkpoint | None, **__: object) -> None:
        started.append(start)
        raise _Begun

    def run(checkpoint: Checkpoint) -> tuple[TrackedRun, list[str], Checkpoint | None]:
        with tracking.tracked_run("trial") as before:
            resume.save_checkpoint(checkpoint)
            plan = claims.plan_key([CONFIG], small_cifar10)
            mlflow.set_tag(PLAN_KEY, plan)
        mlflow.MlflowClient().set_terminated(before.run_id, "FAILED")
        shown = screen()
        monkeypatch.setattr(fit, "train", train)
        ended = trial.run_trial(CONFIG, small_cifar10, trial.TrialOptions(threads=1), "auto")
        return ended, shown.getvalue().splitlines(), started.pop()

    return run


def test_a_trial_resumes_a_checkpoint_of_the_same_origin(
    resume_trial: Resume, first_epoch: Checkpoint
) -> None:
    run, lines, start = resume_trial(first_epoch)
    assert lines == ["Resuming  after epoch 1"]
    assert start is not None
    assert start.history == first_epoch.history
    assert run.checkpoint_lost == ""
    assert run.origin == fit.origin(CONFIG, standin.EMPTY)


@pytest.mark.parametrize("part", origin.OF_A_CHECKPOINT)
def test_a_checkpoint_of_another_origin_is_lost_and_the_trial_says_what_differs(
    resume_trial: Resume, first_epoch: Checkpoint, part: str
) -> None:
    other = {**first_epoch.origin, part: "another"}
    run, lines, start = resume_trial(dataclasses.replace(first_epoch, origin=other))
    now = first_epoch.origin[part]
    assert start is None
    assert run.checkpoint_lost.endswith(f"of another origin: {part} another, now {now}")
    assert lines == [
        f"Retrained from the first epoch; the checkpoint is lost: {run.checkpoint_lost}"
    ]


def test_a_checkpoint_without_an_origin_is_lost(
    resume_trial: Resume, first_epoch: Checkpoint
) -> None:
    run, lines, start = resume_trial(dataclasses.replace(first_epoch, origin={}))
    assert start is None
    assert "network unknown, now " in run.checkpoint_lost
    assert len(lines) == 1


def test_a_checkpoint_whose_arrays_do_not_fit_is_lost(
    resume_trial: Resume, first_epoch: Checkpoint
) -> None:
    run, lines, start = resume_trial(
        dataclasses.replace(first_epoch, network=first_epoch.network[1:])
    )
    assert start is None
    assert "do not have the shapes" in run.checkpoint_lost
    assert len(lines) == 1


# Finished trials ------------------------------------------------------------------------------

OPTIONS = {"activation": "relu", "batch_size": "32", "optimizer": "sgd,adam"}
TRIALS = expand(GridParameters.model_validate(OPTIONS))
# In place of workers.
ENGINE = engines.Engine(1, 1, lambda jobs: [call(*given, **named) for call, given, named in jobs])


@dataclasses.dataclass
class Left:
    """A study that was killed when its two trials had finished."""

    study: str
    runs: dict[str, str]  # of the trials, by name

    screen: Screen

    def resumed(self, **options: str) -> tuple[dict[str, TrackedRun], list[str]]:
        """The trials that a successor takes over, by name, and what it says."""
        output = self.screen()
        with tracking.tracked_run("grid") as run:
            parent = run.as_parent()
            runner.take_over(
                [claims.UnfinishedRun.of(query.read(self.study))],
                TRIALS,
                standin.EMPTY,
                GridParameters.model_validate(OPTIONS | options),
                ENGINE,
                parent,
            )
        kept = {run.name: run for run in query.children(parent)}
        return kept, output.getvalue().splitlines()


@pytest.fixture
def left(screen: Screen) -> Callable[..., Left]:
    def make(**changes: str) -> Left:
        with tracking.tracked_run("grid") as run:
            parent = run.as_parent()
        runs = {}
        for config, different in zip(TRIALS, (changes, {}), strict=True):
            tags = {TRIAL_KEY: config.key}
            with tracking.tracked_run("trial", config.name, parent, tags) as child:
                tracking.log_parameters(config)
                tracking.log_environment(1, {**fit.origin(config, standin.EMPTY), **different})
            runs[config.name] = child.run_id
        mlflow.MlflowClient().set_terminated(parent.run_id, "KILLED")
        return Left(parent.run_id, runs, screen)

    return make


SGD, ADAM = (config.name for config in TRIALS)


def test_finished_trials_of_the_same_origin_are_kept_silently(
    left: Callable[..., Left],
) -> None:
    # oneDNN's kernels change the last bits, not what a trial is.
    kept, lines = left(onednn="off").resumed()
    assert {run.outdated for run in kept.values()} == {""}
    assert kept.keys() == {SGD, ADAM}
    assert [line.split()[0] for line in lines] == ["Resuming"]


@pytest.mark.parametrize("part", origin.OF_A_RESULT)
def test_a_finished_trial_of_another_origin_is_kept_and_marked(
    left: Callable[..., Left], part: str
) -> None:
    kept, lines = left(**{part: "another"}).resumed()
    differing = f"{part} another, now {fit.origin(TRIALS[0], standin.EMPTY)[part]}"
    assert {name: run.outdated for name, run in kept.items()} == {SGD: differing, ADAM: ""}
    assert lines[0].endswith("2 of 2 finished, 0 part-done; nothing left to train")
    assert lines[1].startswith("Outdated  1 trial, kept (outdated=retrain trains them again)")
    assert lines[1].endswith(differing)
    assert len(lines) == 2


def test_a_trial_that_is_not_outdated_any_more_loses_its_mark(left: Callable[..., Left]) -> None:
    before = left()
    mlflow.MlflowClient().set_tag(before.runs[SGD], OUTDATED, "keras_version 3, now 4")
    kept, _ = before.resumed()
    assert kept[SGD].outdated == ""


def test_outdated_trials_are_retrained_on_request(
    left: Callable[..., Left],
) -> None:
    before = left(tensorflow_version="2.20.0")
    kept, lines = before.resumed(outdated="retrain")
    assert kept.keys() == {ADAM}
    assert "1 of 2 finished, 0 part-done; 1 trial, 20 epochs left" in lines[0]
    assert lines[1].startswith("Outdated  1 trial, trained again: tensorflow_version 2.20.0, now ")
    # Nothing is lost: it is a finished trial of its own study still.
    run = mlflow.get_run(before.runs[SGD])
    assert run.info.status == "FINISHED"
    assert run.data.tags[PARENT] == before.study


@pytest.mark.parametrize(("option", "kept"), [("true", True), ("false", False)])
def test_a_refit_is_taken_over_if_the_study_refits_and_counts_as_no_trial(
    left: Callable[..., Left], option: str, kept: bool
) -> None:
    before, config = left(), TRIALS[0].on_all_images
    parent = query.read(before.study).as_parent()
    with tracking.tracked_run(REFIT, config.name, parent, {TRIAL_KEY: config.key}):
        tracking.log_parameters(config)
        tracking.log_environment(1, fit.origin(config, standin.EMPTY))
    children, lines = before.resumed(refit=option)
    assert children.keys() == {SGD, ADAM} | ({config.name} if kept else set())
    assert len(lines) == 1
    assert lines[0].endswith("2 of 2 finished, 0 part-done; nothing left to train")
