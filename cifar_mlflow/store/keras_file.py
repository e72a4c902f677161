"""A .keras file that may come from anybody: it runs no code, and takes no more memory than its size says.

Keras makes a model's weights by what the file's description declares, before it reads any. So what is
declared is counted first, and compared with what is there.
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
CONFIG_BYTES = 2_000_000  # of the description; ten layers take some 5 kB
EXPANSION = 10  # Keras does not compress the parts, but somebody may have


def load(path: Path) -> "keras.Model":
    """The model in a .keras file, not compiled, in Keras' safe mode.

    Raises:
        UsageError: the file declares more than it holds.
        Exception: anything that a zip archive, HDF5 or a layer raises that cannot be read or made.
    """
    from cifar_mlflow.backend import keras  # takes seconds

    with zipfile.ZipFile(path) as archive:
        _check_sizes(archive, path.stat().st_size)
        held = archive.getinfo(WEIGHTS).file_size
        with archive.open(WEIGHTS) as weights:
            _check_count("weights", _stored(weights), held)
        config = json.loads(archive.read(CONFIG))
    # In a thread of its own: Keras keeps lists of what it makes by thread, which go with it.
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
    # A number has 1 to 4 bytes; where it has 4, what is around them has room.
    if numbers > held:
        raise UsageError(
            f"its {what} declare {numbers:,} numbers, which its {held:,} bytes of weights cannot hold"
        )


def _stored(weights: Any) -> int:
    """How many numbers the data sets of an HDF5 file declare."""
    counts: list[int] = []

    def count(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            counts.append(math.prod(item.shape))

    with h5py.File(weights) as file:
        file.visititems(count)
    return sum(counts)


def _declared(config: dict[str, Any]) -> int:
    """How many weights a model's layers would have; none of them is made."""
    from cifar_mlflow.backend import keras

    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(
            config | {"compile_config": None}, safe_mode=True
        )
        return sum(math.prod(variable.shape) for variable in model.variables)
