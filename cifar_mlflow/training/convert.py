"""Convert a Keras model to a file that runs without TensorFlow: ONNX or LiteRT, float32 or int8.

Each file takes the same uint8 pixels (N, size, size, 3) as the model, under the name ``pixels``, and
gives the same probabilities (N, classes), under the name ``probabilities``. The batch may have any size.
"""

import io
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from tf2onnx.handler import tf_op

from cifar_mlflow.backend import keras, tf
from cifar_mlflow.console import hushed
from cifar_mlflow.formats import BATCH, METADATA_FILE, PIXELS, PROBABILITIES

OPSET = 18  # of ONNX; the newest that tf2onnx writes
Images = npt.NDArray[np.uint8]
# Operators that are computed in int8. The rest stays in float32, Softmax above all: its probabilities
# would become multiples of 1/256.
QUANTIZED = ("Conv", "Gemm", "MatMul", "MaxPool", "Relu")
CALIBRATION_BATCH = 50


def to_onnx(
    model: keras.Model, metadata: Mapping[str, str], calibration: Images | None = None
) -> bytes:
    """Convert a model to an ONNX file.

    Args:
        metadata: goes into the file's ``metadata_props``.
        calibration: training images, uint8 (N, size, size, 3). With them the file is an int8 one: weights
            and activations have 8 bits, and the activations' ranges are those of these images.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        with hushed():
            # Without a signature Keras refuses a model that it has loaded and never called.
            signature = [keras.InputSpec(shape=model.input_shape, dtype="uint8", name=PIXELS)]
            model.export(
                path, "onnx", verbose=False, input_signature=signature, opset_version=OPSET
            )
        if calibration is not None:
            _quantize(path, calibration)
        converted = onnx.load(path)
    _name(converted)
    del converted.metadata_props[:]
    onnx.helper.set_model_props(converted, dict(metadata))
    onnx.checker.check_model(converted, full_check=True)
    content: bytes = converted.SerializeToString()
    return content


@tf_op("Erfc")
class _Erfc:
    """Adds TensorFlow's complement of the error function, which Keras' GELU uses, to what tf2onnx knows."""

    @classmethod
    def version_9(cls, context: Any, node: Any, **_: object) -> None:
        (given,), (result,) = node.input, node.output
        shape, dtype = context.get_shape(result), context.get_dtype(result)
        context.remove_node(node.name)
        erf = context.make_node("Erf", [given]).output[0]
        one = context.make_const(f"{node.name}/one", np.array(1, np.float32)).output[0]
        context.make_node("Sub", [one, erf], outputs=[result], shapes=[shape], dtypes=[dtype])


def _quantize(path: Path, calibration: Images) -> None:
    quant_pre_process(path, path, skip_symbolic_shape=True)  # fuses operators
    quantize_static(
        path,
        path,
        _Calibration(_batches(calibration)),
        op_types_to_quantize=list(QUANTIZED),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        reduce_range=True,  # weights of 7 bits: sums of 8-bit ones overflow on x86 CPUs without VNNI
    )


def _name(converted: onnx.ModelProto) -> None:
    """Name the output and the batch axis, for which Keras has no option; drop operator sets in no use."""
    graph = converted.graph
    (pixels,), (probabilities,) = graph.input, graph.output
    for node in graph.node:
        for number, name in enumerate(node.output):
            if name == probabilities.name:
                node.output[number] = PROBABILITIES
    probabilities.name = PROBABILITIES
    for value in (pixels, probabilities):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del graph.value_info[:]  # sizes under other names of the batch axis
    used = {node.domain for node in graph.node}
    for operators in list(converted.opset_import):
        if operators.domain not in used:
            converted.opset_import.remove(operators)


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no type hints
    def __init__(self, batches: Iterator[dict[str, Images]]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, Images] | None:
        return next(self.batches, None)


def to_litert(
    model: keras.Model, metadata: Mapping[str, str], calibration: Images | None = None
) -> bytes:
    """Convert a model to a LiteRT (TensorFlow Lite) file, of built-in operators only.

    Args:
        metadata: goes into the file as TensorFlow Lite's associated files do: in a zip archive behind the
            model, here with the one member metadata.json.
        calibration: as `to_onnx`.
    """
    specification = tf.TensorSpec(model.input_shape, tf.uint8, PIXELS)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve",
        lambda pixels: {PROBABILITIES: model(pixels, training=False)},
        input_signature=[specification],
    )
    with tempfile.TemporaryDirectory() as folder, hushed():
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if calibration is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: _batches(calibration)
        converted = io.BytesIO(converter.convert())
    with zipfile.ZipFile(converted, "a") as associated:
        associated.writestr(METADATA_FILE, json.dumps(metadata, ensure_ascii=False))
    return converted.getvalue()


def _batches(images: Images) -> Iterator[dict[str, Images]]:
    for start in range(0, len(images), CALIBRATION_BATCH):
        yield {PIXELS: np.ascontiguousarray(images[start : start + CALIBRATION_BATCH])}
