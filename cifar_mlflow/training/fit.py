"""Fit one model: a plain Keras `fit` for each epoch, on data sets that keep every core busy.

benchmarks/ measures what makes it fast. Each call of the graph runs many steps. Trials run
concurrently, with one thread each.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cifar_mlflow.backend import keras, tf
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet, Examples, ImageShape
from cifar_mlflow.errors import CheckpointError, Diverged
from cifar_mlflow.training import batches
from cifar_mlflow.training.checkpoint import Arrays, Checkpoint, Epoch, best
from cifar_mlflow.training.devices import check_precision, claim, names
from cifar_mlflow.training.initial import initialise
from cifar_mlflow.training.network import build, classifier, training_flop
from cifar_mlflow.training.optimizers import make_optimizer
from cifar_mlflow.training.origin import Origin, differences, environment

STEPS_PER_EXECUTION = 50


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    model: keras.Model  # uint8 pixels (N, size, size, 3) to probabilities (N, classes)
    history: list[Epoch]
    kept: Epoch  # the epoch whose weights the model has
    # Of the model, with test-time augmentation, on the validation images; None without any.
    val_loss: float | None  # in nats
    val_accuracy: float | None  # 0..1
    flop: int  # floating-point operations of the training, see network.training_flop


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
        named = names(len(visible))
        own = visible[named.index(claim(named))]
        tf.config.set_visible_devices(own, "GPU")
        tf.config.experimental.set_memory_growth(own, True)  # several processes may share one
    tf.config.experimental.enable_op_determinism()


def train(
    config: TrialConfig,
    data: DataSet,
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
        UsageError: this machine lacks the precision.
    """
    check_precision(config.precision)
    here = origin(config, data)
    splits, classes = data.split(config.validation_fraction), len(data.classes)
    network = (
        restore(config, start, data) if start else prepare(config, splits.train.images, classes)
    )
    optimizer = network.optimizer
    history = list(start.history) if start else []
    best_weights = start.best_weights if start else ()

    training = partial(batches.for_training, *batches.tensors(splits.train), classes, config)
    validation = validation_batches(config, splits.validation, classes)
    writer = tf.summary.create_file_writer(str(tensorboard)) if tensorboard else None
    full_size, traced_size = data.image_shape[0], 0
    for number in range(len(history) + 1, config.epochs + 1):
        size = config.training_size(number, full_size)
        if size != traced_size:  # a graph for two sizes would know neither when it is traced
            network.make_train_function(force=True)
            traced_size = size
        epoch = train_epoch(network, number, training, validation)
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

    flop = len(splits.train.labels) * sum(
        training_flop(network, config.training_size(epoch.epoch, full_size)) for epoch in history
    )
    kept, weights = history[-1], network.get_weights()
    if config.keep == "best":
        kept, weights = best(history), best_weights
    reset_names()
    model = classifier(config, data.image_shape, classes, weights)
    val_loss, val_accuracy = kept.val_loss, kept.val_accuracy
    if config.changes_for_use and validation is not None:
        val_loss, val_accuracy = evaluate(model, splits.validation)
    return Trained(model, history, kept, val_loss, val_accuracy, flop)


def train_epoch(
    network: keras.Sequential,
    number: int,
    training: Callable[[int], tf.data.Dataset],
    validation: tf.data.Dataset | None,
) -> Epoch:
    """Train for one epoch, the one of this number, and validate.

    Args:
        training: makes the batches of an epoch, which takes a part of the epoch's seconds.
    """
    began = time.perf_counter()
    learning_rate = float(network.optimizer.learning_rate.numpy())  # of the epoch's first step
    # The order of the images is in the batches.
    fitted = network.fit(training(number), validation_data=validation, shuffle=False, verbose=0)
    logs = {name: values[0] for name, values in fitted.history.items()}
    return Epoch(
        epoch=number,
        train_loss=logs["loss"],
        train_accuracy=logs["accuracy"],
        val_loss=logs.get("val_loss"),
        val_accuracy=logs.get("val_accuracy"),
        learning_rate=learning_rate,
        epoch_seconds=time.perf_counter() - began,
    )


