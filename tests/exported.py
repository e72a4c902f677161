"""Networks with random weights, and files such as `export` writes, made without TensorFlow."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES, IMAGE_SHAPE
from cifar_mlflow.formats import Metadata

SEED = 3  # with which a random classifier gives more than one class to the images of the tests
METADATA = Metadata(
    CLASSES,
    32,
    "CIFAR-10",
    "abc",
    model_name="mine",
    model_version="3",
    model_id="m-1",
    license="mit",
)


def random_classifier(config: TrialConfig) -> Any:
    """An untrained Keras classifier whose weights and batch statistics are all random."""
    from cifar_mlflow.backend import keras
    from cifar_mlflow.training.network import build, classifier

    keras.utils.set_random_seed(SEED)
    random = np.random.default_rng(SEED)
    shape = (IMAGE_SHAPE, len(CLASSES))
    initial = build(config, *shape, for_use=True).get_weights()
    moved = [value + random.uniform(-0.05, 0.05, value.shape) for value in initial]
    return classifier(config, *shape, moved)


def onnx_model(
    nodes: Sequence[onnx.NodeProto] = (),
    pixels: tuple[str, int, list[Any]] = ("pixels", TensorProto.UINT8, ["batch", 32, 32, 3]),
    probabilities: str = "probabilities",
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """A classifier of ten classes by an image's mean colours, and further ``nodes`` that it computes."""
    random = np.random.default_rng(0)
    constants = {
        "axes": np.array([1, 2]),
        "weights": random.normal(size=(3, 10)).astype(np.float32) / 100,
    }
    given, kind, shape = pixels
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [given], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["numbers", "axes"], ["means"], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], [probabilities]),
            *nodes,
        ],
        "classifier",
        [helper.make_tensor_value_info(given, kind, shape)],
        [helper.make_tensor_value_info(probabilities, TensorProto.FLOAT, [shape[0], 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    operators = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, opset_imports=operators, ir_version=9)
    helper.set_model_props(model, METADATA.as_text() if metadata is None else dict(metadata))
    return model
