"""Data sets of the user's own images: decoded once, divided, and kept in the cache."""

import hashlib
import json
import math
import os
import platform
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from cifar_mlflow import console
from cifar_mlflow.console import Lines, say_lines
from cifar_mlflow.data import cache, cifar10, folders, npz
from cifar_mlflow.data.collection import Collection, Decoded
from cifar_mlflow.data.dataset import POSITIONS, DataSet, slug_of
from cifar_mlflow.data.images import BATCH, Skipped
from cifar_mlflow.data.parts import Division, divide
from cifar_mlflow.errors import DataError
from cifar_mlflow.formatting import counted, printable
from cifar_mlflow.paths import cache_folder

VERSION = 2  # of what is stored for an image; a new one reads all folders again
LISTED = 5  # skipped files that are named
ORDER = "train, validation, test"


def read_user_data(path: Path, image_size: int) -> DataSet:
    """Read a folder of images or an .npz file, or find in the cache what was read before.

    What is odd about the images is printed, each time.

    Args:
        path: a folder as `folders.find` takes it, or a file as `npz.find` does.
        image_size: width and height of the images in the data set, in pixels.

    Raises:
        DataError: they make no data set, or cannot be read; the message says what is allowed.
    """
    path = path.absolute()
    collection = npz.find(path) if path.is_file() else folders.find(path)
    entry = _entry(collection, image_size)
    folder, lines = cache.cached(
        lambda root: _from_cache(root, entry),
        lambda root: _store(root, entry, collection, image_size),
    )
    say_lines([*collection.lines, *lines])
    name = printable(path.resolve().stem if path.is_file() else path.resolve().name)
    if slug_of(name) == slug_of(cifar10.NAME):  # whose models are those of the official files
        name += " (own images)"
    return DataSet(
        folder=folder,
        digest=folder.name,
        source=str(path),
        name=name,
        classes=collection.classes,
        image_shape=(image_size, image_size, 3),
    )


def find_again(data: DataSet) -> DataSet:
    """Find a data set on this machine, in its cache or where its images were on the machine it is from.

    Raises:
        DataError: it is not there.
    """
    folder = cache_folder() / data.digest
    if cache.is_intact(folder):
        return replace(data, folder=folder)
    path = Path(data.source)
    if path.exists():
        found = read_user_data(path, data.image_shape[0])
        if found.digest == data.digest:
            return found
    raise DataError(
        f"{data.source}: these images are missing on {platform.node()}, or differ; copy them there, or "
        f"{data.folder} to {folder}"
    )


# What was read from where -----------------------------------------------------------------------


def _entry(collection: Collection, image_size: int) -> str:
    """The file of the cache that says what these images became; another one if any of them changes."""
    stamp = f"{VERSION} {image_size} {collection.path.resolve()}\n{collection.stamp}"
    return f"{hashlib.sha256(os.fsencode(stamp)).hexdigest()}.json"


def _from_cache(root: Path, entry: str) -> tuple[Path, Lines] | None:
    try:
        found = json.loads((root / entry).read_text())
        folder, lines = root / found["digest"], [(topic, text) for topic, text in found["lines"]]
    except (OSError, ValueError, TypeError, KeyError):  # it is missing or damaged
        return None
    return (folder, lines) if cache.is_intact(folder) else None


def _store(root: Path, entry: str, collection: Collection, image_size: int) -> tuple[Path, Lines]:
    with cache.temporary(root, cache.PARTIAL) as partial:
        images, skipped = _decode(collection, image_size, partial / "pixels")
        try:
            division = divide(images, collection)
        except DataError:  # perhaps because images are left out
            say_lines(_skipped(skipped, len(collection.names)))
            raise
        written = partial / "arrays"
        written.mkdir()
        for part, rows in (("train", division.train), ("test", division.test)):
            labels = np.array(collection.labels, np.uint8)[images.rows[rows]]
            np.save(written / f"{part}_labels.npy", labels)
            _gather(partial / "pixels", rows, image_size, written / f"{part}_images.npy")
        np.save(written / f"{POSITIONS}.npy", division.positions)
        (written / cache.CLASSES).write_text(json.dumps(collection.classes))
        folder = cache.keep(written, root)
        lines = [
            *_skipped(skipped, len(collection.names)),
            *_copies(division, images, collection),
        ]
        noted = partial / entry
        noted.write_text(json.dumps({"digest": folder.name, "lines": lines}))
        noted.rename(root / entry)
    return folder, lines


def _decode(collection: Collection, image_size: int, pixels: Path) -> tuple[Decoded, list[Skipped]]:
    """Write the pixels of all images that can be decoded to a file, one after another.

    One batch at a time is in memory.
    """
    rows: list[int] = []
    skipped: list[Skipped] = []
    # Not lists: small objects that stay between large ones that go would keep 3 KB of each image.
    content, same, look = bytearray(), bytearray(), bytearray()
    terminal = console.terminal
    with (
        pixels.open("wb") as file,
        Progress(console=terminal, disable=not terminal.is_terminal, transient=True) as progress,
    ):
        batches = progress.track(
            collection.read(image_size),
            total=math.ceil(len(collection.names) / BATCH),
            description="  Reading",
        )
        for row, image in enumerate(chain.from_iterable(batches)):
            if isinstance(image, Skipped):
                skipped.append(image)
                continue
            rows.append(row)
            file.write(image.pixels.data)
            content += image.content
            same += image.same
            look += image.look
    decoded = Decoded(
        rows=np.array(rows, np.int64),
        content=np.frombuffer(content, np.uint8).reshape(-1, 32),
        same=np.unique(np.frombuffer(same, "S16"), return_inverse=True)[1],
        look=np.frombuffer(look, np.uint8).reshape(-1, 64),
    )
    return decoded, skipped


def _gather(pixels: Path, rows: npt.NDArray[np.int64], image_size: int, written: Path) -> None:
    """Write images of the file of pixels as np.save would, one in memory at a time."""
    shape = (image_size, image_size, 3)
    size = math.prod(shape)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *shape)}
    with pixels.open("rb", buffering=0) as source, written.open("wb") as target:
        np.lib.format.write_array_header_1_0(target, header)
        for row in rows.tolist():
            target.write(os.pread(source.fileno(), size, row * size))


# What is odd about them -------------------------------------------------------------------------


def _skipped(skipped: list[Skipped], found: int) -> Lines:
    if not skipped:
        return []
    count = f"{len(skipped):,} of {counted(found, 'image')}, which cannot be read"
    named = [f"{each.file}: {each.reason}" for each in skipped[:LISTED]]
    return [("Skipped", text) for text in (count, *named)]


def _copies(division: Division, images: Decoded, collection: Collection) -> Lines:
    lines: Lines = []
    if count := len(division.left_out):
        text = f"{counted(count, 'image')} left out: the same image is in an earlier part ({ORDER})"
        lines.append(("Copies", text))
    if len(division.contradicting):
        of_image = images.same[division.contradicting]
        rows = images.rows[division.contradicting[of_image == of_image[0]]]
        files = {collection.labels[row]: collection.names[row] for row in rows}
        named = " and ".join(files.values())
        text = f"{counted(len(np.unique(of_image)), 'image')} in several classes, such as {named}"
        lines.append(("Copies", printable(text)))
    if count := division.similar:
        text = f"{counted(count, 'image')} kept that look like one of an earlier part ({ORDER})"
        lines.append(("Similar", text))
    return lines
