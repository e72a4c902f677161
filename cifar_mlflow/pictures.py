"""Pictures from anywhere: find, decode, crop to a square and reduce to what the networks take.

A file that cannot be read becomes a `Skipped` with its reason, and never an exception. No TensorFlow.
"""

import glob
import io
import os
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import joblib
import numpy as np
import numpy.typing as npt
import requests
from PIL import Image, ImageOps, UnidentifiedImageError

from cifar_mlflow.data import IMAGE_SHAPE

SIDE = IMAGE_SHAPE[0]
THUMBNAIL = 128  # pixels, the side of the square that a contact sheet shows
# The formats that Pillow decodes by itself (it hands EPS to Ghostscript) and tells by their content.
FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "PNG",
    "PPM",
    "QOI",
    "TIFF",
    "WEBP",
)
SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
# Pictures larger than this are first reduced, by a whole factor, to a side of 256 to 511 pixels.
LARGE = 2 * THUMBNAIL
BATCH = 64  # pictures that are in memory at once

DOWNLOAD_BYTES = 50_000_000
SILENCE_SECONDS = 10  # without a byte
DOWNLOAD_SECONDS = 60


class Unreadable(Exception):
    """Why a file cannot be used, in a few words."""


@dataclass(frozen=True)
class Skipped:
    """What was asked for and is not a picture that can be read."""

    file: str
    reason: str


@dataclass(frozen=True)
class Picture:
    """A picture as a network takes it, and as a person sees it."""

    file: str
    pixels: npt.NDArray[np.uint8]  # (32, 32, 3), RGB 0..255
    thumbnail: Image.Image  # RGB, the same square, at most 128 x 128 pixels


# Find -----------------------------------------------------------------------------------------


def find(items: Sequence[str], leave_out: Collection[Path] = ()) -> tuple[list[str], list[Skipped]]:
    """The files and addresses that ``items`` stand for, each once and in order; and what found none.

    Args:
        items: files, folders, patterns and http(s) addresses. Of a folder, and all below it, the files
            with a picture's suffix are taken, without hidden ones; links are followed.
        leave_out: files that are not taken.
    """
    seen = {os.path.realpath(path) for path in leave_out}
    names: list[str] = []
    skipped: list[Skipped] = []
    for found in (found for item in items for found in _expand(item)):
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        key = found if _is_address(found) else os.path.realpath(found)
        if key not in seen:
            seen.add(key)
            names.append(found)
    return names, list(dict.fromkeys(skipped))


def _is_address(name: str) -> bool:
    return "://" in name


def _expand(item: str) -> Iterator[str | Skipped]:
    path = Path(item).expanduser()
    if _is_address(item):
        if urlsplit(item).scheme in ("http", "https"):
            yield item
        else:
            yield Skipped(_printable(item), "only http and https addresses can be read")
    elif os.path.isdir(path):
        yield from _folder(path)
    elif not os.path.lexists(path) and glob.has_magic(item):
        yield from _pattern(path)
    elif os.path.lexists(path):
        yield str(path)
    else:
        yield Skipped(_printable(str(path)), f"no such file or folder{_whence(path)}")


def _folder(folder: Path) -> Iterator[str | Skipped]:
    """The pictures in a folder and below it, by name; a folder that links lead back to is read once."""
    denied: list[OSError] = []
    visited: set[str] = set()
    empty = True
    for root, folders, files in os.walk(folder, onerror=denied.append, followlinks=True):
        if (real := os.path.realpath(root)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                empty = False
                yield str(Path(root, name))
    for error in denied:
        yield Skipped(_printable(error.filename), _reason(error))
    if empty and not denied:
        yield Skipped(_printable(str(folder)), "no picture in this folder")


def _pattern(pattern: Path) -> Iterator[str | Skipped]:
    # pathlib's, because glob's ** walks in circles where links do.
    anchor = Path(pattern.anchor)
    try:
        found = sorted(anchor.glob(str(pattern.relative_to(anchor))))
    except (ValueError, OSError) as error:
        yield Skipped(_printable(str(pattern)), _reason(error))
        return
    # As in a shell, what is hidden is matched only by what begins with a dot itself.
    dotted = [part for part in pattern.parts if part.startswith(".")]
    matches = [
        path
        for path in found
        if all(
            any(fnmatch(part, each) for each in dotted)
            for part in path.parts
            if part.startswith(".")
        )
    ]
    for path in matches:
        if os.path.isdir(path):
            yield from _folder(path)
        else:
            yield str(path)
    if not matches:
        yield Skipped(_printable(str(pattern)), f"no file matches this pattern{_whence(pattern)}")


def _whence(path: Path) -> str:
    """Where a relative path was looked for: `mlflow run` starts commands in the project's folder."""
    return "" if path.is_absolute() else f" (in {Path.cwd()})"


# Read -----------------------------------------------------------------------------------------


def read_all(names: Sequence[str]) -> Iterator[list[Picture | Skipped]]:
    """Read the pictures on all cores, in order, in batches of at most 64."""
    pool = ThreadPoolExecutor(joblib.cpu_count())
    try:
        for start in range(0, len(names), BATCH):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, about oddities of files that it reads
                batch = list(pool.map(read, names[start : start + BATCH]))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)  # an interruption does not wait for what has not begun


