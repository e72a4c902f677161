import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run
from PIL import Image

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.data.load import load
from cifar_mlflow.store import registry
from cifar_mlflow.store.models import load_model
from cifar_mlflow.study.trial import TrialOptions, run_trial
from tests import standin
from tests.conftest import PROJECT
from tests.end_to_end.conftest import User

IMAGES = standin.batch(3, seed=7).images
FILES = ["model-int8.onnx", "model-int8.tflite", "model.onnx", "model.tflite"]
FORMATS = ["litert", "litert-int8", "onnx", "onnx-int8"]


@pytest.fixture(scope="module")
def exported(new_user: Callable[[], User]) -> tuple[User, Path, str]:
    """A user who exported a champion through `mlflow run`, the folder, and what was shown."""
    user = new_user()
    # Sure enough of its classes that 8 bits change none of them.
    config = TrialConfig(architecture="small", optimizer="adam", epochs=10)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "CIFAR10_DIGEST", "HOME"):
            patch.setenv(name, user.environment[name])
        patch.chdir(user.folder)  # where MLflow keeps artifacts
        data = load(user.environment["CIFAR10_DIR"])
        run = run_trial(config, data, TrialOptions(threads=1), "auto")
        registry.register("cifar10-cnn", run, config, data)
    folder = user.folder / "to a hub"
    done = user.run("export", {"int8": "true", "output": str(folder)})
    assert done.returncode == 0, done.stdout
    return user, folder, done.stdout


def run_of(user: User) -> Run:
    (run,) = user.runs("tags.kind = 'export'")
    return run


def test_the_folder_is_what_a_hub_takes(exported: tuple[User, Path, str]) -> None:
    _, folder, _ = exported
    files = sorted(["README.md", "config.json", "model.keras", *FILES])
    assert sorted(path.name for path in folder.iterdir()) == files
    config = json.loads((folder / "config.json").read_text())
    assert (config["classes"], config["image_size"]) == (list(CLASSES), 32)
    assert (config["model_name"], config["model_version"]) == ("cifar10-cnn", "1")
    assert config["files"] == files
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: ")
    assert "onnxruntime" in card


def test_every_file_classifies_as_the_model_does(exported: tuple[User, Path, str]) -> None:
    _, folder, _ = exported
    expected = keras.saving.load_model(folder / "model.keras").predict_on_batch(IMAGES)
    for name in FILES:
        loaded = load_model(str(folder / name))
        found = loaded.predict(IMAGES)
        assert str(loaded) == f"cifar10-cnn version 1, {name}"
        np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


def test_the_run_has_the_files_and_every_measurement(exported: tuple[User, Path, str]) -> None:
    user, folder, shown = exported
    run = run_of(user)
    assert (run.info.run_name, run.info.status) == ("export cifar10-cnn version 1", "FINISHED")
    assert user.artifacts(run) == {path.name for path in folder.iterdir()}
    for name in ("onnx", "onnx_int8", "litert", "litert_int8"):
        measured = {
            metric.removeprefix(f"{name}_"): value
            for metric, value in run.data.metrics.items()
            if metric.startswith(f"{name}_")
        }
        assert measured["agreement"] == 1
        assert measured["test_accuracy"] == run.data.metrics["keras_test_accuracy"]
        assert measured["ms_per_image"] > 0
        assert measured["ms_per_image_of_64"] > 0
    assert run.data.metrics["onnx_max_difference"] < 1e-5
    assert run.data.metrics["onnx_int8_bytes"] < run.data.metrics["onnx_bytes"] / 2
    for name in FORMATS:
        assert f"\n{name} " in shown
    assert f"Exported  {folder}\n" in shown


def test_the_version_has_the_files_and_its_alias_stays(exported: tuple[User, Path, str]) -> None:
    user, _, _ = exported
    version: Any = user.client.get_model_version_by_alias("cifar10-cnn", "champion")
    assert (version.version, version.tags["formats"]) == (1, ",".join(FORMATS))
    listed = user.client.list_logged_model_artifacts(version.source.rpartition("/")[2], "exported")
    assert sorted(file.path for file in listed) == [f"exported/{name}" for name in FILES]


def test_the_programs_of_the_guide_need_neither_tensorflow_nor_the_project(
    exported: tuple[User, Path, str],
) -> None:
    user, folder, _ = exported
    (user.folder / "exported").symlink_to(folder)  # its name in the guide
    Image.fromarray(IMAGES[0]).save(user.folder / "photo.png")
    guide = (PROJECT / "docs" / "export.md").read_text()
    programs = re.findall(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert len(programs) == 2
    unneeded = "{'tensorflow', 'mlflow', 'cifar_mlflow'}"
    checked = [*programs, f"import sys\nassert not {unneeded} & sys.modules.keys()"]
    done = user.finish([sys.executable, "-c", "\n".join(checked)])
    assert done.returncode == 0, done.stdout
    probabilities = load_model(str(folder / "model.onnx")).predict(IMAGES[:1])[0]
    words = [line.split() for line in done.stdout.splitlines()]  # and LiteRT's own lines
    answers = [pair for pair in words if pair[0] in CLASSES]
    assert [name for name, _ in answers] == [CLASSES[probabilities.argmax()]] * 2
    for _, probability in answers:
        assert float(probability) == pytest.approx(probabilities.max(), abs=1e-4)


def test_predict_takes_an_exported_file_and_its_run_links_to_the_model(
    exported: tuple[User, Path, str],
) -> None:
    user, folder, _ = exported
    photo = user.folder / "photo.png"
    Image.fromarray(IMAGES[0]).save(photo)
    output = user.folder / "predicted"
    file = folder / "model-int8.tflite"
    given = {"images": str(photo), "model": str(file), "output": str(output)}
    done = user.run_script("predict", given)
    assert done.returncode == 0, done.stdout
    assert "Model     cifar10-cnn version 1, model-int8.tflite\n" in done.stdout
    predicted = pd.read_csv(output / "predictions.csv")["class"].tolist()
    assert predicted == [CLASSES[load_model(str(file)).predict(IMAGES[:1]).argmax()]]
    (run,) = user.runs("tags.kind = 'predict'")
    version = user.client.get_model_version_by_alias("cifar10-cnn", "champion")
    inputs = user.client.get_run(run.info.run_id).inputs
    assert inputs
    assert f"models:/{inputs.model_inputs[0].model_id}" == version.source
