"""What a person sees while a study runs, drawn from what the tracking store says."""

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from cifar_mlflow import console
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.formatting import duration
from cifar_mlflow.store import tracking

POLL_SECONDS = 2.0
MOST_POLL_SECONDS = 60.0
LOOK_SHARE = 0.01  # of the time, so that the trials have the cores
PLAIN_SECONDS = 60.0
MOST_BARS = 30  # of a study with more trials only the running ones have a bar


class Watch(AbstractContextManager["Watch"]):
    """Shows every trial's epoch and validation accuracy and the time left, until it is left.

    In a terminal it is a bar for each trial that has started; elsewhere a line when a trial ends, and
    one a minute for those that run. It asks the store for what is running and what has ended since it
    last looked, so that a study of thousands of trials costs it no more than a small one, and it looks less
    often where a look takes longer.
    """

    def __init__(self, parent: tracking.Parent, trials: Sequence[TrialConfig]):
        self.parent = parent
        self.epochs = {trial.key: trial.epochs for trial in trials}
        self.began = self.told = time.monotonic()
        self.since = 0  # milliseconds since 1970, of the newest end that was seen
        self.ended: dict[str, str] = {}  # the run that was shown for each trial
        self.done: dict[str, int] = {}  # epochs of each trial, also of an interrupted study
        self.seen: dict[str, int] = {}  # epochs of each run
        self.old: dict[str, int] = {}  # those of them that this command did not train
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console.terminal,
            disable=not console.terminal.is_terminal,
            auto_refresh=False,  # nothing changes but by a look
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._look(before=True)
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
            self._look()
        self.progress.stop()

    def _watch(self) -> None:
        wait = POLL_SECONDS
        while not self.stop.wait(wait):
            began = time.monotonic()
            with suppress(tracking.StoreError):  # a store that is away is asked again
                self._look()
            wait = pause(time.monotonic() - began)

    def _look(self, before: bool = False) -> None:
        """Show what the store says; ``before`` this command began, what an interrupted one had done."""
        running = tracking.children(self.parent, tracking.RUNNING)
        ended = tracking.children(self.parent, f"attributes.end_time >= {self.since}")
        for run in (*ended, *running):
            self._count(run, before)
        for run in ended:
            self.since = max(self.since, run.end_time)
            if run.status != "KILLED" and self.ended.get(run.key) != run.run_id:
                self._show_end(run)
        done = sum(self.done.values())
        left = self._time_left(done)
        for run in running:
            self._bar(run.key, run.name, run.epochs, self.epochs[run.key], _note(run))
        self._bar("", "study", done, sum(self.epochs.values()), left)
        if running and time.monotonic() - self.told > PLAIN_SECONDS:
            self.told = time.monotonic()
            each = (f"{r.name} {r.epochs}/{self.epochs[r.key]} {_note(r)}".strip() for r in running)
            self._plain("; ".join([duration(self.told - self.began), *each, left]).rstrip("; "))
        self.progress.refresh()

    def _count(self, run: tracking.TrackedRun, before: bool) -> None:
        if not run.epochs:
            return
        if run.run_id not in self.old:
            # A run that goes on from another one begins with that one's epochs.
            source = tracking.read(run.resumed_from) if run.resumed_from else None
            if before:
                source = run
            self.old[run.run_id] = source.epochs if source else 0
        self.seen[run.run_id] = self.done[run.key] = run.epochs

    def _show_end(self, run: tracking.TrackedRun) -> None:
        self.ended[run.key] = run.run_id
        self._plain(f"{len(self.ended)}/{len(self.epochs)} {run.name}: {_note(run)}")
        self._bar(run.key, run.name, run.epochs, self.epochs[run.key], _note(run))
        if len(self.epochs) > MOST_BARS:
            self.progress.remove_task(self.tasks.pop(run.key))

    def _time_left(self, done: int) -> str:
        new = sum(max(0, epochs - self.old[run_id]) for run_id, epochs in self.seen.items())
        remaining = sum(self.epochs.values()) - done
        if new <= 0 or remaining <= 0:
            return ""
        return f"about {duration((time.monotonic() - self.began) / new * remaining)} left"

    def _bar(self, key: str, name: str, done: int, total: int, note: str) -> None:
        if key not in self.tasks:
            self.tasks[key] = self.progress.add_task(name, total=total, note=note)
        self.progress.update(self.tasks[key], completed=done, note=note)

    def _plain(self, line: str) -> None:
        if not console.terminal.is_terminal:
            console.terminal.print(f"  {line}", highlight=False, soft_wrap=True)


def pause(look: float) -> float:
    """Seconds until the next look, after one that took ``look`` seconds."""
    return min(max(POLL_SECONDS, look / LOOK_SHARE), MOST_POLL_SECONDS)


def _note(run: tracking.TrackedRun) -> str:
    words = ["failed"] if run.status == "FAILED" else []
    for word, metric in (("val", "val_accuracy"), ("test", "test_accuracy")):
        if metric in run.metrics:
            words.append(f"{word} {run.metrics[metric]:.3f}")
    return " ".join(words)