def read(name: str) -> Picture | Skipped:
    """The picture in a file or at an address."""
    try:
        return Picture(_printable(name), *_read(name))
    except Unreadable as error:
        return Skipped(_printable(name), str(error))


def _read(name: str) -> tuple[npt.NDArray[np.uint8], Image.Image]:
    try:
        with _open(name) as file, _decoded(file) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _reduced(_square(image))
    except Exception as error:  # decoding damaged bytes can raise anything
        raise Unreadable(_reason(error)) from error


def _open(name: str) -> BinaryIO:
    if _is_address(name):
        return _download(name)
    path = Path(name)
    if path.exists() and not path.is_file():
        raise Unreadable("neither a file nor a folder")  # which might never end
    return path.open("rb")


def _download(address: str) -> BinaryIO:
    content = io.BytesIO()
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    # Some sites refuse programs that do not say their name.
    headers = {"User-Agent": "cifar_mlflow"}
    with requests.get(address, stream=True, timeout=SILENCE_SECONDS, headers=headers) as response:
        if not response.ok:
            raise Unreadable(f"HTTP status {response.status_code} {response.reason}")
        for part in response.iter_content(2**16):
            content.write(part)
            if content.tell() > DOWNLOAD_BYTES:
                raise Unreadable(f"larger than {DOWNLOAD_BYTES / 1e6:.0f} MB")
            if time.monotonic() > deadline:
                raise Unreadable(f"not here within {DOWNLOAD_SECONDS} s")
    content.seek(0)
    return content


def _decoded(file: BinaryIO) -> Image.Image:
    """The first frame; a large JPEG is decoded at an eighth, a quarter or half of its size."""
    head = file.read(12)
    file.seek(0)
    if not head:
        raise Unreadable("the file is empty")
    if head[4:11] in (b"ftyphei", b"ftyphev"):
        raise Unreadable("a HEIC photo, which cannot be read here; save it as JPEG")
    image = Image.open(file, formats=FORMATS)
    image.draft(image.mode, (LARGE, LARGE))
    return image


def _square(image: Image.Image) -> Image.Image:
    """The largest square about the centre, as RGB on white; a large one is reduced."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        high = np.asarray(image.crop(box)) >> 8  # as Pillow does with 16-bit colours
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise Unreadable("32 bits a pixel, without a known white; save it with 8 or 16")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # a colour is transparent, which reducing would blend
    factor = side // LARGE
    if factor > 1 and image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return _on_white(image.reduce(factor, box))
    return _on_white(image.crop(box))


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reduced(square: Image.Image) -> tuple[npt.NDArray[np.uint8], Image.Image]:
    """(what a network takes, thumbnail) of an RGB square."""
    # Reduced by a whole factor first, to three times the size: the same to the eye, and faster.
    pixels = square.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3)
    if square.width > THUMBNAIL:
        thumbnail = square.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    else:  # by a whole factor, so that its pixels stay pixels
        size = THUMBNAIL // square.width * square.width
        thumbnail = square.resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(pixels), thumbnail


# Words ----------------------------------------------------------------------------------------


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a format that can be read here"
    if isinstance(error, requests.Timeout):
        return f"no answer within {SILENCE_SECONDS} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "the host's certificate cannot be verified"
    if isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        return "the connection failed"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0]


def _printable(name: str) -> str:
    """A name as text that any terminal and any file takes."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
