"""What it takes to read a folder of small images: the first time, and from the cache.

    python -m benchmarks.reading --images 10000 100000

The images are Fashion-MNIST's (Debian's package dataset-fashion-mnist) as JPEG and PNG files in turn; those
beyond its 70,000 are mirrored. Each reading is a process of its own. Prints its seconds, with the imports,
and the most memory that it had.
"""

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from benchmarks import machine
from cifar_mlflow.data.user_data import read_user_data
from tools.public_data import fashion_mnist

R = TypeVar("R")


def write(folder: Path, count: int) -> None:
    arrays = fashion_mnist()
    images = np.concatenate([arrays["x_train"], arrays["x_test"]])
    labels = np.concatenate([arrays["y_train"], arrays["y_test"]])
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for number in range(count):
        again, row = divmod(number, len(images))
        pixels = images[row, :, :: -1 if again else 1]
        suffix = ("jpg", "png")[number % 2]
        Image.fromarray(pixels).save(folder / str(labels[row]) / f"{number:06}.{suffix}")


def read(folder: Path) -> int:
    """Read the folder; gives the most memory of this process, in kilobytes."""
    read_user_data(folder, 32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_a_process(function: Callable[..., R], *arguments: object) -> R:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--images", type=machine.positive, nargs="+", default=[10_000, 100_000])
    print(f"{os.cpu_count()} cores\n images  reading     seconds   MB")
    for count in parser.parse_args().images:
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["XDG_CACHE_HOME"] = f"{scratch}/cache"
            folder = Path(scratch, "images")
            in_a_process(write, folder, count)
            for reading in ("the first", "from cache"):
                started = time.perf_counter()
                memory = in_a_process(read, folder)
                seconds = time.perf_counter() - started
                print(f"{count:7,}  {reading:<10} {seconds:8.1f} {memory / 1000:4.0f}", flush=True)


if __name__ == "__main__":
    main()
