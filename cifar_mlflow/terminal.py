"""What a person sees while a study runs, drawn from what the tracking store says."""

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from cifar_mlflow import tracking
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.plan import duration

POLL_SECONDS = 2.0
PLAIN_SECONDS = 60.0


class Watch(AbstractContextManager["Watch"]):
    """Shows every trial's epoch and validation accuracy and the time left, until it is left.

    In a terminal it is a bar for each trial that has started; elsewhere a line when a trial ends, and
    one a minute for those that run.
    """

    def __init__(self, parent: tracking.Parent, trials: Sequence[TrialConfig], console: Console):
        self.parent, self.console = parent, console
        self.epochs = {trial.key: trial.epochs for trial in trials}
        self.began = self.told = time.monotonic()
        self.ended: set[str] = set()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
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
        self._look()
        self.progress.stop()

    def _watch(self) -> None:
        while not self.stop.wait(POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        runs = tracking.latest(tracking.children(self.parent))
        done = {key: self._epochs_done(run) for key, run in runs.items()}
        left = self._time_left(sum(done.values()))
        for key, run in runs.items():
            note = run.status.lower() if run.status in ("FAILED", "KILLED") else ""
            if "val_accuracy" in run.metrics:
                note += f" val {run.metrics['val_accuracy']:.3f}"
            if "test_accuracy" in run.metrics:
                note += f" test {run.metrics['test_accuracy']:.3f}"
            self._bar(key, run.name, done[key], self.epochs[key], note.strip())
            if run.status != "RUNNING" and key not in self.ended:
                self.ended.add(key)
                self._plain(
                    f"{len(self.ended)}/{len(self.epochs)} {run.name}: {note.strip()}{left}"
                )
        self._bar("", "study", sum(done.values()), sum(self.epochs.values()), left.strip(", "))
        if time.monotonic() - self.told > PLAIN_SECONDS:
            self.told = time.monotonic()
            running = [
                f"{run.name} {done[key]}/{self.epochs[key]}"
                + (f" val {run.metrics['val_accuracy']:.3f}" if done[key] else "")
                for key, run in runs.items()
                if run.status == "RUNNING"
            ]
            if running:
                self._plain(f"{duration(self.told - self.began)}: {'; '.join(running)}{left}")

    def _epochs_done(self, run: tracking.TrialRun) -> int:
        if run.status == "FINISHED":
            return self.epochs[run.key]
        return tracking.epochs_done(self.parent, run)

    def _time_left(self, done: int) -> str:
        remaining = sum(self.epochs.values()) - done
        if not done or not remaining:
            return ""
        return f", about {duration((time.monotonic() - self.began) / done * remaining)} left"

    def _bar(self, key: str, name: str, done: int, total: int, note: str) -> None:
        if key not in self.tasks:
            self.tasks[key] = self.progress.add_task(name, total=total, note=note)
        self.progress.update(self.tasks[key], completed=done, note=note)

    def _plain(self, line: str) -> None:
        if not self.console.is_terminal:
            self.console.print(f"  {line}", highlight=False, soft_wrap=True)


def say(console: Console, topic: str, text: str) -> None:
    """A line of a command's account; not broken, however narrow the terminal is."""
    console.print(f"{topic:<10}{text}", highlight=False, markup=False, soft_wrap=True)
