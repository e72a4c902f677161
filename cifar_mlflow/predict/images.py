"""The user's images: find them, decode them, crop them to a square and reduce it to 32 x 32 pixels.

What cannot be read becomes a `Skipped` with a reason, never an exception. Imports no TensorFlow.
"""

import io
import ipaddress
import itertools
import math
import multiprocessing
import os
import re
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
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
from urllib3.exceptions import ProtocolError, ReadTimeoutError
from urllib3.util import parse_url

from cifar_mlflow.data.cifar10 import IMAGE_SHAPE
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import printable
from cifar_mlflow.paths import user_path

SIDE = IMAGE_SHAPE[0]
THUMBNAIL = 128  # pixels, the side of a square on the contact sheet
# The formats that Pillow decodes itself (it runs Ghostscript for EPS) and recognises by content.
RASTER = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP")
SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in RASTER}
# A larger square is first reduced by a whole factor, to a side of 256 to 511 pixels.
LARGE = 2 * THUMBNAIL
BATCH = 64  # images in memory at once
# A file of a few kilobytes can hold gigabytes of pixels. Decoding and cropping take 4 to 16 bytes per
# pixel, so a gigabyte at most. Images with more than BIG pixels are read one at a time.
PIXELS = 64_000_000
BIG = 16_000_000
JPEG_PIXELS = 200_000_000  # decoded at an eighth of the size
Image.MAX_IMAGE_PIXELS = PIXELS // 2  # Pillow warns above this, and refuses twice as many
_one_big = Lock()
DOWNLOAD_BYTES = 50_000_000
SILENCE_SECONDS = 10  # without a byte
DOWNLOAD_SECONDS = 60  # in all: resolve the name, connect, follow redirects, read


@dataclass(frozen=True)
class Skipped:
    """An image that could not be found or read, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class UserImage:
    """An image as the model takes it and as the contact sheet shows it."""

    file: str  # or URL, printable
    pixels: npt.NDArray[np.uint8]  # (32, 32, 3), RGB 0..255
    thumbnail: Image.Image  # RGB, the same square, at most 128 x 128 pixels


# Find -----------------------------------------------------------------------------------------


def find(items: Sequence[str], leave_out: Collection[Path] = ()) -> tuple[list[str], list[Skipped]]:
    """List the files and URLs that ``items`` name, each once and in order, and the items without any.

    Args:
        items: files, folders, patterns and http(s) URLs. A folder means all files in it and below it
            with an image's suffix, except hidden ones; links are followed.
        leave_out: files to ignore.
    """
    seen = {os.path.realpath(path) for path in leave_out}
    names: list[str] = []
    skipped: list[Skipped] = []
    for entry in itertools.chain.from_iterable(map(_expand, items)):
        if isinstance(entry, Skipped):
            skipped.append(entry)
        elif (key := entry if _is_url(entry) else os.path.realpath(entry)) not in seen:
            seen.add(key)
            names.append(entry)
    return names, list(dict.fromkeys(skipped))


def _is_url(name: str) -> bool:
    return "://" in name


def _expand(item: str) -> Iterator[str | Skipped]:
    if _is_url(item):
        http = item.partition("://")[0].lower() in ("http", "https")
        yield item if http else _skip(item, "only http and https URLs can be read")
        return
    try:
        path = user_path(item)
        matches = [path] if os.path.lexists(path) else _matches(path)
    except (UsageError, ValueError, OSError) as error:
        yield _skip(item, _reason(error))
        return
    if not matches:
        # `mlflow run` starts commands in the project's folder, so say where a relative path leads.
        where = "" if path.is_absolute() else f" (in {Path.cwd()})"
        yield _skip(item, f"no such file or folder{where}")
    for match in matches:
        if os.path.isdir(match):
            yield from _images_below(match)
        else:
            yield str(match)


def _matches(pattern: Path) -> list[Path]:
    """Files and folders that match; hidden ones only where the pattern spells their names out."""
    # Not glob.glob(recursive=True): it follows links in circles. Two links from a folder of four images
    # to its root kept it busy for more than ten minutes.
    root = Path(pattern.anchor)
    # Python 3.13 takes a** for a*, and gives files for a last **; earlier ones do neither.
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in pattern.parts]
    return sorted(
        path
        for path in root.glob(str(Path(*parts).relative_to(root)))
        if not any(part.startswith(".") and part not in parts for part in path.parts)
        and (parts[-1] != "**" or path.is_dir())
    )


def _images_below(folder: Path) -> Iterator[str | Skipped]:
    """The images in a folder and below it, by name; each folder once, wherever links lead."""
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
        yield _skip(error.filename, _reason(error))
    if empty and not denied:
        yield _skip(str(folder), "no image in this folder")


# Read -----------------------------------------------------------------------------------------


def read_batches(names: Sequence[str]) -> Iterator[list[UserImage | Skipped]]:
    """Read files and URLs on all cores, in order, at most 64 at a time."""
    # The pool's threads are daemons: neither Ctrl-C nor the end of the process waits for them.
    with ThreadPool(joblib.cpu_count()) as pool:
        for start in range(0, len(names), BATCH):
            images = pool.map_async(read, names[start : start + BATCH], chunksize=1)
            while (
                not images.ready()
            ):  # a wait without end may miss a Ctrl-C that comes as it begins
                images.wait(timeout=1)
            yield images.get()


def read(name: str) -> UserImage | Skipped:
    """Read the image in a file or at a URL."""
    try:
        with _open(name) as file, _decode(file) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return UserImage(printable(name), *_reduce(_crop(image)))
    except Exception as error:  # noqa: BLE001, damaged bytes can raise anything
        return _skip(name, _reason(error))


def _open(name: str) -> BinaryIO:
    if _is_url(name):
        return _download(name)
    path = Path(name)
    if path.exists() and not path.is_file():
        raise UsageError("not a regular file")  # a pipe or a device may never end
    return path.open("rb")


def _download(url: str) -> BinaryIO:
    # In a thread, because requests limits only the silence between bytes. After the time limit the
    # thread is left to itself; it ends with the download, or with the process.
    with ThreadPool(1) as pool:
        return pool.apply_async(_fetch, (url,)).get(DOWNLOAD_SECONDS)


def _fetch(url: str) -> BinaryIO:
    content = io.BytesIO()
    with (
        _Session() as session,
        session.get(url, stream=True, timeout=SILENCE_SECONDS) as response,
    ):
        if not response.ok:
            raise UsageError(f"HTTP status {response.status_code} {response.reason}")
        while part := response.raw.read(2**16, decode_content=True):
            content.write(part)
            if content.tell() > DOWNLOAD_BYTES:
                raise UsageError(f"larger than {DOWNLOAD_BYTES / 1e6:.0f} MB")
    content.seek(0)
    return content


class _Session(requests.Session):
    """Follows no redirect from the internet into this machine or its private network."""

    def __init__(self) -> None:
        super().__init__()
        self.headers["User-Agent"] = "cifar_mlflow"  # some sites refuse the library's own
        self.started_inside: bool | None = None

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request; requests comes here for the first one and for every redirect."""
        inside = _is_inside(parse_url(request.url or "").host or "")
        if self.started_inside is None:
            self.started_inside = inside
        if inside and not self.started_inside:
            raise UsageError("it redirects into this machine or its private network")
        return super().send(request, **options)


