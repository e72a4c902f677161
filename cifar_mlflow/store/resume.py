"""Resume interrupted runs: take over trials, restore checkpoints.

A command that resumes an unfinished run is a new run, which takes over what the previous run had: a
study its trials, a trial its history and its newest checkpoint. The previous run then ends KILLED and
points to its successor. A worker wrongly presumed dead can keep writing to it harmlessly, and stops at
its next epoch.
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
from cifar_mlflow.store import query, runs, tracking
from cifar_mlflow.store.claims import SUPERSEDED_BY, UnfinishedRun
from cifar_mlflow.store.runs import Parent, Status, TrackedRun
from cifar_mlflow.training.checkpoint import Checkpoint

FOLDER = "checkpoint"


def supersede(run_id: str) -> None:
    """End another run KILLED, with a pointer to the active run, which has resumed it."""
    client = mlflow.MlflowClient()
    client.set_tag(run_id, SUPERSEDED_BY, query.active().run_id)
    client.set_terminated(run_id, Status.KILLED)


# Studies --------------------------------------------------------------------------------------


def previous_trials(previous: Sequence[UnfinishedRun], parent: Parent) -> list[TrackedRun]:
    """The trials of previous runs of a study that are worth taking over; none is RUNNING any more.

    One run for each trial: a FINISHED one, else one that is PAUSED or has a checkpoint, else one that
    failed, so that the study knows what it has tried. Of several such runs the one that got furthest, and
    of those the newest.
    """
    chosen: dict[str, TrackedRun] = {}
    for study in previous:
        for trial in query.children(
            Parent(parent.tracking_uri, parent.experiment_id, study.run_id)
        ):
            if trial.status == Status.RUNNING:
                tracking.end_run(trial.run_id, f"its study, run {study.run_id}, was killed")
            present = chosen.get(trial.key)
            if any(_worth(trial)) and (present is None or _worth(trial) >= _worth(present)):
                chosen[trial.key] = trial
    return list(chosen.values())


def _worth(trial: TrackedRun) -> tuple[bool, int, bool]:
    finished = trial.status == Status.FINISHED
    part_done = not finished and (trial.status == Status.PAUSED or bool(trial.checkpoint))
    epochs = max(1, trial.epochs, _checkpoint_epoch(trial)) if part_done else 0
    return finished, epochs, trial.was_tried


def adopt_trials(
    trials: Sequence[TrackedRun], previous: Sequence[UnfinishedRun], parent: Parent
) -> None:
    """Re-parent trials of previous runs of the study to the active run; those runs end KILLED.

    The trials that they keep lose their checkpoints, which nothing looks at any more.
    """
    client = mlflow.MlflowClient()
    for trial in trials:
        client.set_tag(trial.run_id, runs.PARENT, parent.run_id)
        # The cause may be gone, so it gets another chance, unless its search has built on the failure.
        if trial.status == Status.FAILED and not trial.given_up:
            client.set_terminated(trial.run_id, Status.KILLED)
        if trial.status == Status.FINISHED and trial.checkpoint:
            delete_checkpoint(trial.run_id)
    for study in previous:
        supersede(study.run_id)
        for left in query.children(
            Parent(parent.tracking_uri, parent.experiment_id, study.run_id),
            f"tags.{runs.CHECKPOINT} != ''",
        ):
            delete_checkpoint(left.run_id)


def adopt_parts(previous: Sequence[UnfinishedRun]) -> dict[str, TrackedRun]:
    """Re-parent the finished parts of previous `reproduce` runs to the active run; gives them by kind.

    Of each kind the newest. A grid only if it is of the network that the comparison chose, and an
    evaluation only if it is of the grid's best model.
    """
    client, active = mlflow.MlflowClient(), query.active().run_id
    finished = [
        part
        for command in previous
        if (run := query.find_run(command.run_id))
        for part in query.children(run.as_parent())
        if part.status == Status.FINISHED
    ]
    adopted: dict[str, TrackedRun] = {}

    def adopt(kind: str, **required: str | None) -> None:
        for part in finished:
            if part.kind == kind and required.items() <= part.parameters.items():
                adopted[kind] = part

    def tag(kind: str, name: str) -> str | None:
        return adopted[kind].tags.get(name) if kind in adopted else None

    adopt("data")
    adopt("architectures")
    adopt("grid", architecture=tag("architectures", runs.BEST_ARCHITECTURE))
    adopt("evaluate", model=tag("grid", runs.BEST_RUN_ID))
    for part in adopted.values():
        client.set_tag(part.run_id, runs.PARENT, active)
    for command in previous:
        supersede(command.run_id)
    return adopted


# Trials and their checkpoints -----------------------------------------------------------------


def resume_from(
    attempts: Sequence[TrackedRun], check: Callable[[Checkpoint], None]
) -> Checkpoint | None:
    """Take over, in the active run, the furthest checkpoint of previous attempts at the same trial.

    Its history is logged again, so that the curves of the active run are whole; unless it is the active
    run's own, which was paused. If the checkpoint is lost, the trial starts over and the tag
    ``checkpoint_lost`` says why.

    Args:
        attempts: the oldest first; those that other runs have superseded are left as they are.
        check: raises CheckpointError for a checkpoint of another training, which counts as lost.
    """
    active = query.active().run_id
    checkpoint, lost = None, ""
    for attempt in sorted(attempts, key=_checkpoint_epoch)[::-1]:
        if not attempt.checkpoint:
            continue
        try:
            checkpoint = load_checkpoint(attempt)
            check(checkpoint)
        except CheckpointError as error:
            checkpoint, lost = None, lost or f"run {attempt.run_id}: {error}"
            continue
        if attempt.run_id != active:
            mlflow.set_tag(runs.RESUMED_FROM, attempt.run_id)
            tracking.log_epochs(checkpoint.history[:-1])
            save_checkpoint(checkpoint)
        break
    if lost and not checkpoint:
        mlflow.set_tag(runs.CHECKPOINT_LOST, lost)
        if query.active().outdated:  # of a paused run, which now starts over as it is today
            mlflow.set_tag(runs.OUTDATED, "")
    for attempt in attempts:
        if attempt.run_id == active:
            continue
        if attempt.checkpoint or attempt.status in (Status.RUNNING, Status.FAILED):
            supersede(attempt.run_id)
            delete_checkpoint(attempt.run_id)
    return checkpoint


def _checkpoint_epoch(trial: TrackedRun) -> int:
    """The epoch of a trial's newest checkpoint; 0 without one."""
    return int(json.loads(trial.checkpoint)["epoch"]) if trial.checkpoint else 0


