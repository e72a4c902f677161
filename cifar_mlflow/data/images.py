"""Decode images of any kind, and crop them to a square: what a network is trained on and what it predicts.

Both go through the same functions, so a photo has the same pixels in both. Imports no TensorFlow.
"""

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from io import BufferedReader
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeVar

import joblib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import printable

T = TypeVar("T")
R = TypeVar("R")

# The formats that Pillow decodes itself (it runs Ghostscript for EPS) and recognises by content.
RASTER = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP")
SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in RASTER}
# A larger square is first reduced by a whole factor, to a side of 256 to 511 pixels.
LARGE = 256
BATCH = 64  # images in memory at once
# A file of a few kilobytes can hold gigabytes of pixels. Decoding and cropping take 4 to 16 bytes per
# pixel, so a gigabyte at most. Images with more than BIG pixels are read one at a time.
PIXELS = 64_000_000
BIG = 16_000_000
JPEG_PIXELS = 200_000_000  # decoded at an eighth of the size
WHITE_IS_ZERO = 0  # TIFF's PhotometricInterpretation
Image.MAX_IMAGE_PIXELS = PIXELS // 2  # Pillow warns above this, and refuses twice as many
_one_big = Lock()


@dataclass(frozen=True)
class Skipped:
    """An image that could not be found or read, and why."""

    file: str
    reason: str


def skip(name: str, reason: str) -> Skipped:
    """Both as text that can be printed."""
    return Skipped(printable(name), printable(reason))


# Find -----------------------------------------------------------------------------------------


def files_below(folder: Path, denied: Callable[[OSError], None]) -> Iterator[str]:
    """The paths of all files in a folder and below it, by name, except hidden ones.

    Links are followed, and each folder is visited once, wherever they lead.

    Args:
        denied: called with the error of each folder that cannot be listed.
    """
    visited: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=denied, followlinks=True):
        if (real := os.path.realpath(root)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(root, name) for name in sorted(files) if name[0] != ".")


def has_suffix(name: str) -> bool:
    """Whether a file's name ends like that of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


# Read -----------------------------------------------------------------------------------------


def on_all_cores(function: Callable[[T], R], items: Iterable[T]) -> Iterator[list[R]]:
    """Apply a function that decodes an image to all items, in order, 64 at a time."""
    remaining = iter(items)
    # The pool's threads are daemons: neither Ctrl-C nor the end of the process waits for them.
    with ThreadPool(joblib.cpu_count()) as pool:
        while batch := list(itertools.islice(remaining, BATCH)):
            results = pool.map_async(function, batch, chunksize=1)
            # A wait without end may miss a Ctrl-C that comes as it begins.
            while not results.ready():
                results.wait(timeout=1)
            yield results.get()


def open_file(name: str) -> BufferedReader:
    path = Path(name)
    if path.exists() and not path.is_file():
        raise UsageError("not a regular file")  # a pipe or a device may never end
    return path.open("rb")


def read_square(file: BinaryIO) -> Image.Image:
    """Decode a file, turn it upright, and crop it to an RGB square of at most 511 pixels.

    Raises:
        Exception: any, for damaged bytes; see `reason`.
    """
    with _decode(file) as image:
        image.load()
        # Pillow fails at odd EXIF either as it looks for the orientation, or as it rewrites EXIF once the
        # image is turned. The pixels are as good.
        with suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
        return crop(image)


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


def crop(image: Image.Image) -> Image.Image:
    """The largest square around the centre, as RGB on white, reduced to at most 511 x 511 pixels."""
    square = _crop(image)
    return square.reduce(max(1, square.width // LARGE))


def _crop(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return Image.fromarray(_high_bits(image, np.asarray(image.crop(box)))).convert("RGB")
    if image.mode in ("I", "F"):
        raise UsageError("its 32-bit pixels have no defined white; save it with 8 or 16 bits")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # reducing would blend a transparent colour with the others
    factor = side // LARGE
    if factor > 1 and image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return _on_white(image.reduce(factor, box))
    return _on_white(image.crop(box))


def _high_bits(image: Image.Image, grey: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The upper 8 bits of grey pixels of 12 or 16, as Pillow does with 16-bit colours; on white."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    high = grey >> (4 if tags.get(BITSPERSAMPLE) == (12,) else 8)
    if tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
        high = 255 - high
    return np.where(grey == image.info.get("transparency", -1), 255, high).astype(np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def resize(square: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """The pixels that a network sees, uint8 (size, size, 3), RGB 0..255, of an RGB square."""
    # reducing_gap reduces by a whole factor first: the same to the eye, and faster.
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3))


def reason(error: Exception) -> str:
    """Why an image could not be read, in a few words."""
    match error:
        case UnidentifiedImageError() | SyntaxError():  # Pillow raises the latter for a JPEG
            return "not an image in a format that can be read"
        case OSError(strerror=str(text)):
            return text
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0]
