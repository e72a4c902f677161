"""Initial weights that no Keras initializer can give, because they depend on the training images."""

import math

import numpy as np
import numpy.typing as npt

from cifar_mlflow.architectures import IDENTITY, WHITENING
from cifar_mlflow.backend import keras

IMAGES = 5000
AT_ONCE = 500  # of them, because patches of 2 x 2 pixels need 32 times the memory of their images
EPSILON = 3e-5  # added to the variances, of pixels in 0..1; 5e-4 in units of their variance (arXiv 2404.00498)


def initialise(network: keras.Sequential, images: npt.NDArray[np.uint8]) -> None:
    """Set the initial weights of the layers named whitening and identity, if the network has any.

    Args:
        images: training images, uint8 (N, size, size, 3).
    """
    for layer in network.layers:
        if layer.name == WHITENING:
            layer.set_weights(whitening(images[:IMAGES], layer.kernel.shape[0]))
        elif layer.name.startswith(IDENTITY):
            layer.set_weights([with_identity(layer.get_weights()[0])])


def whitening(
    images: npt.NDArray[np.uint8], size: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Kernel and bias of a convolution whose outputs are uncorrelated, centred and of variance 1.

    Its filters are the principal components of the images' patches, each also with its sign reversed,
    because the activation that follows may drop one sign.

    Returns:
        float32 (size, size, 3, 6 size²) and (6 size²,), for pixels in 0..1.
    """
    mean, covariance = moments(images, size)
    variances, components = np.linalg.eigh(covariance)
    filters = components / np.sqrt(variances + EPSILON)
    filters = np.concatenate([filters, -filters], axis=1)
    kernel = filters.reshape(size, size, images.shape[-1], -1)
    return kernel.astype(np.float32), (-mean @ filters).astype(np.float32)


def moments(
    images: npt.NDArray[np.uint8], size: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and covariance of the images' patches, for pixels in 0..1.

    Returns:
        float64 (3 size²,) and (3 size², 3 size²).
    """
    features = size * size * images.shape[-1]
    total, products, count = np.zeros(features), np.zeros((features, features)), 0
    for part in np.array_split(images, math.ceil(len(images) / AT_ONCE)):
        windows = np.lib.stride_tricks.sliding_window_view(part, (size, size), axis=(1, 2))
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, features).astype(np.float64)
        total += patches.sum(axis=0)  # of whole numbers, so without rounding
        products += patches.T @ patches
        count += len(patches)
    mean = total / count
    covariance = (products - count * np.outer(mean, mean)) / (count - 1)
    return mean / 255, covariance / 255**2


def with_identity(kernel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The kernel, float32 (h, w, in, out), whose first ``in`` outputs are a copy of the inputs."""
    height, width, inputs, outputs = kernel.shape
    copied = min(inputs, outputs)
    kernel = kernel.copy()
    kernel[..., :copied] = 0
    kernel[height // 2, width // 2, range(copied), range(copied)] = 1
    return kernel
