"""The images to classify: find files and URLs, and read them as the model takes them.

What cannot be read becomes a `Skipped` with a reason, never an exception. Imports no TensorFlow.
"""

import io
import ipaddress
import itertools
import multiprocessing
import os
import re
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import requests
from PIL import Image
from urllib3.exceptions import ProtocolError, ReadTimeoutError
from urllib3.util import parse_url

from cifar_mlflow.data.images import (
    Skipped,
    files_below,
    has_suffix,
    on_all_cores,
    open_file,
    read_square,
    reason,
    resize,
    skip,
)
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import printable
from cifar_mlflow.paths import user_path

THUMBNAIL = 128  # pixels, the side of a square on the contact sheet
DOWNLOAD_BYTES = 50_000_000
SILENCE_SECONDS = 10  # without a byte
DOWNLOAD_SECONDS = 60  # in all: resolve the name, connect, follow redirects, read


@dataclass(frozen=True)
class UserImage:
    """An image as the model takes it and as the contact sheet shows it."""

    file: str  # or URL, printable
    pixels: npt.NDArray[np.uint8]  # (size, size, 3), RGB 0..255
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
        yield item if http else skip(item, "only http and https URLs can be read")
        return
    try:
        path = user_path(item)
        matches = [path] if _exists(path) else _matches(path)
    except (UsageError, ValueError, OSError) as error:
        yield skip(item, _reason(error))
        return
    if not matches:
        # `mlflow run` starts commands in the project's folder, so say where a relative path leads.
        where = "" if path.is_absolute() else f" (in {Path.cwd()})"
        yield skip(item, f"no such file or folder{where}")
    for match in matches:
        if os.path.isdir(match):
            yield from _images_below(match)
        else:
            yield str(match)


def _exists(path: Path) -> bool:
    """Whether there is such a file, folder or link; raises OSError where that is not to be seen."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


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
    """The images in a folder and below it."""
    denied: list[OSError] = []
    empty = True
    for name in filter(has_suffix, files_below(folder, denied.append)):
        empty = False
        yield str(Path(name))  # a.png for ./a.png
    for error in denied:
        yield skip(error.filename, reason(error))
    if empty and not denied:
        yield skip(str(folder), "no image in this folder")


# Read -----------------------------------------------------------------------------------------


def read_batches(names: Sequence[str], size: int) -> Iterator[list[UserImage | Skipped]]:
    """Read files and URLs on all cores, in order, at most 64 at a time.

    Args:
        size: the height and width that the model takes, in pixels.
    """
    return on_all_cores(partial(read, size=size), names)


def read(name: str, size: int) -> UserImage | Skipped:
    """Read the image in a file or at a URL."""
    try:
        with _open(name) as file:
            square = read_square(file)
        return UserImage(printable(name), resize(square, size), _thumbnail(square))
    except Exception as error:  # noqa: BLE001, damaged bytes can raise anything
        return skip(name, _reason(error))


def _open(name: str) -> BinaryIO:
    return _download(name) if _is_url(name) else open_file(name)


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


def _thumbnail(square: Image.Image) -> Image.Image:
    if square.width > THUMBNAIL:
        return square.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    # By a whole factor, so that its pixels stay pixels.
    size = THUMBNAIL // square.width * square.width
    return square.resize((size, size), Image.Resampling.NEAREST)


def _reason(error: Exception) -> str:
    match error:
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
    return reason(error)
