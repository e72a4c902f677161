"""CIFAR-10: its classes, its arrays and their digest.

Krizhevsky, Nair, Hinton: "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cifar_mlflow.errors import UsageError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (32, 32, 3)
# SHA-256 of the four arrays as `content_digest` computes it; the files' own sums are published at URL.
CIFAR10_DIGEST = "757badef4aaef0dde1248f247c84a74933f68f0db1a17c0f1b73080d64e260f7"
URL = "https://www.cs.toronto.edu/~kriz/cifar.html"
Arrays = dict[str, npt.NDArray[np.uint8]]
ARRAY_NAMES = ("train_images", "train_labels", "test_images", "test_labels")


class Examples(NamedTuple):
    """Images, uint8 (N, 32, 32, 3), RGB 0..255, and labels, uint8 (N,), indices into CLASSES."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


class Splits(NamedTuple):
    train: Examples
    validation: Examples
    test: Examples


@dataclass(frozen=True)
class Cifar10:
    """A verified data set: the folder of its arrays, their SHA-256, and their source.

    Small to pickle: another process maps the same pages of the same files.
    """

    folder: Path
    digest: str
    source: str

    @property
    def official(self) -> bool:
        return self.digest == CIFAR10_DIGEST

    def __str__(self) -> str:
        name = "CIFAR-10" if self.official else "stand-in data (expected by CIFAR10_DIGEST):"
        train, test = (len(self.examples(part).labels) for part in ("train", "test"))
        return f"{name} {train:,} + {test:,} images, SHA-256 {self.digest[:8]}… ({self.source})"

    def arrays(self) -> Arrays:
        """The four arrays, memory-mapped. Copy-on-write, so that TensorFlow may alias them."""
        return {name: np.load(self.folder / f"{name}.npy", mmap_mode="c") for name in ARRAY_NAMES}

    def examples(self, part: Literal["train", "test"]) -> Examples:
        arrays = self.arrays()
        return Examples(arrays[f"{part}_images"], arrays[f"{part}_labels"])

    def split(self, validation_fraction: float) -> Splits:
        """Split like Keras' ``validation_split``: the last training images, unshuffled, validate.

        With a fraction of 0 all train, and the validation part has no images.

        Raises:
            UsageError: another fraction leaves no image on one side.
        """
        images, labels = self.examples("train")
        cut = int(len(images) * (1 - validation_fraction))
        if validation_fraction and not 0 < cut < len(images):
            raise UsageError(
                f"validation_fraction={validation_fraction}: of {len(images)} training images this "
                "leaves none to train or none to validate"
            )
        return Splits(
            train=Examples(images[:cut], labels[:cut]),
            validation=Examples(images[cut:], labels[cut:]),
            test=self.examples("test"),
        )


def class_counts(data: Cifar10) -> pd.DataFrame:
    """The number of images of each class (rows), in the columns train and test."""
    counts = {
        "train": np.bincount(data.examples("train").labels, minlength=len(CLASSES)),
        "test": np.bincount(data.examples("test").labels, minlength=len(CLASSES)),
    }
    return pd.DataFrame(counts, index=pd.Index(CLASSES, name="class"))


def content_digest(arrays: Mapping[str, npt.NDArray[np.uint8]]) -> str:
    """SHA-256, in hexadecimal, of names, shapes, types and contents of the four arrays."""
    sha256 = hashlib.sha256()
    for name in ARRAY_NAMES:
        array = arrays[name]
        sha256.update(digest_header(name, array.dtype, array.shape))
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


def digest_header(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    return f"{name} {dtype} {shape}\n".encode()
