"""scikit-learn's handwritten digits as a person's own images: they need no network."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

Pixels = npt.NDArray[np.uint8]


def digits(of_each: int, start: int = 0) -> tuple[Pixels, Pixels]:
    """``of_each`` images of each digit, uint8 (N, 8, 8), grey, and their labels, uint8 (N,), sorted."""
    data = load_digits()
    rows = [np.flatnonzero(data.target == digit)[start : start + of_each] for digit in range(10)]
    chosen = np.concatenate(rows)
    return (data.images[chosen] * 15).astype(np.uint8), data.target[chosen].astype(np.uint8)


def write_folders(folder: Path, of_each: int, start: int = 0) -> list[Path]:
    """A folder of image files for each digit; gives the files, which every version of Pillow writes alike."""
    files = []
    for number, (pixels, label) in enumerate(zip(*digits(of_each, start))):
        file = folder / str(label) / f"{start}-{number:04}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
        files.append(file)
    return files
