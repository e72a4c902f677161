import dataclasses
import io

import numpy as np
import pytest

from cifar_mlflow.errors import CheckpointError
from cifar_mlflow.training.checkpoint import Checkpoint, Epoch

EPOCHS = (Epoch(1, 2.3, 0.1, 2.2, 0.12, 0.01, 3.5), Epoch(2, 1 / 3, 0.9, 1.0, 0.8, 1e-7, 3.6))
CHECKPOINT = Checkpoint(
    history=EPOCHS,
    network=[np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(0, np.float32)],
    optimizer=[np.array(7, np.int64), np.full((2, 3), 1 / 3, np.float32)],
    best_weights=[np.ones(4, np.float32)],
    origin={"network": "0123456789ab", "keras_version": "3.15.1"},
)


def test_bytes_hold_every_bit() -> None:
    again = Checkpoint.from_bytes(CHECKPOINT.to_bytes())
    assert again.history == EPOCHS
    assert again.origin == CHECKPOINT.origin
    for part in ("network", "optimizer", "best_weights"):
        for one, other in zip(getattr(CHECKPOINT, part), getattr(again, part), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_a_checkpoint_that_was_saved_without_its_origin_has_none() -> None:
    with np.load(io.BytesIO(CHECKPOINT.to_bytes())) as stored:
        arrays = {name: stored[name] for name in stored if name != "origin"}
    file = io.BytesIO()
    np.savez(file, **arrays)
    again = Checkpoint.from_bytes(file.getvalue())
    assert again.origin == {}
    assert again.history == EPOCHS


def test_the_order_of_many_arrays_is_kept() -> None:
    many = [np.array(number) for number in range(25)]
    again = Checkpoint.from_bytes(dataclasses.replace(CHECKPOINT, optimizer=many).to_bytes())
    assert [int(array) for array in again.optimizer] == list(range(25))


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_cut_off_bytes_are_refused(cut: int) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoint.from_bytes(CHECKPOINT.to_bytes()[:cut])


def test_a_pickle_is_refused_and_does_not_run() -> None:
    evil = io.BytesIO()
    np.savez(evil, history=np.array([Evil()], dtype=object))
    with pytest.raises(CheckpointError):
        Checkpoint.from_bytes(evil.getvalue())
    assert not ran


ran: list[str] = []


def run(code: str) -> None:
    ran.append(code)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return run, ("code from a checkpoint",)


def test_an_epoch_without_validation_is_kept_as_such() -> None:
    history = (Epoch(1, 2.3, 0.1, None, None, 0.01, 3.5),)
    again = Checkpoint.from_bytes(dataclasses.replace(CHECKPOINT, history=history).to_bytes())
    assert again.history == history
