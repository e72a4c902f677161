"""Nothing is lost: who is alive, who goes on from whom, and the checkpoints that this takes.

The store is the only memory. Whoever goes on from an unfinished run is a new run, which takes over
what the run before had: a study its trials, a trial its history and its newest checkpoint. The run
before then ends KILLED and points to its successor; so whoever still writes to it, a worker that was
thought dead for instance, harms nothing, and finds out at its next epoch.
"""

import hashlib
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from cifar_mlflow import tracking
from cifar_mlflow.checkpoint import Checkpoint, CheckpointError
from cifar_mlflow.config import TrialConfig, UsageError
from cifar_mlflow.data import Cifar10

PLAN_KEY = "plan_key"  # of what a command computes: its trials and its data
CLAIMED = "claimed"  # when a command said what it computes; seconds since 1970
LAST_SIGN = "last_sign_of_life"  # seconds since 1970
SUPERSEDED_BY = "superseded_by"  # the run that went on from this one
RESUMED_FROM = "resumed_from"  # the run that this one went on from
BEAT_SECONDS = 10.0
# Longer than a tracking server is away for a restart.
DEAD_SECONDS = 120.0
# A claim is seen by others so soon after the time that it names; clocks may differ by as much again.
VISIBLE_SECONDS = 0.5
CLAIM_SECONDS = 2 * VISIBLE_SECONDS
CLAIM_TRIES = 10
FOLDER = "checkpoint"


def plan_key(trials: Sequence[TrialConfig], data: Cifar10) -> str:
    """What a command computes, as 12 hexadecimal digits: the trials, in any order, and the data."""
    text = "\n".join([data.digest, *sorted(trial.key for trial in trials)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# Who is alive ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """The run of a command that has not finished."""

    run_id: str
    name: str
    status: str
    host: str
    process: int
    claimed: float
    last_sign: float

    def alive(self) -> bool:
        """Whether its process still works on it, as far as can be told from here."""
        if self.status != "RUNNING" or time.time() - self.last_sign > DEAD_SECONDS:
            return False
        return self.host != platform.node() or process_lives(self.process)

    def __str__(self) -> str:
        silent = max(0, round(time.time() - self.last_sign))
        return (
            f"run {self.run_id} ({self.name}), by process {self.process} on {self.host}, "
            f"last sign of life {silent} s ago"
        )


def process_lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):  # no /proc outside Linux
        # The state stands behind the program's name, which may contain anything; Z is a zombie.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


@contextmanager
def claimed(run: Run, key: str, resume: str) -> Iterator[list[Command]]:
    """Say what the run computes, show that it lives, and give the dead runs that it goes on from.

    Args:
        key: `plan_key` of what the run computes.
        resume: ``auto`` for every unfinished run with the same plan in the experiment; ``never`` for
            none; or one run's id.

    Raises:
        UsageError: another process is at work on the same plan, or the run named cannot be resumed.
    """
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    _claim(run_id, key)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            with suppress(MlflowException):  # a store that is away hears of it at the next beat
                client.set_tag(run_id, LAST_SIGN, time.time())

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        try:
            before = _predecessors(client.get_run(run_id), key, resume)
        except UsageError:
            client.delete_tag(run_id, PLAN_KEY)  # it computes nothing that could be gone on from
            raise
        yield before
    finally:
        stop.set()
        heart.join(BEAT_SECONDS)


def _claim(run_id: str, key: str) -> None:
    """Say when the run began to compute what; again if others could not see it soon enough.

    On a store that is always so slow two that start at once may both go on. The one that is superseded
    finds out at its next epoch.
    """
    for _ in range(CLAIM_TRIES):
        now = time.time()
        claim = {LAST_SIGN: str(now), CLAIMED: str(now), PLAN_KEY: key}
        mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(*tag) for tag in claim.items()])
        if time.time() - now < VISIBLE_SECONDS:
            return


