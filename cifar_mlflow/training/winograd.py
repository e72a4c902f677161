"""Convolutions with 3 x 3 kernels in about a quarter of the multiplications, by Winograd's algorithm.

On a CPU they take about half the time of TensorFlow's (benchmarks/layers.py). Their results differ
from those by rounding, by about 1e-5 of the largest value.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cifar_mlflow.backend import keras, layers, tf
from cifar_mlflow.training.fused import faster

# The usual ones, and infinity. More points make larger tiles, and larger rounding errors.
POINTS = np.array([0, 1, -1, 2, -2, 1 / 2, -1 / 2])
LARGEST_TILE = len(POINTS) - 1  # outputs
# With fewer channels in, the transforms take the time that the multiplications save.
FEWEST_CHANNELS = 32

Matrix = npt.NDArray[np.float32]
Gradients = tuple[tf.Tensor, tf.Tensor]


class WinogradConv2D(layers.Conv2D):  # type: ignore[misc]  # Keras has no types
    """A `keras.layers.Conv2D` that `convolve` computes where this is faster."""

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        size_is_known = None not in inputs.shape[1:3]
        if size_is_known and kernel.shape[2] >= FEWEST_CHANNELS and faster(inputs):
            return convolve(inputs, tf.convert_to_tensor(kernel))
        return super().convolution_op(inputs, kernel)


def with_winograd(layer: keras.Layer) -> keras.Layer:
    """The same layer, not built yet, as a WinogradConv2D if it is a convolution that this can compute."""
    fits = (
        type(layer) is layers.Conv2D
        and layer.kernel_size == (3, 3)
        and layer.padding == "same"
        and layer.strides == layer.dilation_rate == (1, 1)
        and layer.groups == 1
        and layer.data_format == "channels_last"
    )
    return WinogradConv2D.from_config(layer.get_config()) if fits else layer


def convolve(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The convolution of `tf.nn.conv2d` with stride 1 and same padding.

    Args:
        images: float32 (N, height, width, channels); height and width are known when it is traced.
        kernel: float32 (3, 3, channels, filters).

    Returns:
        float32 (N, height, width, filters).
    """
    down, across = (line_transforms(size) for size in images.shape[1:3])
    of_images, of_kernel, to_outputs = zip(down, across)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def convolution(
        images: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], Gradients]]:
        weights = transformed(kernel, *of_kernel)

        def gradients(upstream: tf.Tensor) -> Gradients:
            # Computed again, because kept since the forward pass they would need more memory than the
            # images. After `upstream`, or TensorFlow would see that it has them.
            with tf.control_dependencies([upstream]):
                values = transformed(planes(tf.identity(images)), *of_images)
            upstream = transformed_back(planes(upstream), *to_outputs)
            to_images = tf.matmul(upstream, weights, transpose_b=True)
            to_weights = tf.matmul(values, upstream, transpose_a=True)
            return (
                batch(transformed_back(to_images, *of_images)),
                transformed_back(to_weights, *of_kernel),
            )

        products = tf.matmul(transformed(planes(images), *of_images), weights)
        return batch(transformed(products, *to_outputs)), gradients

    result: tf.Tensor = convolution(images, kernel)
    return result


def planes(images: tf.Tensor) -> tf.Tensor:
    """From (N, height, width, channels) to (height, width, N, channels)."""
    return tf.transpose(images, [1, 2, 0, 3])


def batch(planes: tf.Tensor) -> tf.Tensor:
    """From (height, width, N, channels) to (N, height, width, channels)."""
    return tf.transpose(planes, [2, 0, 1, 3])


def transformed(planes: tf.Tensor, down: Matrix, across: Matrix) -> tf.Tensor:
    """Multiply (height, width, N, channels) by a matrix along its height, and by one along its width."""
    lines = tf.matmul(down, tf.reshape(planes, [down.shape[1], -1]))
    lines = tf.matmul(across, tf.reshape(lines, [len(down), across.shape[1], -1]))
    return tf.reshape(lines, [len(down), len(across), -1, planes.shape[-1]])


def transformed_back(planes: tf.Tensor, down: Matrix, across: Matrix) -> tf.Tensor:
    """The gradient of `transformed`, by what it was given."""
    return transformed(planes, down.T, across.T)


class Transforms(NamedTuple):
    """The convolution of a line (size,) and a kernel (3,): ``outputs @ ((line @ x) * (kernel @ k))``.

    The line counts as if it had a zero more at each end, so that the result is (size,) too.
    """

    line: Matrix  # (products, size)
    kernel: Matrix  # (products, 3)
    outputs: Matrix  # (size, products)


@cache
def line_transforms(size: int) -> Transforms:
    """Those with the fewest products: the line is cut into tiles that are as large as possible."""
    tiles = np.array_split(range(size), math.ceil(size / LARGEST_TILE))
    products = size + 2 * len(tiles)
    line, kernel = np.zeros((products, size + 2)), np.zeros((products, 3))
    outputs = np.zeros((size, products))
    first = 0
    for tile in tiles:
        rows = slice(first, first := first + len(tile) + 2)
        line[rows, tile[0] : tile[-1] + 3], kernel[rows], outputs[tile, rows] = tile_transforms(
            len(tile)
        )
    matrices = (line[:, 1:-1], kernel, outputs)
    return Transforms(*(matrix.astype(np.float32) for matrix in matrices))


def tile_transforms(size: int) -> tuple[npt.NDArray[np.float64], ...]:
    """The matrices for ``size`` outputs of a line of ``size + 2``, with as many products as the line has.

    After Toom and Cook, two polynomials are multiplied by multiplying their values at some points. The
    transpose of this is a convolution (Winograd 1980; Lavin and Gray, arXiv 1509.09308).
    """
    points = POINTS[: size + 1]
    line, kernel = np.zeros((size + 2, size + 2)), np.zeros((size + 2, 3))
    outputs = np.zeros((size, size + 2))
    for row, point in enumerate(points):
        others = np.delete(points, row)
        line[row, :-1] = np.poly(others)[::-1]
        kernel[row] = point ** np.arange(3) / np.prod(point - others)
        outputs[:, row] = point ** np.arange(size)
    # The point at infinity.
    line[-1], kernel[-1, -1], outputs[-1, -1] = np.poly(points)[::-1], 1, 1
    return line, kernel, outputs
