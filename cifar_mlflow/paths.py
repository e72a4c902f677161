"""Paths as the user gives them."""

import os
from pathlib import Path

from platformdirs import user_cache_path

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
    partial = path.with_name(f".{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return the folder of data that can be made or downloaded again; it may not exist yet."""
    return user_cache_path("cifar_mlflow")


def cannot_cache(folder: Path, error: OSError) -> str:
    """Say that a folder of the cache cannot be written, and what helps."""
    return (
        f"{folder}: the cache cannot be written ({error.strerror or error}); free some space or "
        "grant write access there, or set XDG_CACHE_HOME to another folder"
    )
