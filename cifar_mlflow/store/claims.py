"""Who works on what: claim a plan, show that one lives, and find the dead whose work can be resumed.

No two clocks are compared, because those of two machines differ. A command of this machine is alive if
its process is; any other one is alive if its sign of life changes while this command watches it.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import mlflow
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import Cifar10
from cifar_mlflow.errors import UsageError
from cifar_mlflow.processes import Process
from cifar_mlflow.store import tracking
from cifar_mlflow.store.tracking import TrackedRun

CLAIM = "claim"  # on that plan: CLAIMING, then HELD
CLAIMING, HELD = "claiming", "held"
HEARTBEAT = "last_sign_of_life"  # UTC, ISO 8601
SUPERSEDED_BY = "superseded_by"  # the run that resumed this one
HEARTBEAT_SECONDS = 5.0
POLL_SECONDS = 0.5
# Silence after which a command on another machine counts as dead. A database answers or fails within
# SQLite's busy timeout of 20 s. A server may have been away, and MLflow then pauses for up to 120 s
# before it tries again.
DATABASE_SILENCE_SECONDS = 30.0
SERVER_SILENCE_SECONDS = 150.0
Tell = Callable[[str, str], None]  # a topic, and a line of text about it


def plan_key(trials: Sequence[TrialConfig], data: Cifar10) -> str:
    """What a command computes, as 12 hexadecimal digits: the trials, in any order, and the data."""
    text = "\n".join([data.digest, *sorted(trial.key for trial in trials)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Command:
    """The run of a command that has not finished."""

    run_id: str
    name: str
    status: str
    host: str
    process: Process
    claim: str
    heartbeat: str

    def __str__(self) -> str:
        return (
            f"run {self.run_id} ({self.name}), by process {self.process.id} on {self.host}, "
            f"last sign of life {self.heartbeat or 'never'}"
        )


@contextmanager
def claimed(run: TrackedRun, key: str, resume: str, tell: Tell) -> Iterator[list[Command]]:
    """Claim a plan for a run, show that it lives, and give the dead runs that it resumes.

    Args:
        key: `plan_key` of what the run computes.
        resume: ``auto`` for every unfinished run with the same plan in the experiment; ``never`` for
            none; or one run's id.
        tell: called where it takes a while to find out whether another command lives.

    Raises:
        UsageError: another command works on the same plan, or the run named cannot be resumed.
    """
    client, run_id = mlflow.MlflowClient(), run.run_id
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            with suppress(MlflowException):  # a store that is away gets the next one
                client.set_tag(run_id, HEARTBEAT, _now())

    tags = {HEARTBEAT: _now(), CLAIM: CLAIMING, tracking.PLAN_KEY: key}
    client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])
    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        try:
            before = _predecessors(tracking.read(run_id), key, resume, tell)
        except UsageError:
            client.delete_tag(
                run_id, tracking.PLAN_KEY
            )  # it computes nothing that could be resumed
            raise
        client.set_tag(run_id, CLAIM, HELD)
        yield before
    finally:
        stop.set()
        heart.join(HEARTBEAT_SECONDS)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _predecessors(run: TrackedRun, key: str, resume: str, tell: Tell) -> list[Command]:
    """The dead runs to resume, once no other live command claims the plan.

    A claim is written before others are looked for, so of two commands at least one sees the other, and
    who sees a claim that is held gives up. Of those that still claim, the one with the lowest run id
    waits for the others to give up. So at most one holds the claim, and of those that start at once one
    does, however slow the store is.
    """
    if resume == "never":
        return []
    named = _named(resume, run, key) if resume != "auto" else None
    watch = _Watch(tell)
    while True:
        lives = {other: watch.lives(other) for other in _unfinished(run, key)}
        for other, alive in lives.items():
            if alive and (other.claim != CLAIMING or other.run_id < run.run_id):
                raise UsageError(_busy(other))
        if not any(alive is not False for alive in lives.values()):
            return [named] if named else list(lives)
        time.sleep(POLL_SECONDS)


class _Watch:
    """Finds out which commands live."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.first_seen: dict[
            str, tuple[str, float]
        ] = {}  # of each run: its sign of life, and when
        server = tracking.uri().startswith(("http:", "https:"))
        self.silence = SERVER_SILENCE_SECONDS if server else DATABASE_SILENCE_SECONDS

    def lives(self, command: Command) -> bool | None:
        """None where that is not known yet."""
        if command.status != "RUNNING":
            return False
        if command.process.is_local:
            return command.process.is_alive
        if command.run_id not in self.first_seen:
            self.first_seen[command.run_id] = (command.heartbeat, time.monotonic())
            self.tell("Waiting", f"up to {self.silence:.0f} s to see whether {command}, is alive")
        sign, seen = self.first_seen[command.run_id]
        if command.heartbeat != sign:
            return True
        return False if time.monotonic() - seen > self.silence else None


def _unfinished(run: TrackedRun, key: str) -> list[Command]:
    """The other runs of the same kind and plan that have neither finished nor been resumed."""
    kind = run.tags[tracking.KIND]
    return [
        _command(found)
        for found in tracking.search(
            run.experiment_id,
            f"tags.{tracking.KIND} = '{kind}' and tags.{tracking.PLAN_KEY} = '{key}' "
            "and attributes.status != 'FINISHED'",
        )
        if found.run_id != run.run_id and SUPERSEDED_BY not in found.tags
    ]


def _named(run_id: str, run: TrackedRun, key: str) -> Command:
    kind = run.tags[tracking.KIND]
    try:
        named = tracking.read(run_id)
    except MlflowException as error:
        raise UsageError(
            f"resume={run_id}: there is no such run in {tracking.uri()}; input should be 'auto', "
            "'never' or the id of an unfinished run"
        ) from error
    tags = named.tags
    if named.experiment_id != run.experiment_id:
        why = "is in another experiment"
    elif tags.get(tracking.KIND) != kind or tags.get(tracking.PLAN_KEY) != key:
        why = f"is not a {kind} of the same trials on the same data"
    elif named.status == "FINISHED":
        why = "is finished"
    elif SUPERSEDED_BY in tags:
        why = f"was resumed by run {tags[SUPERSEDED_BY]}"
    else:
        return _command(named)
    raise UsageError(f"resume={run_id}: this run {why}, so it cannot be resumed here")


def _busy(other: Command) -> str:
    return (
        f"{other}, works on the same trials; wait for it, or give resume=never to train them all "
        "a second time"
    )


def _command(run: TrackedRun) -> Command:
    tags = run.tags
    return Command(
        run_id=run.run_id,
        name=run.name,
        status=run.status,
        host=tags.get(tracking.HOST, "an unknown host"),
        process=run.process,
        claim=tags.get(CLAIM, HELD),
        heartbeat=tags.get(HEARTBEAT, ""),
    )
