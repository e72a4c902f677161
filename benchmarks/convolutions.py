"""The 3 x 3 convolutions of a recipe's network, by Winograd's algorithm and by TensorFlow, in turn.

    python -m benchmarks.convolutions --recipe strong --rounds 5

Each is timed alone, forward and backward, on a batch of random images of the largest size that the
recipe trains on; also those with too few channels, which are left to TensorFlow in a training. Prints
milliseconds (median, least to most), the ratio of the medians, and the largest difference of the results
as a share of the largest result.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks import machine
from benchmarks.machine import CORES
from cifar_mlflow import recipes
from cifar_mlflow.backend import tf
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES, IMAGE_SHAPE
from cifar_mlflow.errors import FAILED, MISUSED, UsageError
from cifar_mlflow.training import fit, network
from cifar_mlflow.training.devices import cpu_instructions
from cifar_mlflow.training.winograd import WinogradConv2D, convolve

Step = Callable[[], list[tf.Tensor]]  # outputs, and the gradients by images and kernel


def steps(size: int, channels: int, filters: int, count: int) -> dict[str, Step]:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> tf.Tensor:
        return tf.constant(random.normal(size=shape), tf.float32)

    images, kernel = normal(count, size, size, channels), normal(3, 3, channels, filters)
    upstream = normal(count, size, size, filters)

    def step(convolution: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Step:
        @tf.function  # type: ignore[untyped-decorator]
        def compute(images: tf.Tensor, kernel: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch([images, kernel])
                outputs = convolution(images, kernel)
            return [outputs, *tape.gradient(outputs, [images, kernel], upstream)]

        return lambda: compute(images, kernel)

    theirs = step(lambda images, kernel: tf.nn.conv2d(images, kernel, 1, "SAME"))
    return {"TensorFlow": theirs, "Winograd": step(convolve)}


def seconds(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def apart(step: Step, other: Step) -> float:
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(step(), other())]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--recipe", default="strong")
    parser.add_argument("--rounds", type=machine.positive, default=5)
    options = parser.parse_args()
    try:
        config = TrialConfig.model_validate(recipes.read(options.recipe, several=False))
    except UsageError as error:
        parser.exit(MISUSED, f"{parser.prog}: {error}\n")
    fit.configure(CORES)
    fixed = config.model_copy(update={"resolution": str(IMAGE_SHAPE[0])})
    network_layers = network.build(fixed, IMAGE_SHAPE, len(CLASSES)).layers
    convolutions = [layer for layer in network_layers if isinstance(layer, WinogradConv2D)]
    if not convolutions:
        parser.exit(
            FAILED,
            f"{parser.prog}: {options.recipe}: no convolution that Winograd's algorithm can compute\n",
        )
    print(f"{CORES} cores, {cpu_instructions()}, {config.batch_size} images, n = {options.rounds}")
    print(f"{'outputs':<14} {'channels':<12} {'TensorFlow':<26} {'Winograd':<26} ratio  apart")
    for layer in convolutions:
        (_, size, _, filters), channels = layer.output.shape, layer.kernel.shape[2]
        both = steps(size, channels, filters, config.batch_size)
        difference = apart(both["TensorFlow"], both["Winograd"])  # which traces and warms up
        times: dict[str, list[float]] = {name: [] for name in both}
        for _ in range(options.rounds):
            for name, step in both.items():
                times[name].append(1000 * seconds(step))
        medians = [statistics.median(each) for each in times.values()]
        shown = [
            f"{median:.0f} ({min(each):.0f} to {max(each):.0f})"
            for median, each in zip(medians, times.values())
        ]
        print(
            f"{f'{size} x {size}':<14} {f'{channels} to {filters}':<12} {shown[0]:<26} "
            f"{shown[1]:<26} {medians[0] / medians[1]:<6.2f} {difference:.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