def save_checkpoint(checkpoint: Checkpoint) -> None:
    """Save a checkpoint of the active run, and log its newest epoch.

    Atomic: the file does not overwrite the previous checkpoint, and a tag then points to it. The metrics
    follow: of a run that is killed before them the checkpoint has the epoch, so it is not trained again.
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
    mlflow.set_tag(runs.CHECKPOINT, json.dumps(pointer))
    tracking.log_epochs([epoch])


def load_checkpoint(trial: TrackedRun) -> Checkpoint:
    """The newest checkpoint of a trial.

    Raises:
        CheckpointError: it is missing, or not as it was saved.
    """
    pointer = json.loads(trial.checkpoint)
    try:
        content = query.read_file(trial.run_id, pointer["file"])
    except (MlflowException, OSError) as error:
        raise CheckpointError(f"{pointer['file']} cannot be read ({error})") from error
    if hashlib.sha256(content).hexdigest() != pointer["sha256"]:
        raise CheckpointError(f"{pointer['file']} is damaged: its SHA-256 is not as saved")
    return Checkpoint.from_bytes(content)


def delete_checkpoint(run_id: str) -> None:
    """Delete a run's checkpoint, which neither it nor its successor needs any more."""
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    if runs.CHECKPOINT in run.data.tags:
        client.delete_tag(run_id, runs.CHECKPOINT)
        get_artifact_repository(run.info.artifact_uri).delete_artifacts(FOLDER)
