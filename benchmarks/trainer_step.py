"""A step of the project's trainer, as a whole and in parts; benchmarks.pytorch_comparison starts it."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.jobs import Result, answer, peak_megabytes, timed
from benchmarks.settings import LEARNING_RATE, MOMENTUM, PLAIN_DATA, WARM_UP, Step
from cifar_mlflow.backend import keras, layers, tf
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES, IMAGE_SHAPE
from cifar_mlflow.data.dataset import Examples
from cifar_mlflow.training import batches, fit

KINDS = {
    layers.Conv2D: "convolution",
    layers.BatchNormalization: "batch norm",
    layers.Activation: "activation",
    layers.MaxPooling2D: "pooling",
    layers.GlobalMaxPooling2D: "pooling",
}  # the rest are scaling and the dense layer
DATA: dict[str, dict[str, Any]] = {
    PLAIN_DATA: {},
    "flip-crop": {"augment": "flip-crop"},
    "flip-crop at 20 pixels": {"augment": "flip-crop", "resolution": "20-32", "epochs": 2},
}
Piece = tuple[str, str, Callable[[], object]]  # part, layer, and what to time


class Trainer:
    """The network of a setting, with its optimizer and random pixels."""

    def __init__(self, setting: Step) -> None:
        fit.configure(setting.threads)
        self.setting = setting
        self.config = TrialConfig(
            architecture=setting.architecture,
            activation=setting.activation,
            precision=setting.precision,
            batch_size=setting.batch_size,
            optimizer="sgd",
            learning_rate=LEARNING_RATE,
            momentum=MOMENTUM,
        )
        count = (max(setting.steps, WARM_UP) + 1) * setting.batch_size
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (count, *IMAGE_SHAPE), np.uint8)
        labels = random.integers(0, len(CLASSES), count, np.uint8)
        self.images, self.labels = batches.tensors(Examples(pixels, labels))
        self.network = fit.prepare(self.config, pixels, len(CLASSES))

    def fit(self, count: int) -> float:
        """An epoch of the first images, as `fit.train` runs it; gives its mean loss."""
        images, labels = self.images[:count], self.labels[:count]
        data = batches.for_training(images, labels, len(CLASSES), self.config, epoch=1)
        history = self.network.fit(data, shuffle=False, verbose=0).history
        return float(history["loss"][0])


def measure(variant: str, setting: Step) -> Result:
    """The "trainer": images per second and memory; or its "parts": milliseconds of each, per step."""
    trainer = Trainer(setting)
    trainer.fit(WARM_UP * setting.batch_size)
    seconds, loss = timed(lambda: trainer.fit(setting.images))
    if variant == "parts":
        data = {name: 1000 * data_seconds(trainer, changed) for name, changed in DATA.items()}
        return {"whole": 1000 * seconds / setting.steps, "parts": parts(trainer), "data": data}
    network = trainer.network
    return {
        "images_per_second": setting.images / seconds,
        "peak_mb": peak_megabytes(),
        "loss": loss,
        "parameters": parameters(network),
        "versions": f"TensorFlow {tf.__version__}, Keras {keras.__version__}",
    }


def parameters(network: keras.Sequential) -> list[int]:
    """How many are trained, and how many the frozen convolution has; no running statistics."""
    frozen = [layer for layer in network.layers if not layer.trainable]
    trained = sum(int(np.prod(each.shape)) for each in network.trainable_weights)
    return [trained, sum(layer.count_params() for layer in frozen)]


def parts(trainer: Trainer) -> dict[str, dict[str, float]]:
    """Milliseconds per step of each part, by layer: medians over the steps, the pieces in turn."""
    pieces = [*layer_pieces(trainer), optimizer_piece(trainer)]
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for turn in range(WARM_UP + trainer.setting.steps):
        for part, layer, piece in pieces:
            began = time.perf_counter()
            piece()
            if turn >= WARM_UP:
                seconds[part, layer].append(time.perf_counter() - began)
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for (part, layer), measured in seconds.items():
        found[part][layer] = 1000 * statistics.median(measured)
    for part in list(found):
        if part.endswith(BOTH):  # backward alone cannot be run
            forward = found[part.replace(BOTH, FORWARD)]
            both = found.pop(part)
            found[part.replace(BOTH, BACKWARD)] = {
                layer: value - forward[layer] for layer, value in both.items()
            }
    return found


FORWARD, BACKWARD, BOTH = "forward", "backward", "forward and backward"


def layer_pieces(trainer: Trainer) -> Iterator[Piece]:
    """Each layer alone, on the input that it has in the network, forward, and forward and backward."""
    values = trainer.images[: trainer.setting.batch_size]
    differentiated = False  # whether a layer before this one is trained
    for layer in trainer.network.layers:
        kind = next((KINDS[each] for each in KINDS if isinstance(layer, each)), "scaling, dense")
        sources = [weight.value for weight in layer.trainable_weights]
        if differentiated:
            sources.append(values)
        forward, both, output = passes(layer, values, sources)
        yield f"{kind} {FORWARD}", layer.name, forward
        if sources:
            yield f"{kind} {BOTH}", layer.name, both
        values, differentiated = output, bool(sources)


def passes(
    layer: keras.Layer, values: tf.Tensor, sources: list[tf.Tensor]
) -> tuple[Callable[[], object], Callable[[], object], tf.Tensor]:
    """The forward pass, the forward and backward pass, and the output of a layer."""

    @tf.function(jit_compile=False)  # type: ignore[untyped-decorator]
    def forward() -> tf.Tensor:
        return layer(values, training=True)

    output = forward()
    gradient = tf.cast(tf.random.normal(output.shape), output.dtype)

    @tf.function(jit_compile=False)  # type: ignore[untyped-decorator]
    def both() -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(sources)
            result = layer(values, training=True)
        return result, tape.gradient(result, sources, gradient)

    return forward, both, output


def optimizer_piece(trainer: Trainer) -> Piece:
    """One update of all weights, by random gradients."""
    weights = trainer.network.trainable_weights
    gradients = [tf.random.normal(weight.shape) for weight in weights]

    @tf.function(jit_compile=False)  # type: ignore[untyped-decorator]
    def update() -> None:
        trainer.network.optimizer.apply(gradients, weights)

    return "optimizer", "all", update


def data_seconds(trainer: Trainer, changed: dict[str, Any]) -> float:
    """Seconds per batch of the data set alone, after its first batch, which includes tracing."""
    setting = trainer.setting
    config = trainer.config.model_copy(update=changed)
    count = setting.images + setting.batch_size
    images, labels = trainer.images[:count], trainer.labels[:count]
    data = batches.for_training(images, labels, len(CLASSES), config, epoch=1)
    iterator = iter(data)
    next(iterator)
    began = time.perf_counter()
    for _ in range(setting.steps):
        next(iterator)
    return (time.perf_counter() - began) / setting.steps


if __name__ == "__main__":
    answer(measure, Step)
