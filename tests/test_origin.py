"""What a trial has in common with what it goes on from, or is told apart from."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable

import mlflow
import pytest

from cifar_mlflow import origin, resuming, tracking, training, trial
from cifar_mlflow.checkpoint import Checkpoint
from cifar_mlflow.config import TrainingOptions, TrialConfig
from cifar_mlflow.data import Cifar10
from tests.conftest import PROJECT

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


# TensorFlow's own answer, in a process that imports nothing before the project.
ENABLED = """
import cifar_mlflow.training
from cifar_mlflow.origin import environment
from tensorflow.python.util import _pywrap_util_port
print(_pywrap_util_port.IsMklEnabled(), environment()["onednn"])
"""


@pytest.mark.parametrize(("given", "expected"), [(None, "True on"), ("0", "False off")])
def test_onednn_is_on_unless_the_user_has_switched_it_off(given: str | None, expected: str) -> None:
    variable = "TF_ENABLE_ONEDNN_OPTS"
    environment = {name: value for name, value in os.environ.items() if name != variable}
    if given is not None:
        environment[variable] = given
    command = [sys.executable, "-c", ENABLED]
    printed = subprocess.check_output(
        command, cwd=PROJECT, env=environment, text=True, stderr=subprocess.DEVNULL
    )
    assert printed.strip() == expected


def test_the_variable_is_set_before_any_module_of_the_project_runs() -> None:
    program = (
        "import os, sys; import cifar_mlflow; "
        "print(os.environ['TF_ENABLE_ONEDNN_OPTS'], 'tensorflow' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    command = [sys.executable, "-c", program]
    printed = subprocess.check_output(command, cwd=PROJECT, env=environment, text=True)
    assert printed.split() == ["1", "False"]


# Checkpoints ----------------------------------------------------------------------------------


@pytest.fixture
def first_epoch(small_cifar10: Cifar10) -> Checkpoint:
    told: list[Checkpoint] = []
    config = CONFIG.model_copy(update={"epochs": 1})
    training.train(config, small_cifar10.split(0.2), told.append)
    return told[-1]


class _Begun(Exception):
    """The training would begin now."""


Resume = Callable[[Checkpoint], tuple[tracking.TrialRun, list[str], Checkpoint | None]]


@pytest.fixture
def resume(small_cifar10: Cifar10, monkeypatch: pytest.MonkeyPatch) -> Resume:
    """Runs a trial that finds a checkpoint: gives its run, what it says, and where it starts."""
    monkeypatch.setattr(resuming, "CLAIM_SECONDS", 0.0)
    started: list[Checkpoint | None] = []

    def train(*_: object, start: Checkpoint | None, **__: object) -> None:
        started.append(start)
        raise _Begun

    def run(checkpoint: Checkpoint) -> tuple[tracking.TrialRun, list[str], Checkpoint | None]:
        with tracking.tracked_run("trial") as before:
            resuming.save_checkpoint(checkpoint)
            plan = resuming.plan_key([CONFIG], small_cifar10)
            mlflow.set_tag(resuming.PLAN_KEY, plan)
        mlflow.MlflowClient().set_terminated(before.info.run_id, "FAILED")
        lines: list[str] = []
        monkeypatch.setattr(training, "train", train)
        options = TrainingOptions()
        ended = trial.run_trial(
            CONFIG, small_cifar10, options, 1, lambda topic, text: lines.append(f"{topic} {text}")
        )
        return ended, lines, started.pop()

    return run


def test_a_trial_goes_on_from_a_checkpoint_of_the_same_origin(
    resume: Resume, first_epoch: Checkpoint
) -> None:
    run, lines, start = resume(first_epoch)
    assert lines == ["Resuming after epoch 1"]
    assert start is not None
    assert start.history == first_epoch.history
    assert run.checkpoint_lost == ""
    assert run.origin == training.origin(CONFIG)


@pytest.mark.parametrize("part", origin.OF_A_CHECKPOINT)
def test_a_trial_begins_again_where_the_checkpoint_is_of_another_origin_and_names_what_differs(
    resume: Resume, first_epoch: Checkpoint, part: str
) -> None:
    theirs = {**first_epoch.origin, part: "another"}
    run, lines, start = resume(dataclasses.replace(first_epoch, origin=theirs))
    now = first_epoch.origin[part]
    assert start is None
    assert run.checkpoint_lost.endswith(f"of another origin: {part} another, now {now}")
    assert lines == [
        f"Retrained from the first epoch; the checkpoint is lost: {run.checkpoint_lost}"
    ]


def test_a_trial_begins_again_where_the_checkpoint_does_not_say_its_origin(
    resume: Resume, first_epoch: Checkpoint
) -> None:
    run, lines, start = resume(dataclasses.replace(first_epoch, origin={}))
    assert start is None
    assert "network unknown, now " in run.checkpoint_lost
    assert len(lines) == 1


def test_a_trial_begins_again_where_the_arrays_of_the_checkpoint_do_not_fit(
    resume: Resume, first_epoch: Checkpoint
) -> None:
    run, lines, start = resume(dataclasses.replace(first_epoch, network=first_epoch.network[1:]))
    assert start is None
    assert "do not have the shapes" in run.checkpoint_lost
    assert len(lines) == 1
