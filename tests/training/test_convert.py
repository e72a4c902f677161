import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pandas as pd
import pytest
from PIL import Image

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.store import models
from tests import standin
from tests.conftest import PROJECT
from tests.exported import METADATA, random_classifier

pytestmark = pytest.mark.usefixtures("tensorflow")
IMAGES = standin.batch(6, seed=3).images
FLOAT, INT8 = 1e-5, 0.1  # the probabilities may differ by this
KINDS = [(suffix, int8) for suffix in (".onnx", ".tflite") for int8 in (False, True)]


def write(model: Any, path: Path, int8: bool = False) -> Path:
    from cifar_mlflow.training import convert

    converters = {".onnx": convert.to_onnx, ".tflite": convert.to_litert}
    calibration = IMAGES[:20] if int8 else None
    path.write_bytes(converters[path.suffix](model, METADATA.as_text(), calibration))
    return path


class Converted(NamedTuple):
    network: Any
    files: dict[tuple[str, bool], Path]  # by suffix and int8


@pytest.fixture(scope="module")
def converted(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """A network with test-time augmentation, converted right after it was loaded, in every way."""
    from cifar_mlflow.store import keras_file

    folder = tmp_path_factory.mktemp("converted")
    original = random_classifier(TrialConfig(architecture="small", tta="flip-shift"))
    original.save(folder / "model.keras")
    network = keras_file.load(folder / "model.keras")
    return Converted(
        network,
        {kind: write(network, folder / f"{kind[1]}{kind[0]}", kind[1]) for kind in KINDS},
    )


@pytest.mark.parametrize(("suffix", "int8"), KINDS)
def test_a_file_gives_the_models_probabilities_of_batches_of_any_size(
    suffix: str, int8: bool, converted: Converted
) -> None:
    network, path = converted.network, converted.files[suffix, int8]
    loaded = models.load_model(str(path))
    assert loaded.model.input_shape == network.input_shape
    expected = network.predict_on_batch(IMAGES)
    assert len(set(expected.argmax(axis=1))) > 1
    for count in (len(IMAGES), 1, 7):
        found = loaded.model.predict_on_batch(IMAGES[:count])
        np.testing.assert_allclose(found, expected[:count], atol=INT8 if int8 else FLOAT)
    # A file in int8 is smaller, and rounds.
    assert (path.stat().st_size < 2 * network.count_params()) == int8
    assert (abs(loaded.predict(IMAGES) - expected).max() > FLOAT) == int8


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_the_network_of_the_fast_recipes_converts(suffix: str, tmp_path: Path) -> None:
    network = random_classifier(TrialConfig(architecture="airbench93", activation="gelu"))
    loaded = models.load_model(str(write(network, tmp_path / f"model{suffix}")))
    expected = network.predict_on_batch(IMAGES)
    np.testing.assert_allclose(loaded.predict(IMAGES), expected, atol=FLOAT)


@pytest.mark.parametrize("int8", [False, True])
def test_an_onnx_file_names_its_input_output_and_batch_axis_and_describes_the_model(
    int8: bool, converted: Converted
) -> None:
    model = onnx.load(converted.files[".onnx", int8])
    (pixels,), (probabilities,) = model.graph.input, model.graph.output
    assert (pixels.name, probabilities.name) == ("pixels", "probabilities")
    for value, sizes in ((pixels, [32, 32, 3]), (probabilities, [10])):
        batch, *others = value.type.tensor_type.shape.dim
        assert batch.dim_param == "batch"
        assert [size.dim_value for size in others] == sizes
    assert {each.key: each.value for each in model.metadata_props} == METADATA.as_text()
    assert [operators.domain for operators in model.opset_import] == [""]


def test_a_litert_file_is_a_zip_archive_with_the_metadata_too(converted: Converted) -> None:
    with zipfile.ZipFile(converted.files[".tflite", True]) as archive:
        assert archive.namelist() == ["metadata.json"]
        assert json.loads(archive.read("metadata.json")) == METADATA.as_text()


def test_predict_classifies_with_a_file_and_never_imports_tensorflow(
    converted: Converted, tmp_path: Path, store: str
) -> None:
    Image.fromarray(IMAGES[0]).save(tmp_path / "photo.png")
    expected = METADATA.classes[converted.network.predict_on_batch(IMAGES[:1]).argmax()]
    for suffix in (".onnx", ".tflite"):
        given = {"images": tmp_path / "photo.png", "model": converted.files[suffix, False]}
        program = f"""
import runpy, sys
sys.argv = ["predict", *{[f"--{name}={value}" for name, value in given.items()]}]
try:
    runpy.run_module("entry_points.predict", run_name="__main__")
except SystemExit as end:
    print("ended", end.code, sorted({{"tensorflow", "keras"}} & set(sys.modules)))
"""
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines()[-1] == "ended 0 []", done.stderr
        assert f"Model     mine version 3, False{suffix}" in done.stdout
        predicted = pd.read_csv("predictions/predictions.csv")
        assert predicted["class"].tolist() == [expected]
