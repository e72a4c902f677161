"""The cache: data sets as folders of arrays that are verified, and that processes share by mapping them.

A folder is named by its digest, and is complete as soon as it has its name.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import TypeVar

import numpy as np
from filelock import FileLock, Timeout

from cifar_mlflow.console import say
from cifar_mlflow.data.dataset import ARRAY_NAMES, POSITIONS, digest_header
from cifar_mlflow.errors import DataError
from cifar_mlflow.paths import cache_folder, cannot_cache

R = TypeVar("R")

CLASSES = "classes.json"  # names, beside the arrays of the user's own images
# Folders in the cache; only a killed command leaves one behind.
PARTIAL, DOWNLOAD = "partial-", "download-"


def cached(find: Callable[[Path], R | None], make: Callable[[Path], R]) -> R:
    """Return what ``find`` finds in the cache; ``make`` stores it there first if needed.

    Reading takes no lock and writes nothing. One command at a time stores something.

    Args:
        find: takes the cache's folder and gives None if something is missing or damaged.
        make: takes the cache's folder.

    Raises:
        DataError: the cache cannot be written.
    """
    cache = cache_folder()
    if (found := find(cache)) is not None:
        return found
    with _locked(cache):
        if (found := find(cache)) is not None:  # another command stored it meanwhile
            return found
        for left in (*cache.glob(f"{PARTIAL}*"), *cache.glob(f"{DOWNLOAD}*")):
            shutil.rmtree(left)  # a killed command's
        return make(cache)


def is_intact(folder: Path) -> bool:
    """Whether the folder is there, and its content has the digest that it is named by.

    Raises:
        DataError: it cannot be read right now, which says nothing about its content.
    """
    try:
        return _stored_digest(folder) == folder.name
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (ValueError, TypeError, SyntaxError, TokenError):  # NumPy's, for a damaged header
        return False
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror or error}); nothing in it was changed"
        ) from error


@contextmanager
def temporary(cache: Path, prefix: str) -> Iterator[Path]:
    """A folder in the cache, which is removed at the end."""
    with tempfile.TemporaryDirectory(dir=cache, prefix=prefix) as folder:
        yield Path(folder)


def keep(written: Path, cache: Path) -> Path:
    """Move a folder of arrays to its place in the cache, which is returned; only inside `cached`."""
    folder = cache / _stored_digest(written)
    if folder.exists():
        if is_intact(folder):
            return folder
        say("Cache", f"{folder} was damaged since it was verified; it is written again")
        shutil.rmtree(folder)
    written.rename(folder)
    return folder


def _stored_digest(folder: Path) -> str:
    """SHA-256 of the arrays in a folder, as `content_digest` has it, and of positions and classes, if any.

    It reads the files and does not map them: a read error in a mapped file would kill the process.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError, TypeError, SyntaxError, TokenError: a file has no header of an array.
    """
    sha256 = hashlib.sha256()
    positions = [POSITIONS] if (folder / f"{POSITIONS}.npy").exists() else []
    for name in (*ARRAY_NAMES, *positions):
        with (folder / f"{name}.npy").open("rb") as file:
            version = np.lib.format.read_magic(file)
            shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            if version != (1, 0) or in_fortran_order:
                raise ValueError(f"{file.name} is not what np.save writes for these arrays")
            sha256.update(digest_header(name, dtype, shape))
            while part := file.read(2**20):
                sha256.update(part)
    if (folder / CLASSES).exists():
        sha256.update((folder / CLASSES).read_bytes())
    return sha256.hexdigest()


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Create the cache folder, and let one process at a time write to it."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("Waiting", f"for another command, which is storing data in {cache}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        raise DataError(cannot_cache(cache, error)) from error
