"""Made-up factorial designs and histories."""

import itertools
from collections.abc import Callable

import pandas as pd

from cifar_mlflow.paper import GRID

FACTORS = ["activation", "batch_size", "optimizer"]
PUBLISHED = pd.DataFrame(
    [(*setting, 0, numbers.accuracy) for setting, numbers in GRID.items()],
    columns=[*FACTORS, "seed", "test_accuracy"],
)


def design(accuracy: Callable[..., float], seeds: int = 1) -> pd.DataFrame:
    """A complete 2 x 3 x 2 design, replicated, with the accuracy as a function of its levels."""
    levels = (("relu", "sigmoid"), (32, 64, 128), ("sgd", "adam"), range(seeds))
    rows = [(*setting, accuracy(*setting)) for setting in itertools.product(*levels)]
    return pd.DataFrame(rows, columns=[*FACTORS, "seed", "test_accuracy"])


def additive(activation: str, batch_size: int, optimizer: str, seed: int) -> float:
    return 0.5 + 0.2 * (activation == "relu") + 0.1 * (optimizer == "adam") - batch_size / 3200


def history(train: list[float], val: list[float], loss: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epoch": range(1, len(val) + 1),
            "train_accuracy": train,
            "val_accuracy": val,
            "val_loss": loss,
        }
    )
