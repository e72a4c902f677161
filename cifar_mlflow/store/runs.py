"""What a run is: MLflow's `Run` by the names of this project's tags and metrics."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import mlflow
from mlflow.entities import Run

from cifar_mlflow.errors import Failure
from cifar_mlflow.processes import Process
from cifar_mlflow.training.origin import OF_A_CHECKPOINT, Origin

# Tags.
KIND = "kind"  # the name of the run's entry point, or one of these two
TRIAL, REFIT = "trial", "refit"  # a refit is a study's best trial, trained again on all images
TRIAL_KEY = "trial_key"  # TrialConfig.key
PLAN_KEY = "plan_key"  # of what a command computes: its trials and its data
DATA_DIGEST = "data_digest"
MODEL_URI = "model_uri"
END_REASON = "end_reason"  # why a run did not finish, as text
FAILURE = "failure"  # errors.Failure
STOPPED = "stopped"  # on a study: the reason that its last trials all failed for
BEST = "best"  # on one child of a study
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


@dataclass(frozen=True)
class Parent:
    """The parent run of a study's trials: all that another process needs to add a child."""

    tracking_uri: str
    experiment_id: str
    run_id: str

    def connect(self) -> None:
        """Use the tracking store that the parent is in, in this process."""
        mlflow.set_tracking_uri(self.tracking_uri)


@dataclass(frozen=True)
class TrackedRun:
    """A run as the store returned it, by the names of this project's tags and metrics."""

    entity: Run

    @property
    def run_id(self) -> str:
        return str(self.entity.info.run_id)

    @property
    def name(self) -> str:
        return str(self.entity.info.run_name)

    @property
    def experiment_id(self) -> str:
        return str(self.entity.info.experiment_id)

    @property
    def status(self) -> Status:
        return Status(self.entity.info.status)

    @property
    def started(self) -> datetime:
        return datetime.fromtimestamp(self.entity.info.start_time / 1000, UTC)

    @property
    def ended(self) -> datetime | None:
        milliseconds = self.end_time
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None

    @property
    def end_time(self) -> int:
        """Milliseconds since 1970; 0 while it runs."""
        return int(self.entity.info.end_time or 0)

    @property
    def parameters(self) -> dict[str, str]:
        return dict(self.entity.data.params)

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        return dict(self.entity.data.metrics)

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.entity.data.tags)

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
        return str(self.entity.data.tags.get(name, ""))
