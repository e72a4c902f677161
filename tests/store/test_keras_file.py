import io
import json
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from cifar_mlflow.errors import UsageError
from cifar_mlflow.store import keras_file
from cifar_mlflow.store.keras_file import CONFIG, WEIGHTS

pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A model with weights of every kind: trained, updated without training, and a seed."""
    layers = [keras.layers.Flatten(), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    last = keras.layers.Dense(10, activation="softmax")
    keras.Sequential([keras.Input((8, 8, 3)), *layers, last]).save(tmp_path / "a.keras")
    return tmp_path / "a.keras"


def change(path: Path, part: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, kept in (parts | {part: content}).items():
            archive.writestr(name, kept)


def read(path: Path, part: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(part)


def refusal(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Why a file is refused, before Keras makes anything of it."""
    with monkeypatch.context() as patch, pytest.raises(UsageError) as caught:
        patch.setattr(keras.saving, "load_model", None)
        keras_file.load(path)
    return str(caught.value)


def test_a_model_is_what_was_saved(saved: Path) -> None:
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    expected = keras.saving.load_model(saved).predict_on_batch(images)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        change(saved, "metadata.json", b"{}", compression)
        model = keras_file.load(saved)
        np.testing.assert_array_equal(model.predict_on_batch(images), expected)


def test_layers_larger_than_the_weights_are_refused_before_they_are_made(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read(saved, CONFIG).replace(b'"units": 10', b'"units": 1000000')
    change(saved, CONFIG, config)
    assert "its layers declare 193,000,770 numbers, which its" in refusal(saved, monkeypatch)


def test_weights_that_declare_more_than_they_hold_are_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO(read(saved, WEIGHTS))
    with h5py.File(content, "a") as file:
        file["layers/dense/vars"].create_dataset("2", (10**8,), chunks=(10**6,))
    change(saved, WEIGHTS, content.getvalue())
    assert "its weights declare 100,002,698 numbers, which its" in refusal(saved, monkeypatch)


def test_a_long_description_is_refused_unread(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads(read(saved, CONFIG)) | {"more": "a" * 2_000_000}
    change(saved, CONFIG, json.dumps(config).encode(), zipfile.ZIP_DEFLATED)
    assert "bytes; 2,000,000 are allowed" in refusal(saved, monkeypatch)


def test_a_file_that_unpacks_to_far_more_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(saved, "assets/a", bytes(10_000_000), zipfile.ZIP_DEFLATED)
    assert "times as many are allowed" in refusal(saved, monkeypatch)
