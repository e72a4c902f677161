"""Which command works on which trials: claim a plan, send heartbeats, find dead runs to resume.

The clocks of two machines differ, so none are compared. A command on this machine is alive if its
process is; a command on another machine is alive if its heartbeat changes while this one watches.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import mlflow
from mlflow.entities import LifecycleStage, RunTag
from mlflow.exceptions import MlflowException

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import say
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.errors import UsageError
from cifar_mlflow.processes import Process
from cifar_mlflow.store import query, runs
from cifar_mlflow.store.runs import Status, TrackedRun

CLAIM = "claim"  # on a run's plan: CLAIMING, then HELD
CLAIMING, HELD = "claiming", "held"
HEARTBEAT = "heartbeat"  # UTC, ISO 8601
SUPERSEDED_BY = "superseded_by"  # the run that resumed this one
PASSED_OVER_BY = "passed_over_by"  # the run that started its plan anew, with resume=never
HEARTBEAT_SECONDS = 5.0
POLL_SECONDS = 0.5
# Silence after which a command on another machine counts as dead. A database answers or fails within
# SQLite's busy timeout of 20 s. A server may have been away, and MLflow then pauses for up to 120 s
# before it tries again.
DATABASE_SILENCE_SECONDS = 30.0
SERVER_SILENCE_SECONDS = 150.0


def plan_key(trials: Sequence[TrialConfig], data: DataSet) -> str:
    """What a command computes, as 12 hexadecimal digits: the trials, in any order, and the data."""
    return _hash(data.digest, *sorted(trial.key for trial in trials))


def search_key(search: Mapping[str, object], data: DataSet) -> str:
    """The same of a search, whose trials nobody knows yet: all that determines them, and the data."""
    return _hash(data.digest, json.dumps(search, sort_keys=True))


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class UnfinishedRun:
    """A command's run that has not finished, dead or alive."""

    run_id: str
    name: str
    status: Status
    host: str
    process: Process
    claim: str
    heartbeat: str
    passed_over: bool  # so it is resumed only by its id

    @classmethod
    def of(cls, run: TrackedRun) -> "UnfinishedRun":
        return cls(
            run_id=run.run_id,
            name=run.name,
            status=run.status,
            host=run.tags.get(runs.HOST, "an unknown host"),
            process=run.process,
            claim=run.tags.get(CLAIM, HELD),
            heartbeat=run.tags.get(HEARTBEAT, ""),
            passed_over=PASSED_OVER_BY in run.tags,
        )

    def __str__(self) -> str:
        return (
            f"run {self.run_id} ({self.name}), process {self.process.id} on {self.host}, "
            f"last heartbeat {self.heartbeat or 'never'}"
        )


