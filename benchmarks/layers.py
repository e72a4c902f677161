"""The layers that a training computes differently from Keras: Keras' own and ours, in turn.

    python -m benchmarks.layers --recipe strong --rounds 5

Each layer of the recipe's network is timed alone, forward and backward, on a batch of random numbers of
the largest size that the recipe trains on; equal layers once. Convolutions with too few channels, which
a training leaves to TensorFlow, are there too. Prints milliseconds (median, least to most), the ratio of
the medians, and the largest difference of the results as a share of the largest result.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.machine import CORES
from cifar_mlflow import recipes
from cifar_mlflow.backend import keras, tf
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES, IMAGE_SHAPE
from cifar_mlflow.errors import FAILED, MISUSED, UsageError
from cifar_mlflow.training import fit, network, winograd
from cifar_mlflow.training.devices import cpu_instructions
from cifar_mlflow.training.fused import FusedActivation, FusedBatchNormalization
from cifar_mlflow.training.winograd import WinogradConv2D

OURS = (WinogradConv2D, FusedBatchNormalization, FusedActivation)
Step = Callable[[], list[tf.Tensor]]  # outputs, and the gradients by inputs and weights


def both(layer: keras.Layer, count: int) -> tuple[Step, Step]:
    """A step of the layer as Keras has it, and of ours, with the same weights and inputs."""
    shape, config = (count, *layer.input.shape[1:]), layer.get_config()
    ours: Any = type(layer)
    (theirs,) = ours.__bases__
    return step(theirs.from_config(config), shape), step(ours.from_config(config), shape)


def step(layer: keras.Layer, shape: tuple[int, ...]) -> Step:
    keras.utils.set_random_seed(0)
    layer.build(shape)

    random = np.random.default_rng(0)

    def normal(*shape: int) -> tf.Tensor:
        return tf.constant(random.normal(size=shape), tf.float32)

    @tf.function  # type: ignore[untyped-decorator]
    def compute(inputs: tf.Tensor, upstream: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
        weights = [each.value for each in layer.trainable_variables]
        return [outputs, *tape.gradient(outputs, [inputs, *weights], upstream)]

    inputs, upstream = normal(*shape), normal(*layer.compute_output_shape(shape))
    return lambda: compute(inputs, upstream)


def seconds(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def apart(step: Step, other: Step) -> float:
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(step(), other(), strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def described(layer: keras.Layer) -> tuple[str, str, str]:
    """What kind it is, the height and width of its outputs, and its channels."""
    (_, height, width, filters), channels = layer.output.shape, layer.input.shape[-1]
    size = f"{height} x {width}"
    if isinstance(layer, WinogradConv2D):
        return "convolution", size, f"{channels} to {filters}"
    if isinstance(layer, FusedActivation):
        return layer.activation.__name__, size, str(channels)
    return "batch normalization", size, str(channels)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--recipe", default="strong")
    parser.add_argument("--rounds", type=machine.positive, default=5)
    options = parser.parse_args()
    try:
        config = TrialConfig.model_validate(recipes.read(options.recipe, several=False))
    except UsageError as error:
        parser.exit(MISUSED, f"{parser.prog}: {error}\n")
    fit.configure(CORES)
    fixed = config.model_copy(update={"resolution": str(IMAGE_SHAPE[0])})
    found = network.build(fixed, IMAGE_SHAPE, len(CLASSES)).layers
    layers = {described(layer): layer for layer in found if isinstance(layer, OURS)}
    if not layers:
        parser.exit(FAILED, f"{parser.prog}: {options.recipe}: all its layers are Keras' own\n")
    winograd.FEWEST_CHANNELS = 1
    print(f"{CORES} cores, {cpu_instructions()}, {config.batch_size} images, n = {options.rounds}")
    row = "{:<20} {:<10} {:<12} {:<25} {:<25} {:<6} {}"
    print(row.format("layer", "outputs", "channels", "Keras", "ours", "ratio", "apart"))
    for description, layer in layers.items():
        steps = both(layer, config.batch_size)
        difference = apart(*steps)  # which traces and warms up
        rounds = [[1000 * seconds(step) for step in steps] for _ in range(options.rounds)]
        times = list(zip(*rounds))
        medians = [statistics.median(each) for each in times]
        shown = [
            f"{median:.0f} ({min(each):.0f} to {max(each):.0f})"
            for median, each in zip(medians, times)
        ]
        ratio = f"{medians[0] / medians[1]:.2f}"
        print(row.format(*description, *shown, ratio, f"{difference:.0e}"), flush=True)


if __name__ == "__main__":
    main()
