"""A training in TensorFlow on the real data; benchmarks.training_speed and others start it.

Covers training, validation and callbacks. The first epoch, in which TensorFlow traces its graphs, is not
timed.
"""

import math
import os
import time
from collections.abc import Callable

import joblib
import numpy as np

from benchmarks.jobs import Result, answer, peak_megabytes, private_megabytes, timed
from benchmarks.settings import Training
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import quieten
from cifar_mlflow.data import load
from cifar_mlflow.data.dataset import DataSet

ORDINARY, BARE = "ordinary script", "ordinary script, no callbacks"
TRAINER, CONVOLUTIONS = "trainer", "convolutions alone"


def measure(variant: str, setting: Training) -> Result:
    """Train as one of the variants; training images per second, and memory."""
    quieten()
    prepare = {TRAINER: project_trainer, CONVOLUTIONS: convolutions}.get(variant, ordinary_script)
    data = load.load()
    trained, _, _ = data.split(validation_fraction=0.2)
    _, (first, *_, last) = timed(prepare(variant, setting, data))
    return {
        "images_per_second": len(trained.labels) * setting.epochs / (last - first),
        "peak_mb": peak_megabytes(),
        "private_mb": private_megabytes(),
    }


# The seconds at which each epoch of a training ended, on some clock; there is one more than asked for.
Work = Callable[[], list[float]]


def ordinary_script(variant: str, setting: Training, data: DataSet) -> Work:
    os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)  # an ordinary script leaves it to TensorFlow
    from benchmarks import ordinary

    images, labels = (np.array(array) for array in data.examples("train"))
    callbacks, ends = variant == ORDINARY, list[float]()

    def work() -> list[float]:
        epochs = setting.epochs + 1
        ordinary.train(images, labels, setting.batch_size, epochs, callbacks, ends=ends)
        return ends

    return work


def configuration(setting: Training) -> TrialConfig:
    return TrialConfig(
        batch_size=setting.batch_size,
        optimizer="adam",
        epochs=setting.epochs + 1,
        precision=setting.precision,
    )


def project_trainer(_: str, setting: Training, data: DataSet) -> Work:
    from cifar_mlflow.training import fit

    fit.configure(setting.threads or joblib.cpu_count())
    ends = list[float]()

    def work() -> list[float]:
        fit.train(configuration(setting), data, lambda _: ends.append(time.perf_counter()))
        return ends

    return work


def convolutions(_: str, setting: Training, data: DataSet) -> Work:
    """The convolutions of as many steps of training and validation, by `tf.nn`, on random numbers."""
    from cifar_mlflow.backend import layers, tf
    from cifar_mlflow.training import batches, fit
    from cifar_mlflow.training.network import build

    fit.configure(setting.threads or joblib.cpu_count())
    network = build(configuration(setting), data.image_shape, len(data.classes))
    found = [layer for layer in network.layers if isinstance(layer, layers.Conv2D)]
    dtype = found[0].compute_dtype
    random = np.random.default_rng(0)
    kernels = [tf.Variable(tf.cast(layer.kernel.value, dtype)) for layer in found]

    def steps_of(size: int, backward: bool) -> tf.types.experimental.PolymorphicFunction:
        """Runs a number of steps; backward there is no gradient of the pixels, which nobody needs."""
        # Variables, so that TensorFlow does not compute anything of them in advance.
        inputs = [
            tf.Variable(tf.cast(random.normal(size=(size, *layer.input.shape[1:])), dtype))
            for layer in found
        ]

        @tf.function(jit_compile=False)  # type: ignore[untyped-decorator]
        def steps(count: tf.Tensor) -> tf.Tensor:
            used = tf.zeros((), dtype)  # a number of each result, so that all are computed
            for _ in tf.range(count):
                for number, (values, kernel) in enumerate(zip(inputs, kernels)):
                    with tf.GradientTape() as tape:
                        output = tf.nn.conv2d(values, kernel, strides=1, padding="VALID")
                    sources = [values, kernel] if number else [kernel]
                    gradients = tape.gradient(output, sources, output) if backward else []
                    for result in (output, *gradients):
                        used += tf.reshape(result, [-1])[0]
            return used

        steps(tf.constant(1))  # traced
        return steps

    training = steps_of(setting.batch_size, backward=True)
    evaluated = batches.evaluation_batch(data.image_shape)
    validation = steps_of(evaluated, backward=False)
    splits = data.split(validation_fraction=0.2)
    trained = math.ceil(len(splits.train.labels) / setting.batch_size)
    validated = math.ceil(len(splits.validation.labels) / evaluated)

    def work() -> list[float]:
        ends = [time.perf_counter()]  # they are traced already
        for _ in range(setting.epochs):
            training(tf.constant(trained))
            validation(tf.constant(validated))
            ends.append(time.perf_counter())
        return ends

    return work


if __name__ == "__main__":
    answer(measure, Training)
