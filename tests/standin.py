"""A small stand-in for CIFAR-10 in the official file format: noise about a colour for each class."""

import pickle
from pathlib import Path

import numpy as np

from cifar_mlflow.data import cifar10, dataset, sources
from cifar_mlflow.data.dataset import DataSet

# CIFAR-10 without its images, for what depends on its shape and classes alone.
EMPTY = DataSet(Path(), "", "", cifar10.NAME, cifar10.CLASSES, cifar10.IMAGE_SHAPE)


def batch(images_per_class: int, seed: int) -> dataset.Examples:
    """Shuffled images, ``images_per_class`` of each of the ten classes."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(10, dtype=np.uint8), images_per_class))
    colours = np.random.default_rng(0).integers(60, 196, (10, 1, 1, 3))
    noise = random.integers(-50, 51, (len(labels), 32, 32, 3))
    return dataset.Examples((colours[labels] + noise).astype(np.uint8), labels)


def write_batch(path: Path, examples: dataset.Examples) -> None:
    planes = examples.images.transpose(0, 3, 1, 2).reshape(len(examples.labels), 3072)
    content = {b"data": np.ascontiguousarray(planes), b"labels": examples.labels.tolist()}
    path.write_bytes(pickle.dumps(content, protocol=4))


def write(folder: Path, images_per_class: int = 4) -> str:
    """Six batch files in ``folder``; gives the SHA-256 for CIFAR10_DIGEST."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate((*sources.TRAIN_FILES, sources.TEST_FILE)):
        write_batch(folder / name, batch(images_per_class, seed))
    return dataset.content_digest(sources.read_path(folder))
