"""Where a classifier looks: cover an image part by part, and see what that costs its class.

It needs predictions alone, no gradient and no layer, so it works for any model. Source: Zeiler and
Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, section 4.2.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_mlflow.analysis.metrics import SMALLEST

CELLS = 8  # along a side of an image, each a value of its map: 4 x 4 pixels of 32 x 32
PATCH = 2  # cells along a side of what is covered at once
GREY = np.uint8(128)

Predict = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.floating[Any]]]


def occlusion_maps(
    predict: Predict, images: npt.NDArray[np.uint8], classes: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.float64]:
    """The log odds (nats) that a class loses where a grey patch covers the image, (N, 8, 8).

    The patch is a quarter of the image wide and high, and moves in steps of half its size, over the edges
    too. So each cell is covered four times, and its value is the mean of these. Log odds, because the
    probability of a sure class hardly moves.

    Args:
        predict: pixels (M, size, size, 3) to probabilities (M, classes); called once, with 82 N images.
        images: (N, size, size, 3).
        classes: (N,), the index of the class to explain in each image.
    """
    patches = _patches()
    size = images.shape[1]
    cell = np.arange(size) * CELLS // size  # of each row, and of each column
    pixels = patches[:, cell][:, :, cell, np.newaxis]
    views = np.concatenate(
        [images[:, np.newaxis], np.where(pixels, GREY, images[:, np.newaxis])], 1
    )
    probabilities = predict(views.reshape(-1, *images.shape[1:]))
    odds = log_odds(probabilities, classes.repeat(1 + len(patches))).reshape(len(images), -1)
    return np.tensordot(odds[:, :1] - odds[:, 1:], patches, axes=1) / PATCH**2


def log_odds(
    probabilities: npt.NDArray[np.floating[Any]], classes: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.float64]:
    """log(p / (1 - p)) of a class in each row, (N,); exact where p rounds to 1."""
    own = np.arange(probabilities.shape[1]) == classes[:, np.newaxis]
    one = np.sum(probabilities, axis=1, where=own, dtype=np.float64)
    others = np.sum(probabilities, axis=1, where=~own, dtype=np.float64)
    return np.log(np.maximum(one, SMALLEST)) - np.log(np.maximum(others, SMALLEST))


def _patches() -> npt.NDArray[np.bool_]:
    """Which cells each patch covers, (81, 8, 8); each cell is covered by four of them."""
    starts = np.arange(1 - PATCH, CELLS)[:, np.newaxis]
    covered = np.arange(CELLS) - starts
    along = (covered >= 0) & (covered < PATCH)
    both = along[:, np.newaxis, :, np.newaxis] & along[np.newaxis, :, np.newaxis, :]
    return both.reshape(-1, CELLS, CELLS)
