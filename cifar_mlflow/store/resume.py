"""Nothing is lost: who goes on from whom, and the checkpoints that this takes.

The store is the only memory. Whoever goes on from an unfinished run is a new run, which takes over
what the run before had: a study its trials, a trial its history and its newest checkpoint. The run
before then ends KILLED and points to its successor; so whoever still writes to it, a worker that was
thought dead for instance, harms nothing, and finds out at its next epoch.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from cifar_mlflow.errors import CheckpointError
from cifar_mlflow.store import tracking
from cifar_mlflow.store.claims import SUPERSEDED_BY, Command
from cifar_mlflow.training.checkpoint import Checkpoint

FOLDER = "checkpoint"


def supersede(run_id: str) -> None:
    """End another run KILLED, pointing to the active one, which has gone on from it."""
    client = mlflow.MlflowClient()
    client.set_tag(run_id, SUPERSEDED_BY, tracking.active_id())
    client.set_terminated(run_id, "KILLED")


def left_trials(before: Sequence[Command], parent: tracking.Parent) -> list[tracking.TrackedRun]:
    """What earlier runs of the study have left; none of it is RUNNING any more.

    Gives the run of each trial that is kept: one that is FINISHED, else one with a checkpoint, else one
    that failed, so that the study knows what it has tried. Of several the newest.
    """
    kept: dict[str, tracking.TrackedRun] = {}
    for command in before:
        for trial in tracking.children(
            tracking.Parent(parent.tracking_uri, parent.experiment_id, command.run_id)
        ):
            if trial.status == "RUNNING":
                tracking.end_run(
                    trial.run_id, "KILLED", f"its study, run {command.run_id}, was killed"
                )
            present = kept.get(trial.key)
            if any(_worth(trial)) and (present is None or _worth(trial) >= _worth(present)):
                kept[trial.key] = trial
    return list(kept.values())


def adopt_trials(
    kept: Sequence[tracking.TrackedRun], before: Sequence[Command], parent: tracking.Parent
) -> None:
    """Hang trials that earlier runs of the study have left under the active one; they end KILLED."""
    client = mlflow.MlflowClient()
    for trial in kept:
        client.set_tag(trial.run_id, tracking.PARENT, parent.run_id)
        if trial.status == "FAILED":  # by a cause that is gone, for all that anyone knows
            client.set_terminated(trial.run_id, "KILLED")
        if trial.status == "FINISHED" and trial.checkpoint:
            delete_checkpoint(trial.run_id)
    for command in before:
        supersede(command.run_id)


def _worth(trial: tracking.TrackedRun) -> tuple[bool, bool, bool]:
    return trial.status == "FINISHED", bool(trial.checkpoint), bool(trial.failure)


def adopt_parts(before: Sequence[Command]) -> dict[str, tracking.TrackedRun]:
    """Hang the finished parts of earlier commands under the active run; gives them by their kinds.

    Of each kind the newest; a grid only if it is of the network that the comparison found the best, and
    an evaluation only if it is of the grid's best model.
    """
    client, active = mlflow.MlflowClient(), tracking.active_id()
    finished = [
        part
        for command in before
        if (left := tracking.find_run(command.run_id))
        for part in tracking.children(left.as_parent())
        if part.status == "FINISHED"
    ]
    kept: dict[str, tracking.TrackedRun] = {}

    def keep(kind: str, **made_of: str | None) -> None:
        for part in finished:
            if part.kind == kind and made_of.items() <= part.parameters.items():
                kept[kind] = part

    def found(kind: str, tag: str) -> str | None:
        return kept[kind].tags.get(tag) if kind in kept else None

    keep("data")
    keep("architectures")
    keep("grid", architecture=found("architectures", "best_architecture"))
    keep("evaluate", model=found("grid", "best_run_id"))
    for part in kept.values():
        client.set_tag(part.run_id, tracking.PARENT, active)
    for command in before:
        supersede(command.run_id)
    return kept


def go_on_from(
    before: Sequence[tracking.TrackedRun], check: Callable[[Checkpoint], None]
) -> Checkpoint | None:
    """Take over, in the active run, the newest checkpoint of earlier runs of the same trial.

    The history until then is logged again, so that the curves of the active run are whole. Where a
    checkpoint is lost the trial begins again, and the tag ``checkpoint_lost`` says why.

    Args:
        before: the oldest first; those that others have superseded are left as they are.
        check: raises CheckpointError for a checkpoint of another training, which counts as lost.
    """
    checkpoint = None
    with_one = [trial for trial in before if trial.checkpoint]
    if with_one:
        newest = with_one[-1]
        try:
            checkpoint = load_checkpoint(newest)
            check(checkpoint)
        except CheckpointError as error:
            checkpoint = None
            mlflow.set_tag(tracking.CHECKPOINT_LOST, f"run {newest.run_id}: {error}")
        else:
            mlflow.set_tag(tracking.RESUMED_FROM, newest.run_id)
            tracking.log_epochs(checkpoint.history[:-1])
            save_checkpoint(checkpoint)
    for trial in before:
        if trial.checkpoint or trial.status in ("RUNNING", "FAILED"):
            supersede(trial.run_id)
            delete_checkpoint(trial.run_id)
    return checkpoint


# Checkpoints ----------------------------------------------------------------------------------


def save_checkpoint(checkpoint: Checkpoint) -> None:
    """Keep where the active run stands, and log its newest epoch.

    Atomic: the file goes where the newest whole checkpoint is not, and a tag then points to it.
    """
    epoch = checkpoint.history[-1]
    content = checkpoint.to_bytes()
    name = f"{epoch.epoch % 2}.npz"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(content)
        mlflow.log_artifact(str(Path(folder, name)), FOLDER)
    pointer = {
        "file": f"{FOLDER}/{name}",
        "epoch": epoch.epoch,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    tracking.log_epochs([epoch], {tracking.CHECKPOINT: json.dumps(pointer)})


def load_checkpoint(trial: tracking.TrackedRun) -> Checkpoint:
    """Raises CheckpointError where the newest checkpoint is missing or not as it was saved."""
    pointer = json.loads(trial.checkpoint)
    try:
        content = tracking.read_file(trial.run_id, pointer["file"])
    except (MlflowException, OSError) as error:
        raise CheckpointError(f"{pointer['file']} cannot be read ({error})") from error
    if hashlib.sha256(content).hexdigest() != pointer["sha256"]:
        raise CheckpointError(f"{pointer['file']} is damaged: its SHA-256 is not as saved")
    return Checkpoint.from_bytes(content)


def delete_checkpoint(run_id: str) -> None:
    """Remove a run's checkpoint, which it or its successor no longer needs."""
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    if tracking.CHECKPOINT in run.data.tags:
        client.delete_tag(run_id, tracking.CHECKPOINT)
        get_artifact_repository(run.info.artifact_uri).delete_artifacts(FOLDER)
