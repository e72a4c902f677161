"""Pictures from anywhere: find, decode, crop to a square and reduce to what the networks take.

A file that cannot be read becomes a `Skipped` with its reason, and never an exception. No TensorFlow.
"""

import glob
import io
import ipaddress
import math
import multiprocessing
import os
import socket
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import joblib
import numpy as np
import numpy.typing as npt
import requests
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ProtocolError, ReadTimeoutError
from urllib3.util import parse_url

from cifar_mlflow.data.cifar10 import IMAGE_SHAPE
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import printable
from cifar_mlflow.paths import user_path

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
# A file of some kilobytes can hold gigabytes of pixels. Decoding and cropping take 4 to 16 bytes a
# pixel, a gigabyte at the most; pictures over BIG are read one at a time.
PIXELS = 64_000_000
BIG = 16_000_000
JPEG_PIXELS = 200_000_000  # which are decoded at an eighth of the size
Image.MAX_IMAGE_PIXELS = PIXELS // 2  # Pillow warns from here, and refuses from twice as many
_one_big = Lock()
DOWNLOAD_BYTES = 50_000_000
SILENCE_SECONDS = 10  # without a byte
DOWNLOAD_SECONDS = 60  # from the first step of connecting to the last byte


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
    if _is_address(item):
        if item.partition("://")[0].lower() in ("http", "https"):
            yield item
        else:
            yield Skipped(printable(item), "only http and https addresses can be read")
        return
    try:
        path = user_path(item)
    except UsageError as error:
        yield Skipped(printable(item), str(error))
        return
    if os.path.isdir(path):
        yield from _folder(path)
    elif not os.path.lexists(path) and glob.has_magic(item):
        yield from _pattern(path)
    elif os.path.lexists(path):
        yield str(path)
    else:
        yield Skipped(printable(str(path)), f"no such file or folder{_whence(path)}")


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
        yield Skipped(printable(error.filename), _reason(error))
    if empty and not denied:
        yield Skipped(printable(str(folder)), "no picture in this folder")


def _pattern(pattern: Path) -> Iterator[str | Skipped]:
    # pathlib's, because glob's ** walks in circles where links do.
    anchor = Path(pattern.anchor)
    try:
        found = sorted(anchor.glob(str(pattern.relative_to(anchor))))
    except (ValueError, OSError) as error:
        yield Skipped(printable(str(pattern)), _reason(error))
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
        yield Skipped(printable(str(pattern)), f"no file matches this pattern{_whence(pattern)}")


def _whence(path: Path) -> str:
    """Where a relative path was looked for: `mlflow run` starts commands in the project's folder."""
    return "" if path.is_absolute() else f" (in {Path.cwd()})"


# Read -----------------------------------------------------------------------------------------


def read_all(names: Sequence[str]) -> Iterator[list[Picture | Skipped]]:
    """Read the pictures on all cores, in order, in batches of at most 64."""
    # Its threads are daemons: neither an interruption nor the end of the process waits for them.
    with ThreadPool(joblib.cpu_count()) as pool:
        for start in range(0, len(names), BATCH):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, about oddities of files that it reads
                batch = pool.map(read, names[start : start + BATCH], chunksize=1)
            yield batch


def read(name: str) -> Picture | Skipped:
    """The picture in a file or at an address."""
    try:
        return Picture(printable(name), *_read(name))
    except Unreadable as error:
        return Skipped(printable(name), printable(str(error)))


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
    # In a thread of its own, because names, redirects and headers can come slowly without an end too.
    with ThreadPool(1) as pool:
        return pool.apply_async(_fetch, (address,)).get(DOWNLOAD_SECONDS)


def _fetch(address: str) -> BinaryIO:
    content = io.BytesIO()
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    with requests.Session() as session:
        session.headers["User-Agent"] = "cifar_mlflow"  # some sites refuse what has no name
        adapter = _Guarded()
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        with session.get(address, stream=True, timeout=SILENCE_SECONDS) as response:
            if not response.ok:
                raise Unreadable(f"HTTP status {response.status_code} {response.reason}")
            # What is there, at most 64 KiB: iter_content would wait until they are full.
            while part := response.raw.read1(2**16, decode_content=True):
                content.write(part)
                if content.tell() > DOWNLOAD_BYTES:
                    raise Unreadable(f"larger than {DOWNLOAD_BYTES / 1e6:.0f} MB")
                if time.monotonic() > deadline:
                    raise Unreadable(_too_late())
    content.seek(0)
    return content


class _Guarded(HTTPAdapter):
    """Follows no redirect from the internet into the network that this machine is in."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: bool | None = None  # whether the first address is in it

    def send(
        self, request: requests.PreparedRequest, *args: Any, **options: Any
    ) -> requests.Response:
        inside = _is_inside(parse_url(request.url or "").host or "")
        if self.inside is None:
            self.inside = inside
        if inside and not self.inside:
            raise Unreadable("it redirects to an address of this machine or its network")
        return super().send(request, *args, **options)


def _is_inside(host: str) -> bool:
    """Whether a host is this machine or in a private network, by name or by address."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None)
    except (OSError, UnicodeError):
        return False  # connecting to it says what is wrong, unless a proxy knows it
    addresses = [ipaddress.ip_address(address[0]) for *_, address in found]
    return any(not (getattr(each, "ipv4_mapped", None) or each).is_global for each in addresses)


@contextmanager
def _decoded(file: BinaryIO) -> Iterator[Image.Image]:
    """The first frame; a large JPEG is decoded at an eighth, a quarter or half of its size.

    While it is in use, no other big picture is.
    """
    head = file.read(12)
    file.seek(0)
    if not head:
        raise Unreadable("the file is empty")
    if head[4:11] in (b"ftyphei", b"ftyphev"):
        raise Unreadable("a HEIC photo, which cannot be read here; save it as JPEG")
    # Opened so, a JPEG is not under Pillow's limit.
    jpeg = head.startswith(b"\xff\xd8\xff")
    with JpegImageFile(file) if jpeg else Image.open(file, formats=FORMATS) as image:
        pixels = math.prod(image.size)
        # A progressive JPEG is in memory as a whole, whatever size it is decoded at.
        whole = "progressive" in image.info
        most = JPEG_PIXELS if jpeg and not whole else PIXELS
        if pixels > most:
            raise Unreadable(f"{pixels:,} pixels; more than {most:,} cannot be read")
        image.draft(image.mode, (LARGE, LARGE))
        big = (pixels if whole else math.prod(image.size)) > BIG
        with _one_big if big else nullcontext():
            yield image


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


def _too_late() -> str:
    return f"not here within {DOWNLOAD_SECONDS} s"


def _reason(error: Exception) -> str:
    if isinstance(error, (UnidentifiedImageError, SyntaxError)):  # the latter for a JPEG
        return "not a picture in a format that can be read here"
    if isinstance(error, multiprocessing.TimeoutError):
        return _too_late()
    if isinstance(error, requests.exceptions.InvalidURL):
        return "not a valid address"
    if isinstance(error, (requests.Timeout, ReadTimeoutError)):
        return f"no answer within {SILENCE_SECONDS} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "the host's certificate cannot be verified"
    if isinstance(error, (requests.ConnectionError, ProtocolError)):
        return "the connection failed"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0]
