"""Where a training stands after an epoch: all that the next epochs depend on, as bytes.

An .npz archive of plain arrays: reading one cannot run code, whoever wrote it.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from cifar_mlflow.errors import CheckpointError
from cifar_mlflow.training.origin import Origin

Arrays = Sequence[npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. Losses are mean cross-entropies in nats, accuracies shares of 1."""

    epoch: int  # counted from 1
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    epoch_seconds: float


def best(history: Sequence[Epoch]) -> Epoch:
    """The epoch with the best validation accuracy; the first of equals."""
    return max(history, key=lambda epoch: epoch.val_accuracy)


@dataclass(frozen=True)
class Checkpoint:
    """After ``history``'s last epoch. The order of later batches needs no state: see training.py."""

    history: tuple[Epoch, ...]
    network: Arrays  # every variable of the network
    optimizer: Arrays  # every variable of the optimizer: moments, step count, learning rate
    best_weights: Arrays = field(default=())  # of the best epoch, where a trial keeps those
    origin: Origin = field(default_factory=dict)  # of the training; empty where it is not known

    def to_bytes(self) -> bytes:
        arrays = {
            f"{part}-{number}": np.asarray(array)
            for part in ("network", "optimizer", "best_weights")
            for number, array in enumerate(getattr(self, part))
        }
        history = json.dumps([asdict(epoch) for epoch in self.history])
        origin = json.dumps(dict(self.origin))
        file = io.BytesIO()
        np.savez(file, history=np.array(history), origin=np.array(origin), **arrays)  # type: ignore[arg-type]
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Checkpoint":
        """Raises CheckpointError where the bytes are not what `to_bytes` made."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                arrays = dict(stored)
            history = tuple(Epoch(**epoch) for epoch in json.loads(str(arrays.pop("history"))))
            origin = json.loads(str(arrays.pop("origin", "{}")))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"it cannot be read ({error})") from error

        def part(name: str) -> Arrays:
            count = sum(key.startswith(f"{name}-") for key in arrays)
            return [arrays[f"{name}-{number}"] for number in range(count)]

        return cls(history, part("network"), part("optimizer"), part("best_weights"), origin)
