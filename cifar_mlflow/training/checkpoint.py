"""The state of a training after an epoch: everything that later epochs depend on, as bytes.

An .npz archive of plain arrays. Reading one cannot run code, even if it comes from a stranger.
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
    """The results of one epoch. Losses are mean cross-entropies in nats, accuracies are in 0..1.

    Those of validation are None where no images are held out for it.
    """

    epoch: int  # counted from 1
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float
    epoch_seconds: float


def best(history: Sequence[Epoch]) -> Epoch:
    """The epoch with the best validation accuracy; the first of equals, and where there is none."""
    return max(history, key=lambda epoch: epoch.val_accuracy or 0)


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``history``'s last epoch. Later batches need no other state: see `fit`."""

    history: tuple[Epoch, ...]
    network: Arrays  # every variable of the network
    optimizer: Arrays  # every variable of the optimizer: moments, step count, learning rate
    best_weights: Arrays = field(default=())  # of the best epoch, if the trial keeps those
    origin: Origin = field(default_factory=dict)  # of the training; empty if unknown

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
        """The checkpoint that `to_bytes` wrote.

        Raises:
            CheckpointError: the bytes are damaged or something else.
        """
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