def validation_batches(
    config: TrialConfig, examples: Examples, classes: int
) -> tf.data.Dataset | None:
    """What the network is validated on after each epoch; None without an image."""
    if not len(examples.labels):
        return None
    images, truth = batches.tensors(examples)
    if config.label_smoothing:  # of the training labels alone
        truth = batches.targets(truth, classes, smoothing=0)
    return batches.for_evaluation(images, truth)


def prepare(config: TrialConfig, images: npt.NDArray[np.uint8], classes: int) -> keras.Sequential:
    """The network with its initial weights and its optimizer, ready for the first epoch.

    Args:
        images: the training images, uint8 (N, size, size, 3).
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(config.seed)
    network = build(config, images.shape[1:], classes)
    initialise(network, images)
    compile_network(network, config, config.epochs * math.ceil(len(images) / config.batch_size))
    network.optimizer.build(network.trainable_variables)
    return network


def compile_network(network: keras.Sequential, config: TrialConfig, steps: int) -> None:
    losses = keras.losses
    loss = (
        losses.CategoricalCrossentropy
        if config.label_smoothing
        else losses.SparseCategoricalCrossentropy
    )
    network.compile(
        make_optimizer(config, steps),
        loss=loss(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=STEPS_PER_EXECUTION,
        jit_compile=False,  # XLA is about twice slower on CPUs
    )


def origin(config: TrialConfig, data: DataSet) -> Origin:
    """What the result depends on apart from ``config`` and ``data``, if this process trains it.

    Of the data, the network depends on the image shape and the number of classes alone. Code that no
    Keras object describes, such as the order of the batches, is not part of it.
    """
    reset_names()
    bare = keras.Sequential()
    compile_network(bare, config, steps=1)
    return {
        "network": network_fingerprint(config.network_config, data.image_shape, len(data.classes)),
        "compile_config": _fingerprint(bare.get_compile_config()),
        **environment(),
    }


@cache  # building a network takes a quarter of a second
def network_fingerprint(config: TrialConfig, image_shape: ImageShape, classes: int) -> str:
    """12 hexadecimal digits of the SHA-256 of a network's Keras configuration."""
    reset_names()
    return _fingerprint(build(config, image_shape, classes).get_config())


def _fingerprint(config: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def reset_names() -> None:
    """Let Keras number the names of layers from the start again.

    Once for each trial, in `prepare`, it collects garbage too, which takes a fifth of a second.
    """
    keras.backend.clear_session(free_memory=False)


def restore(config: TrialConfig, start: Checkpoint, data: DataSet) -> keras.Sequential:
    """The network and its optimizer as they were at a checkpoint, ready for the next epoch.

    Raises:
        CheckpointError: it has another origin, or its arrays do not fit.
    """
    if unlike := differences(start.origin, origin(config, data)):
        raise CheckpointError(f"it is of another origin: {unlike}")
    images = data.split(config.validation_fraction).train.images
    network = prepare(config, images, len(data.classes))
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
        if loss is not None and not math.isfinite(loss):
            raise Diverged(f"the {name} loss is {loss} in epoch {epoch.epoch}")
    if not all(np.isfinite(array).all() for array in weights):  # max pooling drops NaN
        raise Diverged(f"a weight is not finite after epoch {epoch.epoch}")


def predict(model: keras.Model, examples: Examples) -> npt.NDArray[np.float32]:
    """The class probabilities of each image, float32 (N, classes), in the order of the classes."""
    data = batches.for_evaluation(*batches.tensors(examples))
    return np.asarray(model.predict(data, verbose=0), np.float32)


def evaluate(model: keras.Model, examples: Examples) -> tuple[float, float]:
    """Mean cross-entropy in nats, and accuracy in 0..1, of a classifier."""
    # Another model of the same layers, because a model that is compiled is saved with an optimizer.
    same = keras.Model(model.inputs, model.outputs)
    same.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    loss, accuracy = same.evaluate(batches.for_evaluation(*batches.tensors(examples)), verbose=0)
    return loss, accuracy


def write_summaries(writer: tf.summary.SummaryWriter, network: keras.Model, epoch: Epoch) -> None:
    """Write one epoch for TensorBoard: losses, accuracies, and a histogram of each weight."""
    with writer.as_default(step=epoch.epoch):
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            if (value := getattr(epoch, name)) is not None:
                tf.summary.scalar(name, value)
        for weight in network.trainable_variables:
            tf.summary.histogram(weight.path, weight.value)
    writer.flush()