@contextmanager
def claim(run: TrackedRun, key: str, resume: str) -> Iterator[list[UnfinishedRun]]:
    """Claim a plan for a run, send heartbeats inside the block, and give the dead runs to resume.

    Args:
        key: `plan_key` or `search_key` of what the run computes.
        resume: ``auto`` for every unfinished run of the same plan in the experiment; ``never`` for none,
            now or later with ``auto``; or one run's id.

    Raises:
        UsageError: another command works on the same plan, or the given run cannot be resumed.
    """
    client, run_id = mlflow.MlflowClient(), run.run_id
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            with suppress(MlflowException):  # a store that is away gets the next one
                client.set_tag(run_id, HEARTBEAT, _now())

    tags = {HEARTBEAT: _now(), CLAIM: CLAIMING, runs.PLAN_KEY: key}
    client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])
    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        try:
            dead = _wait_for_claim(query.read(run_id), key, resume)
        except UsageError:
            client.delete_tag(run_id, runs.PLAN_KEY)  # this run computes nothing to resume
            raise
        client.set_tag(run_id, CLAIM, HELD)
        yield dead
    finally:
        stop.set()
        heart.join(HEARTBEAT_SECONDS)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _wait_for_claim(run: TrackedRun, key: str, resume: str) -> list[UnfinishedRun]:
    """Wait until no other live command claims the plan; gives the dead runs to resume.

    Every command writes its claim before it looks for others, so of any two at least one sees the
    other. A command that sees a held claim gives up. Of those still claiming, the one with the lowest
    run id waits for the others to give up. So at most one holds the claim, and of commands that start
    at the same time exactly one gets it, however slow the store is.
    """
    if resume == "never":
        for other in _unfinished(run, key):
            mlflow.MlflowClient().set_tag(other.run_id, PASSED_OVER_BY, run.run_id)
        return []
    requested = _requested(resume, run, key) if resume != "auto" else None
    watch = _Watch()
    while True:
        alive = {other: watch.is_alive(other) for other in _unfinished(run, key)}
        for other, lives in alive.items():
            if lives and (other.claim != CLAIMING or other.run_id < run.run_id):
                raise UsageError(
                    f"{other}, is working on the same trials; wait for it, or set resume=never to "
                    "train them all again"
                )
        if not any(lives is not False for lives in alive.values()):
            return [requested] if requested else [o for o in alive if not o.passed_over]
        time.sleep(POLL_SECONDS)


class _Watch:
    """Finds out which commands are alive."""

    def __init__(self) -> None:
        self.first_seen: dict[str, tuple[str, float]] = {}  # by run id: its heartbeat, and when
        server = mlflow.get_tracking_uri().startswith(("http:", "https:"))
        self.silence = SERVER_SILENCE_SECONDS if server else DATABASE_SILENCE_SECONDS

    def is_alive(self, other: UnfinishedRun) -> bool | None:
        """None while that is not known yet."""
        if other.status != Status.RUNNING:
            return False
        # Without its start, the process of this id may be another one, so its heartbeat decides.
        if other.process.is_local and (other.process.started or not other.process.is_alive):
            return other.process.is_alive
        if other.run_id not in self.first_seen:
            self.first_seen[other.run_id] = (other.heartbeat, time.monotonic())
            say("Waiting", f"up to {self.silence:.0f} s for a heartbeat of {other}")
        heartbeat, seen = self.first_seen[other.run_id]
        if other.heartbeat != heartbeat:
            return True
        return False if time.monotonic() - seen > self.silence else None


def _unfinished(run: TrackedRun, key: str) -> list[UnfinishedRun]:
    """The other runs of the same kind and plan that have neither finished nor been resumed."""
    same_plan = query.search(
        run.experiment_id,
        f"tags.{runs.KIND} = '{run.kind}' and tags.{runs.PLAN_KEY} = '{key}' "
        f"and attributes.status != '{Status.FINISHED}'",
    )
    return [
        UnfinishedRun.of(other)
        for other in same_plan
        if other.run_id != run.run_id and SUPERSEDED_BY not in other.tags
    ]


def _requested(run_id: str, run: TrackedRun, key: str) -> UnfinishedRun:
    """The run that the user wants to resume, if ``run`` can resume it."""
    other = query.find_run(run_id)
    if other is None:
        raise UsageError(
            f"resume={run_id}: there is no such run in {mlflow.get_tracking_uri()}; input should be "
            "'auto', 'never' or the id of an unfinished run"
        )
    if mlflow.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED:
        why = "is deleted"
    elif other.experiment_id != run.experiment_id:
        why = "is in another experiment"
    elif other.kind != run.kind or other.tags.get(runs.PLAN_KEY) != key:
        why = f"is not a {run.kind} run of the same trials on the same data"
    elif other.status == Status.FINISHED:
        why = "is finished"
    elif SUPERSEDED_BY in other.tags:
        why = f"was resumed by run {other.tags[SUPERSEDED_BY]}"
    else:
        return UnfinishedRun.of(other)
    raise UsageError(f"resume={run_id}: this run {why}, so it cannot be resumed here")
