"""Processes: which one this is, whether another one lives, and how to end together with it.

A process id means something only inside its PID namespace, and host names repeat: every container
counts its own processes, and copies of a machine image share their name.
"""

import os
import platform
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class Process:
    """A process of some machine, as any machine can refer to it; small to pickle."""

    machine: str  # see `this_machine`
    id: int
    started: str  # ticks since the machine booted, because ids are used again; empty where unknown

    @property
    def is_local(self) -> bool:
        """Whether its id means something here."""
        return self.machine == this_machine()

    @property
    def is_alive(self) -> bool:
        """Whether it runs, for a local process; a zombie does not."""
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
    """State and start of a process; empty where there is no /proc to ask."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return "", ""
    fields = text.rpartition(")")[2].split()  # the program's name may contain anything
    return fields[0], fields[19]


def end_with(process: Process) -> None:
    """End this process, whatever it is doing, within seconds of the end of another local one.

    A worker that trained on for a command that was killed would compete with the command's
    successor, and keep its memory.
    """

    def watch() -> None:
        while process.is_alive:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    if process not in _watched:
        _watched.add(process)
        threading.Thread(target=watch, daemon=True).start()


_watched: set[Process] = set()
