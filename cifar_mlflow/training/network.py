"""Build the Keras model of an architecture, and count its operations."""

import math
from collections.abc import Sequence

import pandas as pd

from cifar_mlflow.architectures import ARCHITECTURES
from cifar_mlflow.backend import keras, layers
from cifar_mlflow.config import FULL_SIZE, TrialConfig
from cifar_mlflow.data.dataset import ImageShape
from cifar_mlflow.training.checkpoint import Arrays
from cifar_mlflow.training.fused import with_fused
from cifar_mlflow.training.pooling import pooled_first
from cifar_mlflow.training.winograd import with_winograd


def build(
    config: TrialConfig, image_shape: ImageShape, classes: int, for_use: bool = False
) -> keras.Sequential:
    """A fresh network from uint8 pixels (N, *image_shape), scaled to 0..1, to logits (N, classes).

    While it is trained it takes images of all sizes, if the configuration's resolution grows, and it
    computes in the configuration's precision, with faster layers. ``for_use`` it takes the full size
    alone and computes in float32 with Keras' own layers, so that it runs anywhere.
    """
    precision = "float32" if for_use else config.precision
    grows = config.resolution != FULL_SIZE and not for_use
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        hidden = ARCHITECTURES[config.architecture](config.activation)
        if not for_use:
            hidden = accelerated(hidden)
        pixels = keras.Input((None, None, 3) if grows else image_shape, dtype="uint8")
        logits = layers.Dense(classes, dtype="float32")
        return keras.Sequential([pixels, layers.Rescaling(1 / 255), *hidden, logits])
    finally:
        keras.config.set_dtype_policy(before)


def accelerated(hidden: Sequence[keras.Layer]) -> list[keras.Layer]:
    """The same layers, not built yet, as a training computes them; results differ by rounding."""
    return [with_winograd(with_fused(layer)) for layer in pooled_first(hidden)]


def classifier(
    config: TrialConfig, image_shape: ImageShape, classes: int, weights: Arrays
) -> keras.Model:
    """A network with these weights, ending in probabilities: what is logged, served and loaded.

    Test-time augmentation is in its graph, made of Keras' own operations, so that it loads anywhere.
    """
    network = build(config, image_shape, classes, for_use=True)
    network.set_weights(weights)
    if config.tta == "none":
        logits = network.outputs[0]
        pixels = network.inputs[0]
    else:
        pixels = keras.Input(image_shape, dtype="uint8")
        logits = _augmented(network, pixels, shift=config.tta == "flip-shift")
    return keras.Model(pixels, layers.Softmax(name="probabilities")(logits))


def _augmented(
    network: keras.Sequential, pixels: keras.KerasTensor, shift: bool
) -> keras.KerasTensor:
    """Mean logits of the image and its mirror image; with ``shift``, of those up left and down right too.

    The shifted ones count half, as in cifar10-airbench.
    """

    def both(view: keras.KerasTensor) -> keras.KerasTensor:
        return (network(view) + network(keras.ops.flip(view, axis=2))) / 2

    if not shift:
        return both(pixels)
    padded = keras.ops.pad(pixels, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
    shifted = (both(padded[:, :-2, :-2]) + both(padded[:, 2:, 2:])) / 2
    return (both(pixels) + shifted) / 2


def training_flop(network: keras.Sequential, size: int) -> int:
    """Floating-point operations to train on one image of ``size`` x ``size`` pixels.

    Two for each multiply-add of convolutions and dense layers, whatever algorithm computes them; backward
    counts as twice forward.
    """
    shape: tuple[int | None, ...] = (1, size, size, 3)
    multiply_adds = 0
    for layer in network.layers:
        shape = layer.compute_output_shape(shape)
        if isinstance(layer, layers.Conv2D | layers.Dense):
            positions = math.prod(shape[1:-1])  # type: ignore[arg-type]  # no size is None
            multiply_adds += positions * math.prod(layer.kernel.shape)
    return 3 * 2 * multiply_adds


def layer_table(model: keras.Model) -> pd.DataFrame:
    """A row for each layer: its class, the shape of its output for one image, its parameter count.

    Of a model with test-time augmentation, those of the network that it uses.

    Columns: layer (str), output_shape (str, such as ``30 x 30 x 32``), parameters (int).
    """
    networks = [layer for layer in model.layers if isinstance(layer, keras.Sequential)]
    listed = networks[0].layers if networks else model.layers
    return pd.DataFrame(
        {
            "layer": [type(layer).__name__ for layer in listed],
            "output_shape": [" x ".join(map(str, layer.output.shape[1:])) for layer in listed],
            "parameters": [layer.count_params() for layer in listed],
        }
    )
