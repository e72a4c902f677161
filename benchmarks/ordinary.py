"""The paper's training as an ordinary script: the baseline for the trainer, and for the grid.

    python -m benchmarks.ordinary --activations relu --batch_sizes 32 --optimizers adam --epochs 2

NumPy arrays, `validation_split` and the paper's two callbacks; the rest are Keras' defaults. Trains every
combination of what is given, one after another, or with joblib where there are several workers.
"""

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

import joblib
import keras
import numpy as np
import numpy.typing as npt


def train(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    batch_size: int,
    epochs: int,
    callbacks: bool = True,
    activation: str = "relu",
    optimizer: str = "adam",
    ends: list[float] | None = None,
) -> keras.Model:
    """Fit the paper's third network.

    Args:
        ends: gets the second at which each epoch ended, on the clock of `time.perf_counter`.
    """
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(32, 3, activation=activation),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation=activation),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation=activation),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation=activation),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    with tempfile.TemporaryDirectory() as folder:
        both = [
            keras.callbacks.TensorBoard(Path(folder, "logs"), histogram_freq=1),
            keras.callbacks.ModelCheckpoint(Path(folder, "best.keras"), save_best_only=True),
        ]
        used: list[keras.callbacks.Callback] = both if callbacks else []
        if ends is not None:
            used.append(
                keras.callbacks.LambdaCallback(
                    on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter())
                )
            )
        model.fit(
            images,
            labels,
            batch_size=batch_size,
            epochs=epochs,
            validation_split=0.2,
            callbacks=used,
            verbose=0,
        )
    return model


def train_and_test(
    data: dict[str, npt.NDArray[np.uint8]],
    activation: str,
    batch_size: int,
    optimizer: str,
    epochs: int,
) -> str:
    keras.backend.clear_session()
    images, labels = data["train_images"], data["train_labels"]
    model = train(images, labels, batch_size, epochs, True, activation, optimizer)
    loss, accuracy = model.evaluate(data["test_images"], data["test_labels"], verbose=0)
    return f"{activation} {batch_size} {optimizer}: test loss {loss:.3f}, accuracy {accuracy:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--activations", nargs="+", required=True)
    parser.add_argument("--batch_sizes", type=int, nargs="+", required=True)
    parser.add_argument("--optimizers", nargs="+", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    from cifar_mlflow.data import load

    os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)  # an ordinary script leaves it to TensorFlow
    if options.workers > 1:  # they would get in each other's way
        os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    data = {name: np.array(array) for name, array in load.load().arrays().items()}
    combinations = itertools.product(options.activations, options.batch_sizes, options.optimizers)
    lines = joblib.Parallel(n_jobs=options.workers)(
        joblib.delayed(train_and_test)(data, *values, options.epochs) for values in combinations
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
