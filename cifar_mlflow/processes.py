"""Processes: identify this one, see whether another one is alive, and end together with it.

A process id is valid only inside its PID namespace, and host names are not unique: every container
numbers its own processes, and copies of a machine image share a name.
"""

import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

WATCH_SECONDS = 1.0
# The names of the signals that interrupted this process. A KeyboardInterrupt that is raised inside
# TensorFlow may come out as another error, or not at all.
interruptions: list[str] = []


@dataclass(frozen=True)
class Process:
    """A process on some machine, in a form that every machine can compare; small to pickle."""

    machine: str  # see `this_machine`
    id: int
    started: str  # ticks since the machine booted, because ids are reused; empty if unknown

    @property
    def is_local(self) -> bool:
        """Whether its id is valid here."""
        return self.machine == this_machine()

    @property
    def is_alive(self) -> bool:
        """Whether a local process runs; a zombie does not."""
        try:
            os.kill(self.id, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it is another user's
            pass
        state, started = _stat(self.id)
        return state != "Z" and self.started in ("", started)


@cache
def this_machine() -> str:
    """Host name and, on Linux, boot id and PID namespace: where process ids mean the same as here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux, so there are no PID namespaces
        return platform.node()


def this_process() -> Process:
    return Process(this_machine(), os.getpid(), _stat(os.getpid())[1])


def _stat(process: int) -> tuple[str, str]:
    """State and start of a process; empty without /proc."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return "", ""
    fields = text.rpartition(")")[
        2
    ].split()  # the program's name may contain spaces and parentheses
    return fields[0], fields[19]


def end_with(process: Process) -> None:
    """End this process, whatever it is doing, within seconds of the end of another local one.

    A worker that kept training for a killed command would take cores and memory from the command that
    resumes it.
    """

    def watch() -> None:
        while process.is_alive:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    if process not in _watched:
        _watched.add(process)
        threading.Thread(target=watch, daemon=True).start()


_watched: set[Process] = set()


@contextmanager
def deferring_interrupts() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM take effect only after the block. They reach the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deferred: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: deferred.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if deferred:
        signal.raise_signal(deferred[0])
