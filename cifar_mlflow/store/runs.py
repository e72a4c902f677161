"""What a run is: MLflow's `Run` by the names of this project's tags and metrics."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from sys import intern
from typing import Self

import mlflow
from mlflow.entities import Run

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.errors import Failure
from cifar_mlflow.processes import Process
from cifar_mlflow.training.origin import OF_A_CHECKPOINT, Origin

# Tags.
KIND = "kind"  # the name of the run's entry point, or one of these
TRIAL, REFIT = "trial", "refit"  # a refit is a study's best trial, trained again on all images
CANDIDATE = "candidate"  # a trial that a search proposed: no test images, no model
TRIAL_KEY = "trial_key"  # TrialConfig.key
PLAN_KEY = "plan_key"  # of what a command computes: its trials and its data
DATA_DIGEST = "data_digest"
DATA_NAME = "data_name"  # DataSet.title
REGISTERED_MODEL = "registered_model"  # on a study: the name that its model is a version of
VALIDATION_FRACTION = "validation_fraction"  # a trial's parameter, and a tag of a version
MODEL_URI = "model_uri"
END_REASON = "end_reason"  # why a run did not finish, as text
FAILURE = "failure"  # errors.Failure
STOPPED = "stopped"  # on a study: the reason that its last trials all failed for
BEST = "best"  # on one child of a study
BEST_RUN_ID, BEST_ARCHITECTURE = "best_run_id", "best_architecture"  # of that child, on the study
ROUND = "round"  # of a search, in which a candidate was proposed
PAUSED_AT = "paused_at"  # the epoch after which a candidate waits, perhaps for ever
GIVEN_UP = "given_up"  # on a candidate that failed for good: its search builds on that
REFIT_OF = "refit_of"  # on a refit, and a version of its model: the id of the best trial's run
CHECKPOINT = "checkpoint"  # the newest one's file, epoch and SHA-256, as JSON
RESUMED_FROM = "resumed_from"  # the id of the run that this one resumed
CHECKPOINT_LOST = "checkpoint_lost"  # why a trial had to start over
OUTDATED = "outdated"  # how a finished trial's origin differs from the resumed study's, or empty
# The process that writes the run: its host's name, its id, and what makes the id unique.
HOST, PROCESS, MACHINE, PROCESS_STARTED = "host", "process", "machine", "process_started"
PARENT = "mlflow.parentRunId"


class Status(StrEnum):
    """MLflow's run status."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"  # interrupted, or resumed by another run
    PAUSED = "SCHEDULED"  # a candidate at a rung of its search


@dataclass(frozen=True)
class Parent:
    """The parent run of a study's trials: all that another process needs to add a child."""

    tracking_uri: str
    experiment_id: str
    run_id: str

    def connect(self) -> None:
        """Use the tracking store that the parent is in, in this process."""
        mlflow.set_tracking_uri(self.tracking_uri)


def _unquoted(value: str) -> str:
    """A parameter as it was given: `mlflow run` logs it as it passes it to a shell, with quotes if needed."""
    if not value.startswith("'"):
        return value
    try:
        given, *others = shlex.split(value)
    except ValueError:
        return value
    return given if not others and shlex.quote(given) == value else value


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as the store returned it, by the names of this project's tags and metrics.

    Smaller than MLflow's `Run`, because a study may have ten thousand.
    """

    run_id: str
    name: str
    experiment_id: str
    status: Status
    start_time: int  # milliseconds since 1970
    end_time: int  # the same; 0 while it runs
    parameters: Mapping[str, str]  # as they were given
    metrics: Mapping[str, float]  # the last value of each
    tags: Mapping[str, str]

    @classmethod
    def of(cls, run: Run) -> Self:
        info, data = run.info, run.data
        return cls(
            str(info.run_id),
            str(info.run_name),
            str(info.experiment_id),
            Status(info.status),
            int(info.start_time),
            int(info.end_time or 0),
            # Runs of one study have most of these strings in common.
            {intern(name): intern(_unquoted(value)) for name, value in data.params.items()},
            {intern(name): value for name, value in data.metrics.items()},
            {intern(name): intern(value) for name, value in data.tags.items()},
        )

    @property
    def started(self) -> datetime:
        return datetime.fromtimestamp(self.start_time / 1000, UTC)

    @property
    def ended(self) -> datetime | None:
        return datetime.fromtimestamp(self.end_time / 1000, UTC) if self.end_time else None

    @property
    def config(self) -> TrialConfig:
        """A trial's configuration, from its parameters."""
        fields = TrialConfig.model_fields.keys()
        return TrialConfig.model_validate(
            {name: value for name, value in self.parameters.items() if name in fields}
        )

    @property
    def kind(self) -> str:
        return self._tag(KIND)

    @property
    def key(self) -> str:
        """A trial's `TrialConfig.key`."""
        return self._tag(TRIAL_KEY)

    @property
    def epochs(self) -> int:
        """The number of epochs that a trial has logged."""
        return int(self.metrics.get("epoch", 0))

    @property
    def epochs_planned(self) -> int:
        """The number of epochs that a trial has in all; 0 until it has logged its parameters."""
        return int(self.parameters.get("epochs", 0))

    @property
    def end_reason(self) -> str:
        return self._tag(END_REASON)

    @property
    def stopped(self) -> str:
        """Why a study starts no more trials; empty while it does."""
        return self._tag(STOPPED)

    @property
    def failure(self) -> Failure | None:
        """The cause by which it failed or was interrupted."""
        tag = self._tag(FAILURE)
        return Failure(tag) if tag else None

    @property
    def given_up(self) -> bool:
        """Whether it failed for good, so that it is not tried again even when its search is resumed."""
        return bool(self._tag(GIVEN_UP))

    def has_reached(self, epoch: int | None) -> bool:
        """Whether a trial has finished, or does not run and can go on after this epoch or a later one."""
        if epoch is None or self.status in (Status.FINISHED, Status.RUNNING):
            return self.status == Status.FINISHED
        return self.epochs >= epoch and (self.status == Status.PAUSED or bool(self.checkpoint))

    @property
    def was_tried(self) -> bool:
        """Whether it ended by its own failure, not by an interruption."""
        return self.failure not in (None, Failure.INTERRUPTED)

    @property
    def model_uri(self) -> str | None:
        return self._tag(MODEL_URI) or None

    @property
    def checkpoint(self) -> str:
        """The newest checkpoint's file, epoch and SHA-256 as JSON; empty without one."""
        return self._tag(CHECKPOINT)

    @property
    def checkpoint_lost(self) -> str:
        return self._tag(CHECKPOINT_LOST)

    @property
    def resumed_from(self) -> str:
        return self._tag(RESUMED_FROM)

    @property
    def origin(self) -> Origin:
        """The parts of a trial's origin that the run has as tags."""
        return {part: self.tags[part] for part in OF_A_CHECKPOINT if part in self.tags}

    @property
    def process(self) -> Process:
        """The process that writes it; without such tags, one of no machine."""
        started = self._tag(PROCESS_STARTED)
        return Process(self._tag(MACHINE), int(self._tag(PROCESS) or 0), started)

    @property
    def outdated(self) -> str:
        return self._tag(OUTDATED)

    def as_parent(self) -> Parent:
        return Parent(mlflow.get_tracking_uri(), self.experiment_id, self.run_id)

    def _tag(self, name: str) -> str:
        return self.tags.get(name, "")
