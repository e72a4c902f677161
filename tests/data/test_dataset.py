from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cifar_mlflow.data import cifar10
from cifar_mlflow.data.dataset import ARRAY_NAMES, POSITIONS, DataSet
from cifar_mlflow.errors import UsageError


def write(folder: Path, positions: Sequence[float]) -> DataSet:
    """Black images of two classes in turn: a training image for each position, and two for the test."""
    labels = np.arange(len(positions), dtype=np.uint8) % 2
    images = np.zeros((len(positions), 16, 16, 3), np.uint8)
    arrays = (images, labels, images[:2], labels[:2])
    for name, array in zip(ARRAY_NAMES, arrays, strict=True):
        np.save(folder / f"{name}.npy", array)
    np.save(folder / f"{POSITIONS}.npy", np.array(positions))
    return DataSet(folder, "0" * 64, str(folder), "Two", ("cat", "dog"), (16, 16, 3))


def sizes(data: DataSet, validation_fraction: float) -> tuple[int, int]:
    splits = data.split(validation_fraction)
    return len(splits.train.labels), len(splits.validation.labels)


def test_the_images_validate_whose_position_is_beyond_the_fraction(tmp_path: Path) -> None:
    data = write(tmp_path, [0.1, 0.3, 0.75, 0.8, 0.9])
    assert sizes(data, 0.25) == (2, 3)
    assert sizes(data, 0.2) == (3, 2)
    assert sizes(data, 0) == (5, 0)
    with pytest.raises(UsageError, match=r"validation_fraction=0\.05"):
        data.split(0.05)


def test_a_given_validation_part_is_kept_whatever_the_fraction(tmp_path: Path) -> None:
    data = write(tmp_path, [0, 0, 0, 1])
    assert sizes(data, 0.01) == sizes(data, 0.9) == (3, 1)
    assert sizes(data, 0) == (4, 0)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        (cifar10.NAME, "cifar10-cnn"),
        ("Fashion-MNIST", "fashion-mnist-cnn"),
        ("my flowers (2024)", "my-flowers2024-cnn"),
        ("Größe", "größe-cnn"),
        ("...", "images-cnn"),
    ],
)
def test_a_data_set_names_the_models_that_are_trained_on_it(
    tmp_path: Path, name: str, model: str
) -> None:
    assert replace(write(tmp_path, [0, 1]), name=name).model_name == model


def test_only_cifar10_itself_is_official(small_cifar10: DataSet, tmp_path: Path) -> None:
    assert not small_cifar10.official
    assert small_cifar10.title == "a stand-in for CIFAR-10"
    official = replace(small_cifar10, digest=cifar10.CIFAR10_DIGEST)
    assert official.official
    assert official.title == "CIFAR-10"
    own = write(tmp_path, [0, 1])
    assert (own.official, own.title) == (False, "Two")
    assert str(own).startswith("Two 2 + 2 images, SHA-256 00000000…")


def test_the_images_of_each_class_are_counted(tmp_path: Path) -> None:
    counts = write(tmp_path, [0, 0.1, 0.2]).class_counts()
    assert counts.to_dict("index") == {
        "cat": {"train": 2, "test": 1},
        "dog": {"train": 1, "test": 1},
    }
