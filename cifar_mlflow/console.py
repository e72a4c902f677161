"""The terminal shows the project's own lines, and nothing that TensorFlow and MLflow print."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from cifar_mlflow.formatting import literal_markdown, printable

# Environment variables, so that the workers inherit them.
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines a trial; `mlflow run` prints the parent's
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PYTHONWARNINGS": "ignore",
}


def quieten() -> None:
    """Silence this process and those it starts; call it before they import TensorFlow or MLflow."""
    os.environ.update(QUIET)
    warnings.simplefilter("ignore")  # PYTHONWARNINGS comes too late for this process


@contextmanager
def hushed() -> Iterator[None]:
    """Silence stderr, to which TensorFlow's C++ code writes while it loads or converts, at any log level."""
    if not QUIET.items() <= os.environ.items():
        yield
        return
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


terminal = Console()
Lines = list[tuple[str, str]]  # topics and texts


def line(text: str) -> None:
    """Print one line; it is not wrapped, however narrow the terminal is.

    ``text`` is printed literally: names in it cause no markup, emoji or control characters.
    """
    terminal.print(Text(printable(text)), soft_wrap=True)


def say(topic: str, text: str) -> None:
    """Print one line of a command's output."""
    line(f"{topic:<9} {text}")


def say_lines(lines: Lines) -> None:
    """Print each topic with its text."""
    for topic, text in lines:
        say(topic, text)


def lines_markdown(lines: Lines) -> str:
    """The lines as Markdown, for a run's description."""
    return "\n\n".join(f"**{topic}** {literal_markdown(text)}" for topic, text in lines)
