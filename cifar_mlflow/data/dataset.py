"""A data set: what it is called, its classes, its images and how they are split."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cifar_mlflow.data import cifar10
from cifar_mlflow.errors import UsageError

Arrays = dict[str, npt.NDArray[np.uint8]]
ARRAY_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
POSITIONS = "train_positions"
ImageShape = tuple[int, int, int]
MOST_CLASSES = 256  # a label is one byte
# A table of predictions has these columns, and then one for each class.
RESERVED = ("true", "predicted")


def slug_of(name: str) -> str:
    """A name in identifiers: lower case, a number joined to its word: cifar10, fashion-mnist."""
    joined = re.sub(r"(?<=[^\W\d])[\W_]+(?=\d)", "", name.lower())
    return re.sub(r"[\W_]+", "-", joined)[:100].strip("-") or "images"


class Examples(NamedTuple):
    """Images, uint8 (N, size, size, 3), RGB 0..255, and labels, uint8 (N,), indices of classes."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


class Splits(NamedTuple):
    train: Examples
    validation: Examples
    test: Examples


@dataclass(frozen=True)
class DataSet:
    """A verified data set on disk: the folder of its arrays, their digest, and what they show.

    Small to pickle: another process maps the same pages of the same files. The folder has the four
    arrays as .npy files, train_images and so on. It may also have train_positions.npy, float64 (N,) in
    0..1, ascending, which says for each training image how soon it validates (see `split`).
    """

    folder: Path
    digest: str  # SHA-256, hexadecimal, of all that makes it different from another data set
    source: str  # where it came from: a path, or a word such as "cache"
    name: str  # as people write it, such as "CIFAR-10"
    classes: tuple[str, ...]
    image_shape: ImageShape  # (size, size, 3), RGB

    @property
    def official(self) -> bool:
        """Whether it is CIFAR-10 itself, so that published numbers can be compared."""
        return self.digest == cifar10.CIFAR10_DIGEST

    @property
    def title(self) -> str:
        """The name, or "a stand-in for CIFAR-10" for other data in its format."""
        stand_in = self.name == cifar10.NAME and not self.official
        return cifar10.STAND_IN if stand_in else self.name

    @property
    def slug(self) -> str:
        """The name in identifiers, see `slug_of`."""
        return slug_of(self.name)

    @property
    def model_name(self) -> str:
        """The registered model that its classifiers become versions of, unless another is named."""
        return f"{self.slug}-cnn"

    def __str__(self) -> str:
        stand_in = self.title == cifar10.STAND_IN
        name = "stand-in data (expected by CIFAR10_DIGEST):" if stand_in else self.name
        train, test = (len(self.examples(part).labels) for part in ("train", "test"))
        return f"{name} {train:,} + {test:,} images, SHA-256 {self.digest[:8]}… ({self.source})"

    def arrays(self) -> Arrays:
        """The four arrays, memory-mapped. Copy-on-write, so that TensorFlow may alias them."""
        return {name: np.load(self.folder / f"{name}.npy", mmap_mode="c") for name in ARRAY_NAMES}

    def examples(self, part: Literal["train", "test"]) -> Examples:
        arrays = self.arrays()
        return Examples(arrays[f"{part}_images"], arrays[f"{part}_labels"])

    @property
    def positions(self) -> npt.NDArray[np.float64] | None:
        """train_positions.npy; None without that file."""
        path = self.folder / f"{POSITIONS}.npy"
        return np.load(path) if path.exists() else None

    def split(self, validation_fraction: float) -> Splits:
        """Hold out the last training images for validation.

        Without positions that is the fraction of the images, as of Keras' ``validation_split``. With
        positions it is the images from 1 - fraction on: an image whose position is a hash of its content
        keeps its part when others are added, and one at 1 always validates. With a fraction of 0 all
        train, and the validation part has no images.

        Raises:
            UsageError: another fraction leaves no image on one side.
        """
        images, labels = self.examples("train")
        positions = self.positions
        if validation_fraction == 0:
            cut = len(images)
        elif positions is None:
            cut = int(len(images) * (1 - validation_fraction))
        else:
            cut = int(np.searchsorted(positions, 1 - validation_fraction))
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

    def class_counts(self) -> pd.DataFrame:
        """The number of images of each class (rows), in the columns train and test."""
        counts = {
            part: np.bincount(self.examples(part).labels, minlength=len(self.classes))
            for part in ("train", "test")
        }
        return pd.DataFrame(counts, index=pd.Index(self.classes, name="class"))


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
