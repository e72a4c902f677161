"""Find images in the arrays of an .npz file, and read them."""

import hashlib
import itertools
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cifar_mlflow.data.collection import (
    PART_NAMES,
    PARTS,
    TRAIN,
    Collection,
    Picture,
    check_classes,
    file_stamp,
)
from cifar_mlflow.data.images import PIXELS, crop, on_all_cores
from cifar_mlflow.errors import DataError
from cifar_mlflow.formatting import printable

# What people call the arrays of images and labels, in lower case: of a part, and where there are no parts.
OF_A_PART = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
OF_ALL = (("images", "labels"), ("x", "y"))
CLASSES = ("classes", "class_names")
EXPECTED = (
    "expected x_train, y_train, x_test and y_test; train_images, train_labels, test_images and "
    "test_labels; or images and labels"
)
Array = npt.NDArray[Any]


def find(path: Path) -> Collection:
    """Find the arrays of images in an .npz file; labels and class names are read, and images are not.

    Images are uint8 (N, height, width), grey, or (N, height, width, 3), RGB, 0..255. Labels are whole
    numbers or text, (N,) or (N, 1). With class names, (K,), the labels are their indices. Without, each
    different label is a class. Nothing in the file is unpickled.

    Raises:
        DataError: it has no such arrays, or cannot be read.
    """
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{path}: not a readable .npz file (it is cut off, or no zip archive of arrays)"
        )
    with _readable(path), np.load(path, allow_pickle=False) as arrays:
        names = {name.lower(): name for name in arrays.files}
        pairs = _pairs(path, names)
        if TRAIN not in pairs:
            found = printable(", ".join(arrays.files))
            raise DataError(f"{path}: {EXPECTED}; found {found or 'nothing'}")
        labels = {
            part: _labels(path, of, _read(path, arrays, of)) for part, (_, of) in pairs.items()
        }
        given = [_read(path, arrays, names[name]) for name in CLASSES if name in names]
        used = {
            *itertools.chain.from_iterable(pairs.values()),
            *(names.get(name) for name in CLASSES),
        }
        others = printable(", ".join(name for name in arrays.files if name not in used))
    for part, (images, of) in pairs.items():
        with _readable(path), _opened(path, images) as (_, shape):
            if shape[0] != len(labels[part]):
                raise DataError(
                    f"{path}: {images} has {shape[0]:,} images, and {of} {len(labels[part]):,} labels"
                )
    classes, indices = _classes(path, np.concatenate(list(labels.values())), given)
    return Collection(
        path=path,
        classes=classes,
        names=[f"{pairs[part][0]}[{row}]" for part in pairs for row in range(len(labels[part]))],
        labels=indices,
        parts=[part for part in pairs for _ in labels[part]],
        given=frozenset(pairs),
        stamp=file_stamp(str(path)),
        lines=[("Ignored", f"other arrays in the file: {others}")] if others else [],
        read=lambda size: on_all_cores(
            partial(_picture, size), _squares(path, [images for images, _ in pairs.values()])
        ),
    )


def _pairs(path: Path, names: Mapping[str, str]) -> dict[int, tuple[str, str]]:
    """The names of the arrays of images and of labels by part, of the arrays' names by lower case.

    Raises:
        DataError: one of a pair is missing, or there are two pairs of one part.
    """
    of_parts = [
        (part, images.format(name), labels.format(name))
        for name, part in PART_NAMES.items()
        for images, labels in OF_A_PART
    ]
    pairs: dict[int, tuple[str, str]] = {}
    for candidates in of_parts, [(TRAIN, *pair) for pair in OF_ALL]:
        for part, *pair in candidates:
            found = [names[name] for name in pair if name in names]
            if len(found) == 1:
                (missing,) = set(pair) - names.keys()
                raise DataError(f"{path}: it has {found[0]}, but no {missing}")
            if found and part in pairs:
                both = f"{pairs[part][0]} and {found[0]}"
                raise DataError(f"{path}: {both} are both {PARTS[part]} images")
            if found:
                pairs[part] = found[0], found[1]
        if pairs:
            break
    return dict(sorted(pairs.items()))


def _read(path: Path, arrays: Mapping[str, Array], name: str) -> Array:
    try:
        return arrays[name]
    except ValueError as error:
        if "Object arrays" in str(error):
            raise DataError(
                f"{path}: {name} has Python objects; expected whole numbers or text, (N,)"
            ) from error
        raise


def _labels(path: Path, name: str, labels: Array) -> Array:
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or flat.dtype.kind not in "iuU":
        raise DataError(
            f"{path}: {name} is {labels.dtype} {labels.shape}; expected whole numbers or text, (N,)"
        )
    return flat if flat.dtype.kind == "U" else flat.astype(np.int64)


def _classes(
    path: Path, labels: Array, given: Sequence[Array]
) -> tuple[tuple[str, ...], Sequence[int]]:
    """The names of the classes, and the index of each label's class."""
    if not given:
        different, indices = np.unique(labels, return_inverse=True)
        names = [str(label) for label in different]
        return check_classes(path, names, "one for each label"), indices.tolist()
    names = [
        name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        for name in given[0].ravel()
    ]
    classes = check_classes(path, names, "each with its name")
    if labels.dtype.kind == "U" or labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(
            f"{path}: labels should be from 0 to {len(classes) - 1}, a class name for each"
        )
    return classes, labels.tolist()


def _squares(path: Path, names: Sequence[str]) -> Iterator[tuple[Image.Image, bytes]]:
    """Each image as an RGB square, and the SHA-256 of its pixels in the file; one in memory at a time."""
    for name in names:
        with _readable(path), _opened(path, name) as (file, (count, *shape)):
            if shape[-1] == 1:
                shape.pop()
            for _ in range(count):
                content = file.read(math.prod(shape))
                pixels = np.frombuffer(content, np.uint8).reshape(shape)
                yield crop(Image.fromarray(pixels)), hashlib.sha256(content).digest()


def _picture(size: int, item: tuple[Image.Image, bytes]) -> Picture:
    square, content = item
    return Picture.of(square, size, content)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """An array of images in the file: a stream of its bytes, and its shape."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        one, two = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
        shape, in_fortran_order, dtype = (one if version == (1, 0) else two)(file)
        grey_or_rgb = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
        if not grey_or_rgb or dtype != np.uint8 or in_fortran_order or 0 in shape:
            order = " in Fortran's order" if in_fortran_order else ""
            raise DataError(
                f"{path}: {name} is {dtype} {shape}{order}; expected uint8 (N, height, width) or "
                "(N, height, width, 3), 0 to 255"
            )
        if shape[1] * shape[2] > PIXELS:
            raise DataError(f"{path}: images of more than {PIXELS:,} pixels cannot be read")
        yield file, shape


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decompressing damaged bytes can raise anything
        reason = printable(str(error).partition("\n")[0])
        raise DataError(f"{path}: not a readable .npz file ({reason})") from error
