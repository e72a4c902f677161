"""Every exception of the project, the causes a run may fail by, and the exit codes of commands.

UsageError (exit code 2)        invalid input; the message names what is wrong and what is allowed
  DataError                     the data is missing, unreadable or not what it should be
Superseded (exit code 1)        another process has ended or resumed this run
CheckpointError (ValueError)    a checkpoint that cannot be resumed from; its trial starts over
Paused (Exception)              a trial of a search waits at a rung
Diverged (ArithmeticError)      a trial fails, and is not retried
WorkerDied (ChildProcessError)  a trial fails, and is retried

Any other exception fails a trial too, which is retried. A tracking store or a folder that cannot be
read or written ends a command with exit code 1.
"""

import signal
from enum import StrEnum
from typing import Self

from pydantic import ValidationError

# Exit codes: a shell's conventions, 128 + signal for an interruption.
DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 128 + signal.SIGINT


class UsageError(ValueError):
    """Invalid input; the message is one line that names the allowed values."""


def one_line(error: ValidationError) -> str:
    """The first wrong parameter: its name, its value, and the allowed values."""
    errors = error.errors()
    if not errors[0]["loc"]:  # all parameters together: the message says which is wrong
        return errors[0]["msg"].removeprefix("Value error, ")
    name, given = errors[0]["loc"][0], errors[0]["input"]
    if errors[0]["type"] == "missing":
        return f"{name} is required"
    same = [e["msg"].removeprefix("Value error, ") for e in errors if e["loc"][:1] == (name,)]
    # Each type of a union says what its input should be, and why that could not be read.
    first, *others = [message.split(", unable to parse")[0] for message in same]
    allowed = " or ".join([first, *(other.removeprefix("Input should be ") for other in others)])
    return f"{name}={given}: {allowed[0].lower()}{allowed[1:]}"


class DataError(UsageError):
    """The data is missing, unreadable or not what it should be; names the file or the source."""


class Superseded(Exception):
    """Another run has resumed this one, or the study or the user has ended it."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} was ended by another process, which may have resumed it")


class CheckpointError(ValueError):
    """The bytes are not a checkpoint, or not one of this training; the message says what is wrong."""


class Paused(Exception):
    """A trial of a search has reached a rung, and its checkpoint is saved."""


class Diverged(ArithmeticError):
    """A loss or a weight is no longer a finite number; the message says which, and in which epoch."""


class WorkerDied(ChildProcessError):
    """A worker process is gone, and with it the work of all workers that ran at the same time."""

    def __init__(self) -> None:
        super().__init__("a worker process died: out of memory, or killed")


class Failure(StrEnum):
    """The cause of a failure by the class of its exception: the tag ``failure`` of a run.

    The tag ``end_reason`` next to it is text for people; only `repeated_failure` compares such texts.
    """

    DIVERGED = "diverged"  # the configuration is the cause, so it would diverge again
    WORKER_DIED = "worker_died"
    INTERRUPTED = "interrupted"
    ERROR = "error"

    @classmethod
    def of(cls, error: BaseException) -> Self:
        match error:
            case Diverged():
                return cls.DIVERGED
            case WorkerDied():
                return cls.WORKER_DIED
            case KeyboardInterrupt():
                return cls.INTERRUPTED
            case _:
                return cls.ERROR
