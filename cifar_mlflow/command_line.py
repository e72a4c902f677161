"""Parse a command line into a parameter class, run the command, and exit with its code."""

import argparse
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from pydantic import ValidationError

from cifar_mlflow.config import help_text
from cifar_mlflow.console import quieten
from cifar_mlflow.errors import FAILED, INTERRUPTED, MISUSED, Superseded, UsageError, one_line
from cifar_mlflow.formatting import as_text
from cifar_mlflow.parameters import Options
from cifar_mlflow.processes import interruptions

P = TypeVar("P", bound=Options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's usage block."""
        names = ", ".join(a.dest for a in self._actions if a.dest != "help")
        hint = f" (the parameters are {names})" if "unrecognized" in message else ""
        self.exit(MISUSED, f"{self.prog}: {message}{hint}\n")


def parse(parameters: type[P], prog: str, argv: Sequence[str] | None = None) -> P:
    """Parse ``--name value`` pairs; a wrong one ends the process with one line and exit code 2."""
    parser = _Parser(prog=prog, description=parameters.__doc__, allow_abbrev=False)
    for name, field in parameters.model_fields.items():
        remark = "required" if field.is_required() else f"default: {as_text(field.default)}"
        parser.add_argument(
            f"--{name}",
            metavar=name.upper(),
            default=argparse.SUPPRESS,
            help=f"{help_text(field)} ({remark})".replace("%", "%%"),
        )
    try:
        return parameters.model_validate(vars(parser.parse_args(argv)))
    except ValidationError as error:
        parser.error(one_line(error))


def _interrupt(signum: int, frame: object) -> NoReturn:
    """Raise KeyboardInterrupt, once; the next Ctrl-C ends the process, whatever it is waiting for."""
    interruptions.append(signal.Signals(signum).name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # After Ctrl-C `mlflow run` sends a SIGTERM too, which must not interrupt the clean-up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN if signum == signal.SIGINT else signal.SIG_DFL)
    # Not by print, which may be in use on the same stream.
    os.write(2, b"interrupted; press Ctrl-C again to end at once\n")
    raise KeyboardInterrupt(interruptions[0])


def _watch_parent() -> None:
    """Interrupt this process when the process that started it is gone.

    `mlflow run` does not forward a SIGTERM, and a SIGKILL cannot be forwarded.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        if not interruptions:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(parameters: type[P], prog: str, command: Callable[[P], int]) -> NoReturn:
    """Run ``command`` with the parsed command line, and exit with the code it returns.

    - A wrong parameter or a UsageError becomes one line on stderr and exit code 2.
    - A tracking store or a folder that cannot be read or written, or a run that another process has
      resumed, becomes one line and exit code 1; with ``verbose`` a traceback.
    - Ctrl-C and SIGTERM raise KeyboardInterrupt inside ``command``, then exit code 130. A second Ctrl-C
      ends the process at once.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack a character
    parsed = parse(parameters, prog)
    if not parsed.verbose:
        quieten()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if "MLFLOW_RUN_ID" in os.environ:
        _watch_parent()
    try:
        sys.exit(command(parsed))
    except ValidationError as error:
        print(f"{prog}: {one_line(error)}", file=sys.stderr)
        sys.exit(MISUSED)
    except UsageError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(MISUSED)
    except KeyboardInterrupt as interruption:
        print(f"{prog}: interrupted by {interruption}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        # They take seconds to import.
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        # The last one is of a database whose driver is not installed.
        of_the_store = (MlflowException, SQLAlchemyError, Superseded, OSError, ModuleNotFoundError)
        if parsed.verbose or not isinstance(error, of_the_store):
            raise
        print(f"{prog}: {_store_error_line(error)}", file=sys.stderr)
        sys.exit(FAILED)


def _store_error_line(error: Exception) -> str:
    """One line of an error of the store: SQLAlchemy's that names the cause, else the first one."""
    lines = str(error).splitlines() or [type(error).__name__]
    return next((line for line in lines if "Error)" in line), lines[0])
