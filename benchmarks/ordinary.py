"""The paper's training as an ordinary script: the baseline for the trainer.

NumPy arrays, `validation_split` and the paper's two callbacks; the rest are Keras' defaults.
"""

import tempfile
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt


def train(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    batch_size: int,
    epochs: int,
    callbacks: bool,
) -> None:
    """Fit the paper's third network with relu and adam."""
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    with tempfile.TemporaryDirectory() as folder:
        both = [
            keras.callbacks.TensorBoard(Path(folder, "logs"), histogram_freq=1),
            keras.callbacks.ModelCheckpoint(Path(folder, "best.keras"), save_best_only=True),
        ]
        model.fit(
            images,
            labels,
            batch_size=batch_size,
            epochs=epochs,
            validation_split=0.2,
            callbacks=both if callbacks else [],
            verbose=0,
        )
