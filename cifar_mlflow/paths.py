"""Paths as the user gives them."""

import os
from pathlib import Path

from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import printable


def user_path(text: str | Path) -> Path:
    """Return ``text`` as a path, with `~` and `~user` expanded; unchanged if such a file exists.

    Raises:
        UsageError: it begins with `~` and the name of a user without a home folder.
    """
    path = Path(text)
    if os.path.lexists(path):
        return path  # a file's own name may begin with ~
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"no home folder is known for {printable(path.parts[0])}") from None


def written_to(path: Path) -> Path:
    """Return the file to write for ``path``, with `~` expanded and links followed."""
    return Path(os.path.realpath(user_path(path)))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all: beside it first, then renamed.

    Raises:
        OSError: it cannot be written; a previous file is as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