def _is_inside(host: str) -> bool:
    """Whether a host name or IP address belongs to this machine or to a private network."""
    try:
        resolved = socket.getaddrinfo(host.strip("[]"), None)
    except (OSError, UnicodeError):
        return False  # connecting fails with a better message, or a proxy knows the name
    addresses = [ipaddress.ip_address(address[0]) for *_, address in resolved]
    return any(not (getattr(each, "ipv4_mapped", None) or each).is_global for each in addresses)


@contextmanager
def _decode(file: BinaryIO) -> Iterator[Image.Image]:
    """Open the first frame; a large JPEG at an eighth, a quarter or half of its size.

    Only one big image is open at a time.
    """
    head = file.read(12)
    file.seek(0)
    if not head:
        raise UsageError("the file is empty")
    if head[4:11] in (b"ftyphei", b"ftyphev"):
        raise UsageError("HEIC photos cannot be read; save it as JPEG")
    # JpegImageFile does not apply Pillow's limit of pixels.
    jpeg = head.startswith(b"\xff\xd8\xff")
    with JpegImageFile(file) if jpeg else Image.open(file, formats=RASTER) as image:
        pixels = math.prod(image.size)
        # A progressive JPEG takes memory for all its pixels, whatever size it is decoded at.
        progressive = "progressive" in image.info
        limit = JPEG_PIXELS if jpeg and not progressive else PIXELS
        if pixels > limit:
            raise UsageError(f"{pixels:,} pixels; at most {limit:,} can be read")
        image.draft(image.mode, (LARGE, LARGE))
        big = (pixels if progressive else math.prod(image.size)) > BIG
        with _one_big if big else nullcontext():
            yield image


def _crop(image: Image.Image) -> Image.Image:
    """The largest square around the centre, as RGB on white; a large one is reduced."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        high = np.asarray(image.crop(box)) >> 8  # as Pillow does with 16-bit colours
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UsageError("32 bits per pixel have no known white; save it with 8 or 16 bits")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # reducing would blend a transparent colour with the others
    factor = side // LARGE
    if factor > 1 and image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return _on_white(image.reduce(factor, box))
    return _on_white(image.crop(box))


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reduce(square: Image.Image) -> tuple[npt.NDArray[np.uint8], Image.Image]:
    """(pixels, thumbnail) of an RGB square."""
    # reducing_gap reduces by a whole factor first: the same to the eye, and faster.
    pixels = square.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3)
    if square.width > THUMBNAIL:
        thumbnail = square.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    else:  # by a whole factor, so that its pixels stay pixels
        size = THUMBNAIL // square.width * square.width
        thumbnail = square.resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(pixels), thumbnail


# Reasons --------------------------------------------------------------------------------------


def _skip(name: str, reason: str) -> Skipped:
    return Skipped(printable(name), printable(reason))


def _reason(error: Exception) -> str:
    match error:
        case UnidentifiedImageError() | SyntaxError():  # Pillow raises the latter for a JPEG
            return "not an image in a format that can be read"
        case multiprocessing.TimeoutError():
            return f"not downloaded within {DOWNLOAD_SECONDS} s"
        case requests.exceptions.InvalidURL():
            return "not a valid URL"
        case requests.Timeout() | ReadTimeoutError():
            return f"no answer within {SILENCE_SECONDS} s"
        case requests.exceptions.SSLError():
            return "the host's certificate cannot be verified"
        case requests.ConnectionError() | ProtocolError():
            return "the connection failed"
        case OSError(strerror=str(text)):
            return text
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0]