def _predecessors(run: Run, key: str, resume: str) -> list[Command]:
    kind = run.data.tags[tracking.KIND]
    if resume == "never":
        return []
    named = _named(resume, kind, key) if resume != "auto" else None
    # Whoever claimed before this run can be seen by now, so of those that start at once the first goes on.
    time.sleep(CLAIM_SECONDS)
    here = _command(run)
    others = [
        _command(found)
        for found in tracking.search(
            run.info.experiment_id,
            f"tags.{tracking.KIND} = '{kind}' and tags.{PLAN_KEY} = '{key}' "
            "and attributes.status != 'FINISHED'",
        )
        if found.info.run_id != run.info.run_id and SUPERSEDED_BY not in found.data.tags
    ]
    for other in others:
        if other.alive() and (other.claimed, other.run_id) < (here.claimed, here.run_id):
            raise UsageError(_busy(other))
    return [named] if named else [other for other in others if not other.alive()]


def _named(run_id: str, kind: str, key: str) -> Command:
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        raise UsageError(
            f"resume={run_id}: there is no such run in {tracking.uri()}; input should be 'auto', "
            "'never' or the id of an unfinished run"
        ) from error
    tags = run.data.tags
    if tags.get(tracking.KIND) != kind or tags.get(PLAN_KEY) != key:
        why = f"is not a {kind} of the same trials on the same data"
    elif run.info.status == "FINISHED":
        why = "is finished"
    elif SUPERSEDED_BY in tags:
        why = f"went on in run {tags[SUPERSEDED_BY]}"
    elif _command(run).alive():
        raise UsageError(_busy(_command(run)))
    else:
        return _command(run)
    raise UsageError(f"resume={run_id}: this run {why}, so it cannot be resumed here")


def _busy(other: Command) -> str:
    return (
        f"{other} is at work on the same trials; wait for it, or give resume=never to train them "
        f"all beside it (without a sign for {DEAD_SECONDS:.0f} s it counts as dead)"
    )


def _command(run: Run) -> Command:
    tags = run.data.tags
    return Command(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        host=tags.get(tracking.HOST, "an unknown host"),
        process=int(tags.get(tracking.PROCESS, 0)),
        claimed=float(tags.get(CLAIMED, 0)),
        last_sign=float(tags.get(LAST_SIGN, 0)),
    )


# Who goes on from whom ------------------------------------------------------------------------


def supersede(run_id: str) -> None:
    """End another run KILLED, pointing to the active one, which has gone on from it."""
    client = mlflow.MlflowClient()
    client.set_tag(run_id, SUPERSEDED_BY, tracking.active_id())
    client.set_terminated(run_id, "KILLED")


def left_trials(before: Sequence[Command], parent: tracking.Parent) -> list[tracking.TrialRun]:
    """What earlier runs of the study have left; none of it is RUNNING any more.

    Gives the newest run of each trial: one that is FINISHED, else one with a checkpoint.
    """
    kept: dict[str, tracking.TrialRun] = {}
    for command in before:
        for trial in tracking.children(
            tracking.Parent(parent.tracking_uri, parent.experiment_id, command.run_id)
        ):
            if trial.status == "RUNNING":
                tracking.end_run(trial, "KILLED", f"its study, run {command.run_id}, was killed")
            better = kept.get(trial.key)
            if trial.status == "FINISHED" or (
                trial.checkpoint and (better is None or better.status != "FINISHED")
            ):
                kept[trial.key] = trial
    return list(kept.values())


def adopt_trials(
    kept: Sequence[tracking.TrialRun], before: Sequence[Command], parent: tracking.Parent
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


def adopt_parts(before: Sequence[Command]) -> list[str]:
    """Hang the finished parts of earlier commands under the active run; gives their kinds."""
    client, active = mlflow.MlflowClient(), tracking.active_id()
    kinds = []
    for command in before:
        left = tracking.find_run(command.run_id)
        for part in tracking.stored_children(left) if left else []:
            if part.status == "FINISHED":
                client.set_tag(part.run_id, tracking.PARENT, active)
                kinds.append(part.kind)
        supersede(command.run_id)
    return kinds


def go_on_from(
    before: Sequence[tracking.TrialRun], check: Callable[[Checkpoint], None]
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
            mlflow.set_tag(RESUMED_FROM, newest.run_id)
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


def load_checkpoint(trial: tracking.TrialRun) -> Checkpoint:
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
