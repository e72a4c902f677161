"""Load an ONNX file from an untrusted source: it opens no other file, runs no code, and ends.

Needs no TensorFlow.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import uses_external_data

from cifar_mlflow.errors import UsageError
from cifar_mlflow.formats import PIXELS, PROBABILITIES, check_values
from cifar_mlflow.formatting import printable

STANDARD = ("", "ai.onnx")  # the domain of ONNX's own operators


class OnnxModel:
    """An image classifier that ONNX Runtime computes."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load a file.

        Raises:
            UsageError: it is no ONNX file, not a classifier of images, or of a kind that is not loaded.
            Exception: any error of ONNX or ONNX Runtime, for a damaged file.
        """
        content = path.read_bytes()
        try:
            model = onnx.load_from_string(content)
        except DecodeError:
            raise UsageError("not an ONNX file, or damaged") from None
        _check_nodes(model)
        _check_external_data(model)
        _check_values(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what is fatal; errors are raised as well
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.input_shape = self._checked_input_shape()

    def _checked_input_shape(self) -> tuple[int | None, ...]:
        """The shape of the images, (None, height, width, channels)."""
        inputs, outputs = (
            [(value.name, value.type) for value in values]
            for values in (self._session.get_inputs(), self._session.get_outputs())
        )
        if inputs != [(PIXELS, "tensor(uint8)")] or outputs != [(PROBABILITIES, "tensor(float)")]:
            raise UsageError(
                f"its inputs are {_listed(inputs)} and its outputs {_listed(outputs)}, not one input "
                f"{PIXELS} (tensor(uint8)) and one output {PROBABILITIES} (tensor(float))"
            )
        batch, *shape = self._session.get_inputs()[0].shape
        if isinstance(batch, int) or not all(isinstance(size, int) for size in shape):
            raise UsageError(f"it takes images {[batch, *shape]}; only the batch size may vary")
        return (None, *shape)

    def predict_on_batch(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The probabilities (N, classes) of images (N, height, width, channels)."""
        (probabilities,) = self._session.run([PROBABILITIES], {PIXELS: images})
        return np.asarray(probabilities)


def _listed(values: list[tuple[str, str]]) -> str:
    return printable(", ".join(f"{name} ({kind})" for name, kind in values)) or "none"


def _check_nodes(model: onnx.ModelProto) -> None:
    """Refuse custom operators, and those that contain a graph, such as a loop."""
    if model.functions:
        raise UsageError("it defines operators of its own; only ONNX's are run")
    for node in model.graph.node:
        if node.domain not in STANDARD:
            name = printable(f"{node.domain}.{node.op_type}")
            raise UsageError(f"it has the custom operator {name}; only ONNX's own are run")
        if any(each.HasField("g") or each.graphs for each in node.attribute):
            raise UsageError(
                f"it has the operator {printable(node.op_type)}, which contains a graph"
            )


def _check_external_data(model: onnx.ModelProto) -> None:
    for tensor in _tensors(model):
        if uses_external_data(tensor):
            raise UsageError("its weights are in another file (external data), which is not read")


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All constants of a model whose nodes contain no graph."""
    yield from model.graph.initializer
    sparse = list(model.graph.sparse_initializer)
    for node in model.graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
    for each in sparse:
        yield from (each.values, each.indices)


def _check_values(model: onnx.ModelProto) -> None:
    """Refuse a graph that computes too many numbers for an image: a tiny file can ask for huge arrays."""
    for_one = onnx.ModelProto()
    for_one.CopyFrom(model)
    for pixels in for_one.graph.input:
        for batch in pixels.type.tensor_type.shape.dim[:1]:
            batch.dim_value = 1
    del for_one.graph.value_info[:]  # what the file says about the sizes
    for probabilities in for_one.graph.output:
        probabilities.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(for_one, data_prop=True).graph
    sizes = {
        value.name: _size(value.type.tensor_type)
        for value in (*inferred.value_info, *inferred.output)
    }
    numbers = 0
    for node in model.graph.node:
        for name in filter(None, node.output):
            size = sizes.get(name)
            if size is None:
                operator = printable(node.op_type)
                raise UsageError(
                    f"it has the operator {operator}, whose output has an unknown size"
                )
            numbers += size
    check_values(numbers)


def _size(tensor: onnx.TypeProto.Tensor) -> int | None:
    """The number of numbers; None if it is not known."""
    sizes = tensor.shape.dim
    if not tensor.HasField("shape") or not all(size.HasField("dim_value") for size in sizes):
        return None
    return math.prod(int(size.dim_value) for size in sizes)
