"""Load a LiteRT (TensorFlow Lite) file from an untrusted source: built-in operators only, and it ends.

Needs no TensorFlow.
"""

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from cifar_mlflow.console import hushed
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formats import METADATA_FILE, PIXELS, PROBABILITIES, check_values
from cifar_mlflow.formatting import printable

IDENTIFIER = b"TFL3"  # from byte 4 on
METADATA_BYTES = 1_000_000  # at most


class LitertModel:
    """An image classifier that LiteRT computes."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load a file.

        Raises:
            UsageError: it is no LiteRT file, not a classifier of images, or of a kind that is not loaded.
            Exception: any other error of LiteRT, for a damaged file.
        """
        content = path.read_bytes()
        if content[4:8] != IDENTIFIER:
            raise UsageError("not a LiteRT file, or damaged")
        self.metadata = _metadata(path)
        with hushed():  # it says that it creates a delegate
            interpreter = Interpreter(model_content=content, num_threads=threads)
            _check_tensors(interpreter)
            try:
                interpreter.allocate_tensors()
            except RuntimeError as error:
                raise UsageError(
                    "it is damaged, or has an operator that is not built into LiteRT"
                ) from error
        self._run = interpreter.get_signature_runner(_checked_signature(interpreter))
        self.input_shape = self._checked_input_shape()

    def _checked_input_shape(self) -> tuple[int | None, ...]:
        """The shape of the images, (None, height, width, channels)."""
        pixels = self._run.get_input_details()[PIXELS]
        probabilities = self._run.get_output_details()[PROBABILITIES]
        types = (pixels["dtype"], probabilities["dtype"])
        if types != (np.uint8, np.float32):
            given, made = (np.dtype(kind).name for kind in types)
            raise UsageError(f"it takes {given} and gives {made}, not uint8 and float32")
        batch, *shape = map(int, pixels["shape_signature"])
        if batch != -1 or -1 in shape:
            raise UsageError(f"it takes images {[batch, *shape]}; only the batch size may vary")
        return (None, *shape)

    def predict_on_batch(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The probabilities (N, classes) of images (N, height, width, channels)."""
        return np.asarray(self._run(**{PIXELS: images})[PROBABILITIES])


def _metadata(path: Path) -> dict[str, str]:
    """What the zip archive behind the model says; empty without one."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(METADATA_FILE).file_size
            if size > METADATA_BYTES:
                raise UsageError(
                    f"{METADATA_FILE} has {size:,} bytes; {METADATA_BYTES:,} are allowed"
                )
            metadata = json.loads(archive.read(METADATA_FILE))
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, json.JSONDecodeError):
        return {}
    texts = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    return metadata if texts else {}


def _check_tensors(interpreter: Interpreter) -> None:
    """Refuse loops and branches, and a graph that would take more memory than is sure to be there."""
    if interpreter.num_subgraphs() > 1:
        raise UsageError("it has an operator that contains a graph, such as a loop")
    tensors = interpreter.get_tensor_details()
    check_values(sum(math.prod(map(int, tensor["shape"])) for tensor in tensors))


def _checked_signature(interpreter: Interpreter) -> str:
    """The name of its only signature, from pixels to probabilities."""
    expected = {"inputs": [PIXELS], "outputs": [PROBABILITIES]}
    signatures = interpreter.get_signature_list()
    if list(signatures.values()) != [expected]:
        raise UsageError(
            f"its signatures are {printable(str(signatures))}, not one with the input {PIXELS} and "
            f"the output {PROBABILITIES}"
        )
    return str(next(iter(signatures)))
