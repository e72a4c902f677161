"""Fit one model: a plain Keras `fit` for each epoch, on data sets that keep every core busy.

benchmarks/ measures what makes it fast. tf.data's autotuner is off, because it stalls `fit` between
epochs. Images stay in one memory-mapped tensor, and the graph gathers them by shuffled indices. Each
call of the graph runs many steps. Trials run concurrently, with one thread each.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cifar_mlflow.architectures import Architecture
from cifar_mlflow.backend import keras, tf
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import Examples, Splits
from cifar_mlflow.errors import CheckpointError, Diverged
from cifar_mlflow.training.checkpoint import Arrays, Checkpoint, Epoch, best
from cifar_mlflow.training.devices import claim, gpus
from cifar_mlflow.training.network import build, classifier
from cifar_mlflow.training.origin import Origin, differences, environment

STEPS_PER_EXECUTION = 50
EVALUATION_BATCH = 500
TENSOR_ALIGNMENT = 64  # bytes


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    model: keras.Model  # uint8 pixels (N, 32, 32, 3) to probabilities (N, 10)
    history: list[Epoch]
    kept: Epoch  # the epoch whose weights the model has


def configure(threads: int) -> None:
    """Limit this process to a number of threads, and to one GPU if there is any.

    Call it before the first TensorFlow operation of the process.

    Raises:
        RuntimeError: an earlier call set another number (from TensorFlow).
    """
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    visible = tf.config.list_physical_devices("GPU")
    if visible:
        names = gpus()
        own = visible[names.index(claim(names))]
        tf.config.set_visible_devices(own, "GPU")
        tf.config.experimental.set_memory_growth(own, True)  # several processes may share one
    tf.config.experimental.enable_op_determinism()


def train(
    config: TrialConfig,
    data: Splits,
    on_epoch: Callable[[Checkpoint], None],
    start: Checkpoint | None = None,
    tensorboard: Path | None = None,
) -> Trained:
    """Train a network; the result depends on ``config``, its `origin`, ``data`` and the threads.

    Args:
        on_epoch: called after each epoch with a checkpoint.
        start: a checkpoint of an earlier call with the same arguments. It does not change the result:
            weights, metrics and predictions are the same to the last bit as without an interruption.
        tensorboard: folder for event files with scalars and weight histograms of the epochs trained.

    Raises:
        Diverged: a loss or a weight became NaN or infinite.
        CheckpointError: ``start`` is not of this training (see `restore`).
    """
    here = origin(config)
    network = restore(config, start) if start else prepare(config)
    optimizer = network.optimizer
    history = list(start.history) if start else []
    best_weights = start.best_weights if start else ()

    images, labels = tensors(data.train)
    validation = batches(*tensors(data.validation), np.arange(len(data.validation.labels)))
    writer = tf.summary.create_file_writer(str(tensorboard)) if tensorboard else None
    for number in range(len(history) + 1, config.epochs + 1):
        began = time.perf_counter()
        # A function of seed and epoch alone, so no generator's state needs to be saved.
        order = np.random.default_rng([config.seed, number]).permutation(len(data.train.labels))
        logs = network.fit(
            batches(images, labels, order, config.batch_size),
            validation_data=validation,
            shuffle=False,  # the order is in the batches
            verbose=0,
        ).history
        epoch = Epoch(
            epoch=number,
            train_loss=logs["loss"][0],
            train_accuracy=logs["accuracy"][0],
            val_loss=logs["val_loss"][0],
            val_accuracy=logs["val_accuracy"][0],
            learning_rate=float(optimizer.learning_rate.numpy()),
            epoch_seconds=time.perf_counter() - began,
        )
        weights = values(network.variables)
        check_finite(epoch, weights)
        history.append(epoch)
        if config.keep == "best" and epoch is best(history):
            best_weights = network.get_weights()
        if writer:
            write_summaries(writer, network, epoch)
        on_epoch(
            Checkpoint(tuple(history), weights, values(optimizer.variables), best_weights, here)
        )

    if config.keep == "best":
        network.set_weights(best_weights)
    kept = best(history) if config.keep == "best" else history[-1]
    return Trained(classifier(network), history, kept)


def prepare(config: TrialConfig) -> keras.Sequential:
    """The network with its initial weights and its optimizer, ready for the first epoch."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(config.seed)
    network = build(config.architecture, config.activation)
    compile_network(network, config)
    network.optimizer.build(network.trainable_variables)
    return network


