"""Images of the user's that were found and not yet read, whatever they are stored in."""

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from cifar_mlflow.console import Lines
from cifar_mlflow.data.dataset import MOST_CLASSES, RESERVED
from cifar_mlflow.data.images import Skipped, resize
from cifar_mlflow.errors import DataError
from cifar_mlflow.formatting import printable

TRAIN, VALIDATION, TEST = range(3)
PARTS = ("train", "validation", "test")
# What folders and arrays with these parts are called.
PART_NAMES = {"train": TRAIN, "test": TEST} | dict.fromkeys(
    ("validation", "val", "valid"), VALIDATION
)


class Picture(NamedTuple):
    """An image as a network sees it, and by what it is compared with others."""

    pixels: npt.NDArray[np.uint8]  # (size, size, 3), RGB 0..255
    content: bytes  # SHA-256 of the file or of the array's row, 32 bytes
    same: bytes  # 16 bytes, equal for equal pixels
    look: bytes  # reduced to 8 x 8 pixels, grey

    @classmethod
    def of(cls, square: Image.Image, size: int, content: bytes) -> Self:
        pixels = resize(square, size)
        same = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
        look = Image.fromarray(pixels).convert("L").resize((8, 8), Image.Resampling.BOX)
        return cls(pixels, content, same, look.tobytes())


class Decoded(NamedTuple):
    """What is kept in memory of images that were decoded: 112 bytes of each."""

    rows: npt.NDArray[np.int64]  # (N,), their indices in the collection
    content: npt.NDArray[np.uint8]  # (N, 32), see `Picture`
    same: npt.NDArray[np.int64]  # (N,), equal for equal pixels
    look: npt.NDArray[np.uint8]  # (N, 64), see `Picture`


@dataclass(frozen=True)
class Collection:
    """Images with their classes and, where these are given, their parts."""

    path: Path
    classes: tuple[str, ...]
    names: Sequence[str]  # of the images, for people
    labels: Sequence[int]  # indices of classes
    parts: Sequence[int]  # TRAIN, VALIDATION or TEST; TRAIN where no parts are given
    given: frozenset[int]  # the parts that are given
    stamp: str  # differs when anything has changed
    lines: Lines  # what a user should know before the images are read
    read: Callable[[int], Iterator[list[Picture | Skipped]]]
    """decode all images, in order, in batches, for an image size in pixels"""


def check_classes(path: Path, names: Sequence[str], expected: str) -> tuple[str, ...]:
    """The names of classes, printable.

    Raises:
        DataError: they are too few or too many, two differ only in case, or one has a meaning in the
            results.
    """
    classes = tuple(map(printable, names))
    if not 2 <= len(classes) <= MOST_CLASSES:
        found = f" ({classes[0]})" if len(classes) == 1 else ""
        raise DataError(
            f"{path}: the number of classes is {len(classes):,}{found}; expected 2 to {MOST_CLASSES}, "
            f"{expected}"
        )
    seen: dict[str, str] = {}
    for name in classes:
        same = unicodedata.normalize("NFC", name).casefold()
        if seen.get(same) == name:
            raise DataError(f"{path}: two classes are called {name!r}")
        if same in seen:
            raise DataError(f"{path}: the classes {seen[same]!r} and {name!r} differ only in case")
        seen[same] = name
    if taken := set(classes) & set(RESERVED):
        raise DataError(
            f"{path}: the class name {min(taken)!r} is reserved for a column of the results; choose another"
        )
    return classes


def file_stamp(file: str) -> str:
    """What changes with a file: its size, and the times when its content and its inode were changed."""
    try:
        found = os.stat(file)
    except OSError as error:
        return str(error.strerror)  # such as a link to nowhere; reading it says so
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
