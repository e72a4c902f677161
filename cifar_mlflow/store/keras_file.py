"""Load a .keras file from an untrusted source: run no code, use no more memory than its size suggests.

Keras allocates the weights that a file's description declares before it reads any. So this counts what
is declared first, and compares it with what the file contains.
"""

import json
import math
import zipfile
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from cifar_mlflow.errors import UsageError

if TYPE_CHECKING:
    import keras

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
CONFIG_BYTES = 2_000_000  # at most; the description of ten layers has about 5 kB
EXPANSION = 10  # at most; Keras does not compress the parts, but others may


def load(path: Path) -> "keras.Model":
    """The model in a .keras file, not compiled, in Keras' safe mode.

    Raises:
        UsageError: the file declares more than it contains.
        Exception: any error of a zip archive or HDF5 file that cannot be read, or of a layer that
            cannot be built.
    """
    from cifar_mlflow.backend import keras  # takes seconds

    with zipfile.ZipFile(path) as archive:
        _check_sizes(archive, path.stat().st_size)
        held = archive.getinfo(WEIGHTS).file_size
        with archive.open(WEIGHTS) as weights:
            _check_count("weights", _stored(weights), held)
        config = json.loads(archive.read(CONFIG))
    # In its own thread, because Keras keeps per-thread lists of the layers, which end with the thread.
    with ThreadPool(1) as pool:
        _check_count("layers", pool.apply(_declared, (config,)), held)
    return keras.saving.load_model(path, compile=False, safe_mode=True)


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    described = archive.getinfo(CONFIG).file_size
    if described > CONFIG_BYTES:
        raise UsageError(f"{CONFIG} has {described:,} bytes; {CONFIG_BYTES:,} are allowed")
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > EXPANSION * size:
        raise UsageError(
            f"its {size:,} bytes unpack to {unpacked:,}; {EXPANSION} times as many are allowed"
        )


def _check_count(what: str, numbers: int, held: int) -> None:
    # A number has 1 to 4 bytes; the limit is for those of 1 byte.
    if numbers > held:
        raise UsageError(
            f"its {what} declare {numbers:,} numbers, which its {held:,} bytes of weights cannot hold"
        )


def _stored(weights: Any) -> int:
    """The number of elements that the data sets of an HDF5 file declare."""
    counts: list[int] = []

    def count(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            counts.append(math.prod(item.shape))

    with h5py.File(weights) as file:
        file.visititems(count)
    return sum(counts)


def _declared(config: dict[str, Any]) -> int:
    """The number of weights that a model's layers would have; allocates none of them."""
    from cifar_mlflow.backend import keras

    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(
            config | {"compile_config": None}, safe_mode=True
        )
        return sum(math.prod(variable.shape) for variable in model.variables)