def compile_network(network: keras.Sequential, config: TrialConfig) -> None:
    optimizer = keras.optimizers.get(config.optimizer)
    if config.learning_rate != "auto":
        optimizer.learning_rate = config.learning_rate
    network.compile(
        optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=STEPS_PER_EXECUTION,
        jit_compile=False,  # XLA is about twice slower on CPUs
    )


def origin(config: TrialConfig) -> Origin:
    """What the result depends on apart from ``config`` and the data, if this process trains it.

    Code that no Keras object describes, such as the order of the batches, is not part of it.
    """
    keras.backend.clear_session()  # Keras numbers its layers' names; start at the same number
    bare = keras.Sequential()
    compile_network(bare, config)
    return {
        "network": network_fingerprint(config.architecture, config.activation),
        "compile_config": _fingerprint(bare.get_compile_config()),
        **environment(),
    }


@cache  # building a network takes a quarter of a second
def network_fingerprint(architecture: Architecture, activation: str) -> str:
    """12 hexadecimal digits of the SHA-256 of a network's Keras configuration."""
    keras.backend.clear_session()
    return _fingerprint(build(architecture, activation).get_config())


def _fingerprint(config: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def restore(config: TrialConfig, start: Checkpoint) -> keras.Sequential:
    """The network and its optimizer as they were at a checkpoint, ready for the next epoch.

    Raises:
        CheckpointError: it has another origin, or its arrays do not fit.
    """
    if unlike := differences(start.origin, origin(config)):
        raise CheckpointError(f"it is of another origin: {unlike}")
    network = prepare(config)
    assign(network.variables, start.network)
    assign(network.optimizer.variables, start.optimizer)
    if config.keep == "best":
        check_fit(network.weights, start.best_weights)
    return network


def values(variables: Sequence[keras.Variable]) -> Arrays:
    return [np.asarray(variable) for variable in variables]


def assign(variables: Sequence[keras.Variable], arrays: Arrays) -> None:
    check_fit(variables, arrays)
    for variable, array in zip(variables, arrays):
        variable.assign(array)


def check_fit(variables: Sequence[keras.Variable], arrays: Arrays) -> None:
    if [tuple(variable.shape) for variable in variables] != [array.shape for array in arrays]:
        raise CheckpointError("its arrays do not have the shapes of the network and the optimizer")


def check_finite(epoch: Epoch, weights: Arrays) -> None:
    """Raise Diverged if a loss or a weight is not finite.

    The training loss alone is not enough: it is from before the epoch's last step.
    """
    for name, loss in (("training", epoch.train_loss), ("validation", epoch.val_loss)):
        if not math.isfinite(loss):
            raise Diverged(f"the {name} loss is {loss} in epoch {epoch.epoch}")
    if not all(np.isfinite(array).all() for array in weights):  # max pooling drops NaN
        raise Diverged(f"a weight is not finite after epoch {epoch.epoch}")


def predict(model: keras.Model, examples: Examples) -> npt.NDArray[np.float32]:
    """The class probabilities of each image, float32 (N, 10), in the order of CLASSES."""
    images, labels = tensors(examples)
    data = batches(images, labels, np.arange(len(labels)))
    return np.asarray(model.predict(data, verbose=0), np.float32)


def tensors(examples: Examples) -> tuple[tf.Tensor, tf.Tensor]:
    """Images and labels as tensors; images from the cache are not copied.

    TensorFlow aborts on unaligned memory, so unaligned images are copied. Those in the cache are
    aligned, because .npy files pad their header to 64 bytes and an image has 48 x 64.
    """
    if examples.images.ctypes.data % TENSOR_ALIGNMENT:
        images = tf.constant(examples.images)
    else:
        images = tf.experimental.dlpack.from_dlpack(examples.images.__dlpack__())
    return images, tf.constant(examples.labels, tf.int32)


def batches(
    images: tf.Tensor,
    labels: tf.Tensor,
    order: npt.NDArray[np.int64],
    batch_size: int = EVALUATION_BATCH,
) -> tf.data.Dataset:
    """(images, labels) batches in the given order of image indices; the last one may be smaller."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return (
        tf.data.Dataset.from_tensor_slices(order)
        .batch(batch_size)
        .map(lambda index: (tf.gather(images, index), tf.gather(labels, index)))
        .prefetch(2)
        .with_options(options)
    )


def write_summaries(writer: tf.summary.SummaryWriter, network: keras.Model, epoch: Epoch) -> None:
    """Write one epoch for TensorBoard: losses, accuracies, and a histogram of each weight."""
    with writer.as_default(step=epoch.epoch):
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            tf.summary.scalar(name, getattr(epoch, name))
        for weight in network.trainable_variables:
            tf.summary.histogram(weight.path, weight.value)
    writer.flush()
