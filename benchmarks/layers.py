"""The layers that a training computes differently from Keras: Keras' own and ours, in turn.

    python -m benchmarks.layers --recipe strong --rounds 5

Each layer of the recipe's network is timed alone, forward and backward, on a batch of random numbers of
the largest size that the recipe trains on; equal layers once. A convolution is timed with the pooling
after it if a training reorders them. Convolutions with too few channels, which a training leaves to
TensorFlow, are there too. Prints milliseconds (median, least to most), the ratio of the medians, and the
largest difference of the results as a share of the largest result.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from benchmarks import machine
from benchmarks.machine import CORES
from cifar_mlflow import recipes
from cifar_mlflow.backend import keras, layers, tf
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES, IMAGE_SHAPE
from cifar_mlflow.errors import FAILED, MISUSED, UsageError
from cifar_mlflow.training import fit, network, winograd
from cifar_mlflow.training.devices import cpu_instructions
from cifar_mlflow.training.pooling import movable

Step = Callable[[], list[tf.Tensor]]  # outputs, and the gradients by inputs and weights
Block = Sequence[keras.Layer]  # a layer, or a convolution and its pooling


def blocks(built: Sequence[keras.Layer]) -> list[Block]:
    """What a training computes otherwise, of a network with Keras' own layers."""
    found: list[Block] = []
    for layer, following in pairwise(built):
        if movable(layer) and isinstance(following, layers.MaxPooling2D):
            found.append([layer, following])
        elif type(network.accelerated([layer])[0]) is not type(layer):
            found.append([layer])
    return found


def both(block: Block, count: int) -> tuple[Step, Step]:
    """A step of the layers as Keras has them, and of ours, with the same weights and inputs."""
    shape = (count, *block[0].input.shape[1:])

    def copy() -> Block:
        return [type(layer).from_config(layer.get_config()) for layer in block]

    return step(copy(), shape), step(network.accelerated(copy()), shape)


def step(block: Block, shape: tuple[int, ...]) -> Step:
    computed = keras.Sequential([keras.Input(shape[1:]), *block])
    random = np.random.default_rng(0)
    computed.set_weights([random.normal(size=each.shape) for each in computed.weights])

    @tf.function  # type: ignore[untyped-decorator]
    def compute(inputs: tf.Tensor, upstream: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = computed(inputs, training=True)
        weights = [each.value for each in computed.trainable_variables]
        return [outputs, *tape.gradient(outputs, [inputs, *weights], upstream)]

    inputs, upstream = (
        tf.constant(random.normal(size=(shape[0], *each.shape[1:])), tf.float32)
        for each in (computed.inputs[0], computed.outputs[0])
    )
    return lambda: compute(inputs, upstream)


def seconds(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def apart(step: Step, other: Step) -> float:
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(step(), other(), strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def described(block: Block) -> tuple[str, str, str]:
    """What it is, the height and width of its outputs, and its channels."""
    first, channels = block[0], block[0].input.shape[-1]
    _, height, width, filters = block[-1].output.shape
    size = f"{height} x {width}"
    if isinstance(first, layers.Conv2D):
        name = "convolution, pooling" if len(block) > 1 else "convolution"
        return name, size, f"{channels} to {filters}"
    if isinstance(first, layers.Activation):
        return first.activation.__name__, size, str(channels)
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
    built = network.build(fixed, IMAGE_SHAPE, len(CLASSES), for_use=True).layers
    compared = {described(block): block for block in blocks(built)}
    if not compared:
        parser.exit(FAILED, f"{parser.prog}: {options.recipe}: all its layers are Keras' own\n")
    winograd.FEWEST_CHANNELS = 1
    print(f"{CORES} cores, {cpu_instructions()}, {config.batch_size} images, n = {options.rounds}")
    row = "{:<20} {:<10} {:<12} {:<25} {:<25} {:<6} {}"
    print(row.format("layer", "outputs", "channels", "Keras", "ours", "ratio", "apart"))
    for description, block in compared.items():
        steps = both(block, config.batch_size)
        difference = apart(*steps)  # which traces and warms up
        rounds = [[1000 * seconds(step) for step in steps] for _ in range(options.rounds)]
        times = list(zip(*rounds))
        medians = [statistics.median(each) for each in times]
        shown = [
            f"{median:.3g} ({min(each):.3g} to {max(each):.3g})"
            for median, each in zip(medians, times)
        ]
        ratio = f"{medians[0] / medians[1]:.2f}"
        print(row.format(*description, *shown, ratio, f"{difference:.0e}"), flush=True)


if __name__ == "__main__":
    main()
