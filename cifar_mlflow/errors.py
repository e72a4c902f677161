"""Every exception of the project, and the exit codes that commands end with.

UsageError (exit code 2)        invalid input; the message names what is wrong and what is allowed
  DataError                     the data is missing, unreadable or not what it should be
CheckpointError (ValueError)    a checkpoint that cannot be resumed from; its trial begins again
Diverged (ArithmeticError)      a trial fails, and is not retried
WorkerDied (ChildProcessError)  a trial fails, and is retried
Superseded (exit code 1)        another process has taken over this run
"""

import signal


class UsageError(ValueError):
    """What a person asked for cannot be done; the message is one line that says what can."""


# Writing --------------------------------------------------------------------------------------


class Superseded(Exception):
    """Another run has gone on from this one, or a person or the study has ended it."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"run {run_id} was ended by another process, which may have gone on from it"
        )


class Diverged(ArithmeticError):
    """A loss or a weight is no longer a finite number; the message says which, and in which epoch."""


class CheckpointError(ValueError):
    """The bytes are not a checkpoint, or not one of this training; the message says what is wrong."""


class WorkerDied(ChildProcessError):
    """A worker's process is gone, and with it the work of those beside it."""

    def __init__(self) -> None:
        super().__init__("a worker process died before it began a trial: out of memory, or killed")


class DataError(UsageError):
    """The data is missing, unreadable or not what it should be; names the file or the source."""


# Exit codes: a shell's conventions, 128 + signal for an interruption.
DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 128 + signal.SIGINT
