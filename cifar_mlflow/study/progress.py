"""The display of a running study, drawn from the runs in the tracking store."""

import threading
import time
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from cifar_mlflow import console
from cifar_mlflow.formatting import duration
from cifar_mlflow.store import query
from cifar_mlflow.store.runs import Parent, Status, TrackedRun

POLL_SECONDS = 2.0
MAX_POLL_SECONDS = 60.0
POLL_SHARE = 0.01  # of the time is spent polling, so that the trials have the cores
LINE_SECONDS = 60.0  # between lines about the running trials, in a file
WORDS = {Status.FAILED: "failed", Status.PAUSED: "paused"}
MAX_BARS = 30  # a study with more trials has bars for the running ones only


class Watch(AbstractContextManager["Watch"]):
    """Shows every trial's epoch and accuracy and the time left, while the context is open.

    A terminal shows a bar for each trial that has started. A file gets a line when a trial ends, and
    one each minute about those that run. Each poll asks the store only for what is running and what has
    ended since the last one, so thousands of trials cost no more than a few. Slow polls become rarer.
    """

    def __init__(self, parent: Parent, kind: str, trials: int, epochs: int):
        """Watch the runs of a kind under a parent, of which there will be so many, with so many epochs."""
        self.parent = parent
        self.kind = kind
        self.trials = trials
        self.epochs = epochs
        self.began = self.last_line = time.monotonic()
        self.newest_end = 0  # milliseconds since 1970, of the runs polled so far
        self.ended: dict[
            str, tuple[str, int]
        ] = {}  # by trial key: the run and epoch shown as its end
        self.trial_epochs: dict[str, int] = {}  # by trial key: epochs done, in all runs
        self.run_epochs: dict[str, int] = {}  # by run id: epochs logged
        self.inherited: dict[str, int] = {}  # by run id: epochs that this command did not train
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.progress = Progress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console.terminal,
            disable=not console.terminal.is_terminal,
            auto_refresh=False,  # nothing changes between polls
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.poll(first=True)
        self.progress.start()
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop.set()
        self.thread.join()
        if kind is None:
            self.poll()
        self.progress.stop()

    def _watch(self) -> None:
        wait = POLL_SECONDS
        while not self.stop.wait(wait):
            began = time.monotonic()
            with suppress(query.StoreError):  # a store that is away is polled again
                self.poll()
            wait = poll_pause(time.monotonic() - began)

    def poll(self, first: bool = False) -> None:
        """Show the state of the store.

        Args:
            first: before this command starts a trial, so that all epochs are an interrupted study's.
        """
        running = self._runs(query.RUNNING)
        ended = self._runs(f"attributes.end_time >= {self.newest_end}")
        # A paused run that goes on still has the time of its pause.
        ended = [run for run in ended if run.status != Status.RUNNING]
        for run in (*ended, *running):
            self._count(run, first)
        for run in ended:
            self.newest_end = max(self.newest_end, run.end_time)
            if run.status != Status.KILLED and self.ended.get(run.key) != (run.run_id, run.epochs):
                self._show_end(run)
        done = sum(self.trial_epochs.values())
        left = self._time_left(done)
        for run in running:
            self._bar(run.key, run.name, run.epochs, run.epochs_planned, _note(run))
        self._bar("", "study", done, self.epochs, left)
        if running and time.monotonic() - self.last_line > LINE_SECONDS:
            self.last_line = time.monotonic()
            each = (f"{r.name} {r.epochs}/{r.epochs_planned} {_note(r)}".strip() for r in running)
            self._line("; ".join([duration(self.last_line - self.began), *each, left]).rstrip("; "))
        self.progress.refresh()

    def _runs(self, where: str) -> list[TrackedRun]:
        return [run for run in query.children(self.parent, where) if run.kind == self.kind]

    def _count(self, run: TrackedRun, first: bool) -> None:
        if not run.epochs:
            return
        if run.run_id not in self.inherited:
            # A resumed run starts with the epochs of the run that it resumed.
            resumed = query.find_run(run.resumed_from) if run.resumed_from and not first else None
            source = run if first else resumed
            self.inherited[run.run_id] = source.epochs if source else 0
        self.run_epochs[run.run_id] = self.trial_epochs[run.key] = run.epochs

    def _show_end(self, run: TrackedRun) -> None:
        self.ended[run.key] = run.run_id, run.epochs
        self._line(f"{len(self.ended)}/{self.trials} {run.name}: {_note(run)}")
        self._bar(run.key, run.name, run.epochs, run.epochs_planned, _note(run))
        if self.trials > MAX_BARS:
            self.progress.remove_task(self.tasks.pop(run.key))

    def _time_left(self, done: int) -> str:
        new = sum(
            max(0, epochs - self.inherited[run_id]) for run_id, epochs in self.run_epochs.items()
        )
        remaining = self.epochs - done
        if new <= 0 or remaining <= 0:
            return ""
        return f"about {duration((time.monotonic() - self.began) / new * remaining)} left"

    def _bar(self, key: str, name: str, done: int, total: int, note: str) -> None:
        if key not in self.tasks:
            self.tasks[key] = self.progress.add_task(name, total=total, note=note)
        self.progress.update(self.tasks[key], completed=done, total=total, note=note)

    def _line(self, line: str) -> None:
        if not console.terminal.is_terminal:
            console.line(f"  {line}")


def poll_pause(seconds: float) -> float:
    """Seconds until the next poll, after one that took ``seconds``."""
    return min(max(POLL_SECONDS, seconds / POLL_SHARE), MAX_POLL_SECONDS)


def _note(run: TrackedRun) -> str:
    words = [WORDS[run.status]] if run.status in WORDS else []
    for word, metric in (("val", "val_accuracy"), ("test", "test_accuracy")):
        if metric in run.metrics:
            words.append(f"{word} {run.metrics[metric]:.3f}")
    return " ".join(words)
