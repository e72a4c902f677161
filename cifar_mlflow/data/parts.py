"""Which images train, validate and test: by a hash of their content, never by their names or order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from cifar_mlflow.data.collection import PARTS, TEST, TRAIN, VALIDATION, Collection, Decoded
from cifar_mlflow.errors import DataError
from cifar_mlflow.formatting import counted

TEST_SHARE = 0.2
# Root mean square of the differences in `Picture.look`, of 255, below which two images count as similar. A
# JPEG copy differs by 1 or 2; see docs/data.md.
SIMILAR = 4.0

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Division:
    """Decoded images by part, as their numbers, in an order that only their content decides."""

    train: Numbers  # those that validate among them
    positions: Floats  # (len(train),), ascending; see `DataSet`
    test: Numbers
    left_out: Numbers  # copies of images in an earlier part
    contradicting: Numbers  # copies of images of another class
    similar: int  # images that look like one of an earlier part


def divide(images: Decoded, collection: Collection) -> Division:
    """Divide images into training, validation and test images.

    A part that is not given is taken from the training images, by two numbers in 0..1 that an image's
    content has. It tests if the one is below 0.2; the other is its position. So it keeps its part when
    others are added. Copies share the numbers of one of them. To give each class an image in each part,
    its image with the lowest number always tests, and its lowest and highest position are 0 and 1; this
    moves images in small classes only.

    Raises:
        DataError: a class has too few images.
    """
    label = np.asarray(collection.labels)[images.rows]
    part = np.asarray(collection.parts)[images.rows]
    hashes = images.content.view(">u8")  # (N, 4)
    numbers = pd.DataFrame(hashes[:, :2] / 2.0**64).groupby(images.same).transform("min").to_numpy()
    part, position = _assign(label, part, numbers[:, 0], numbers[:, 1], collection)
    kept = part == pd.Series(part).groupby(images.same).transform("min")  # not in an earlier part
    for needed in sorted({TRAIN, TEST} | collection.given):
        counts = np.bincount(label[kept & (part == needed)], minlength=len(collection.classes))
        if not counts.all():
            index = int(np.argmin(counts))
            name = collection.classes[index]
            copies = int(((label == index) & (part == needed)).sum())
            all_copies = (
                f"all {counted(copies, 'image')} there are copies of images in another part"
            )
            raise DataError(
                f"{collection.path}: the class {name!r} has no image in {PARTS[needed]}"
                + (f": {all_copies}" if copies else "")
            )

    order = np.lexsort((label, hashes[:, 2], position))
    train, test = (order[(kept & side)[order]] for side in (part != TEST, part == TEST))
    labels_of_copies = pd.Series(label).groupby(images.same).transform("nunique")
    return Division(
        train=train,
        positions=position[train],
        test=test,
        left_out=np.flatnonzero(~kept),
        contradicting=np.flatnonzero(labels_of_copies > 1),
        similar=sum(
            _count_similar(images.look[kept & (part == later)], images.look[kept & (part < later)])
            for later in (VALIDATION, TEST)
        ),
    )


def _assign(
    label: Numbers, part: Numbers, number: Floats, position: Floats, collection: Collection
) -> tuple[Numbers, Floats]:
    """The part and the position of each image: TRAIN also for what validates by its position."""
    part, position = part.copy(), position.copy()
    taken = [missing for missing in (VALIDATION, TEST) if missing not in collection.given]
    for index, name in enumerate(collection.classes):
        rows = np.flatnonzero((label == index) & (part == TRAIN))
        different = np.unique(number[rows])
        if len(different) < 1 + len(taken):
            raise DataError(
                f"{collection.path}: the class {name!r} {_too_few(len(different), taken)}"
            )
        if TEST in taken:
            below = min(TEST_SHARE, different[-len(taken)])  # leaves an image for each other part
            part[rows[(number[rows] < below) | (number[rows] == different[0])]] = TEST
            rows = rows[part[rows] == TRAIN]
        if VALIDATION in taken:
            found = position[rows]
            position[rows[found == found.max()]] = 1
            position[rows[found == found.min()]] = 0
    if VALIDATION not in taken:
        position = (part == VALIDATION).astype(np.float64)
    return part, position


def _too_few(count: int, taken: Sequence[int]) -> str:
    if not taken:
        return f"has no image in {PARTS[TRAIN]}"
    parts = " and ".join(PARTS[part] for part in taken)
    return (
        f"has {counted(count, 'different training image')}; it needs {1 + len(taken)}, because {parts} "
        "images are taken from them"
    )


def _count_similar(looks: npt.NDArray[np.uint8], others: npt.NDArray[np.uint8]) -> int:
    """How many images look like one of the others."""
    if not len(looks) or not len(others):
        return 0
    from sklearn.metrics import pairwise_distances_argmin_min  # takes a second

    _, distances = pairwise_distances_argmin_min(
        looks.astype(np.float32), others.astype(np.float32)
    )
    return int((distances < SIMILAR * math.sqrt(looks.shape[1])).sum())
