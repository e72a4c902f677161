"""Batches of images as tf.data sets, in a given order, changed at random or not.

tf.data's autotuner is off, because it stalls `fit` between epochs. Images stay in one memory-mapped
tensor, and the graph gathers them by shuffled indices.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_mlflow.backend import keras, tf
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import Examples

EVALUATION_PIXELS = 500 * 32 * 32  # in a batch
TENSOR_ALIGNMENT = 64  # bytes
SHIFT = 2  # pixels at most
ROTATION = np.pi / 5  # at most, in radians: as Keras' RandomRotation(0.1)


def tensors(examples: Examples) -> tuple[tf.Tensor, tf.Tensor]:
    """Images and labels as tensors; images from the cache are not copied.

    TensorFlow aborts on unaligned memory, so unaligned images are copied. Those at the start of a file
    are aligned, because .npy files pad their header to 64 bytes; and so are all others if their height
    and width are a multiple of 8, so that an image has a multiple of 64 bytes.
    """
    if examples.images.ctypes.data % TENSOR_ALIGNMENT:
        images = tf.constant(examples.images)
    else:
        images = tf.experimental.dlpack.from_dlpack(examples.images.__dlpack__())
    return images, tf.constant(examples.labels, tf.int32)


def for_evaluation(images: tf.Tensor, targets: tf.Tensor) -> tf.data.Dataset:
    """(images, targets) batches, in order; the last one may be smaller."""
    return _dataset(
        np.arange(len(images)),
        max(1, EVALUATION_PIXELS // math.prod(images.shape[1:3])),
        lambda index: (tf.gather(images, index), tf.gather(targets, index)),
    )


def targets(labels: tf.Tensor, classes: int, smoothing: float) -> tf.Tensor:
    """The labels as probabilities, float32 (N, classes), of which a share is spread over all classes."""
    return tf.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes


def class_weights(labels: npt.NDArray[np.integer[Any]], classes: int) -> npt.NDArray[np.float32]:
    """What an image of each class counts, so that all classes count alike, and an image 1 on average.

    As scikit-learn's "balanced": images / (classes * images of the class).
    """
    counts = np.bincount(labels, minlength=classes)
    weights: npt.NDArray[np.float64] = len(labels) / (classes * np.maximum(counts, 1))
    return weights.astype(np.float32)


def for_training(
    images: tf.Tensor, labels: tf.Tensor, classes: int, config: TrialConfig, epoch: int
) -> tf.data.Dataset:
    """(images, labels) batches of an epoch, counted from 1; the last one may be smaller.

    Images are uint8 (N, size, size, 3). With label smoothing, labels are float32 (N, classes). With
    class weights there is a third tensor, float32 (N,): what each image counts in the loss.

    All that is random is a function of the seed and the epoch, so no generator's state needs to be saved.
    """
    random = np.random.default_rng([config.seed, epoch])
    order = random.permutation(len(labels))
    drawn = [tf.constant(each) for each in changes(config, epoch, len(labels), random)]
    full_size = images.shape[1]
    size = config.training_size(epoch, full_size)
    balanced = config.class_weights == "balanced"
    weights = tf.constant(class_weights(np.asarray(labels), classes)) if balanced else None

    def load(index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pixels, truth = tf.gather(images, index), tf.gather(labels, index)
        weighted = () if weights is None else (tf.gather(weights, truth),)
        if config.augment != "none":
            mirrored, shifts, angles = (tf.gather(each, index) for each in drawn)
            pixels = changed(pixels, mirrored, shifts)
            if config.augment == "flip-rotate":
                pixels = rotated(pixels, angles)
        if size != full_size:
            pixels = resized(pixels, size)
        if config.label_smoothing:
            truth = targets(truth, classes, config.label_smoothing)
        return pixels, truth, *weighted

    return _dataset(order, config.batch_size, load)


def changes(
    config: TrialConfig, epoch: int, count: int, random: np.random.Generator
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Which images to mirror in an epoch, bool (count,), and how far to shift and rotate each.

    Shifts are in pixels, down and to the right, int32 (count, 2); angles in radians, float32 (count,).

    An image that is mirrored in one epoch is not in the next, so that two epochs show both sides of
    each (alternating flip, arXiv 2404.00498).
    """
    first = np.random.default_rng([config.seed, 0]).random(count) < 0.5
    shifts, angles = np.zeros((count, 2), np.int32), np.zeros(count, np.float32)
    if config.augment == "flip-crop":
        shifts = random.integers(-SHIFT, SHIFT, (count, 2), np.int32, endpoint=True)
    if config.augment == "flip-rotate":
        angles = random.uniform(-ROTATION, ROTATION, count).astype(np.float32)
    return first ^ (epoch % 2 == 0), shifts, angles


def changed(images: tf.Tensor, mirrored: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """The images (N, height, width, 3), shifted and then mirrored; edges are filled by reflection."""
    rows = reflected(shifts[:, :1], images.shape[1])
    columns = reflected(shifts[:, 1:], images.shape[2])
    columns = tf.where(mirrored[:, None], columns[:, ::-1], columns)
    images = tf.gather(images, rows, axis=1, batch_dims=1)
    return tf.gather(images, columns, axis=2, batch_dims=1)


def reflected(shifts: tf.Tensor, size: int) -> tf.Tensor:
    """For each shift, int32 (N, 1), the ``size`` pixels of a line to take, int32 (N, size)."""
    pixels = tf.abs(tf.range(size) - shifts)
    return size - 1 - tf.abs(size - 1 - pixels)


def rotated(images: tf.Tensor, angles: tf.Tensor) -> tf.Tensor:
    """Images (N, size, size, 3), uint8, turned about their centres; edges are filled by reflection."""
    cos, sin = tf.cos(angles), tf.sin(angles)
    centre = (images.shape[1] - 1) / 2
    right, down = centre * (1 - cos + sin), centre * (1 - cos - sin)
    none = tf.zeros_like(angles)
    sources = tf.stack([cos, -sin, right, sin, cos, down, none, none], axis=1)
    turned = keras.ops.image.affine_transform(
        tf.cast(images, tf.float32), sources, interpolation="bilinear", fill_mode="reflect"
    )
    return tf.cast(tf.round(turned), tf.uint8)


def resized(images: tf.Tensor, size: int) -> tf.Tensor:
    """Images of ``size`` x ``size`` pixels, uint8, each pixel the mean of those that it covers."""
    smaller = tf.image.resize(images, (size, size), "area")
    return tf.cast(tf.round(smaller), tf.uint8)


def _dataset(
    order: npt.NDArray[np.int64],
    batch_size: int,
    load: Callable[[tf.Tensor], tuple[tf.Tensor, ...]],
) -> tf.data.Dataset:
    options = tf.data.Options()
    options.autotune.enabled = False
    return (
        tf.data.Dataset.from_tensor_slices(order)
        .batch(batch_size)
        .map(load)
        .prefetch(2)
        .with_options(options)
    )
