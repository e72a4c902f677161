import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run
from PIL import Image

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.load import load
from cifar_mlflow.store import registry
from cifar_mlflow.study.trial import TrialOptions, run_trial
from tests import standin
from tests.end_to_end.conftest import User

IMAGES = standin.batch(3, seed=7).images


@pytest.fixture(scope="module")
def owner(new_user: Callable[[], User]) -> User:
    """A user with a champion, and with 30 images in a folder."""
    user = new_user()
    config = TrialConfig(architecture="small", optimizer="adam", epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "CIFAR10_DIGEST", "HOME"):
            patch.setenv(name, user.environment[name])
        patch.chdir(user.folder)  # where MLflow keeps artifacts
        data = load(user.environment["CIFAR10_DIR"])
        run = run_trial(config, data, TrialOptions(threads=1), "auto")
        registry.register("cifar10-cnn", run, config, data)
    photos = user.folder / "photos"
    photos.mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(photos / f"{number:02}.png")
    return user


@pytest.fixture(scope="module")
def predicted(owner: User) -> tuple[Run, Path, str]:
    """The run of a prediction through `mlflow run`, its folder, and what the terminal showed."""
    output = owner.folder / "results" / "mine"
    (owner.folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff nothing")
    done = owner.run(
        "predict",
        {"images": f"{owner.folder}/photos,{owner.folder}/*.jpg", "output": str(output)},
    )
    assert done.returncode == 0, done.stdout
    return owner.runs("tags.kind = 'predict'")[0], output, done.stdout


def test_the_folder_has_what_the_champion_predicts(
    owner: User, predicted: tuple[Run, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, output, _ = predicted
    table = pd.read_csv(output / "predictions.csv")
    assert table["file"].tolist() == [f"{owner.folder}/photos/{n:02}.png" for n in range(30)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", owner.environment["MLFLOW_TRACKING_URI"])
    model = mlflow.pyfunc.load_model("models:/cifar10-cnn@champion")
    probabilities = model.predict(IMAGES)
    classes = np.array(model.metadata.metadata["classes"])
    assert table["class"].tolist() == classes[probabilities.argmax(axis=1)].tolist()
    np.testing.assert_allclose(table["probability"], probabilities.max(axis=1), atol=1e-5)
    record = json.loads((output / "predictions.json").read_text())
    assert (record["model"]["name"], record["model"]["version"]) == ("cifar10-cnn", "1")
    assert [each["class"] for each in record["predictions"]] == table["class"].tolist()
    with Image.open(output / "contact_sheet.png") as sheet:
        assert sheet.width > 6 * 128


def test_the_run_is_finished_has_the_files_and_uses_the_model(
    owner: User, predicted: tuple[Run, Path, str]
) -> None:
    run, output, _ = predicted
    assert (run.info.run_name, run.info.status) == ("predict", "FINISHED")
    assert (run.data.metrics["images"], run.data.metrics["skipped"]) == (30, 1)
    assert owner.artifacts(run) == {path.name for path in output.iterdir()}
    champion = owner.client.get_model_version_by_alias("cifar10-cnn", "champion")
    inputs = owner.client.get_run(run.info.run_id).inputs
    assert inputs
    assert f"models:/{inputs.model_inputs[0].model_id}" == champion.source


def test_the_terminal_shows_counts_what_was_skipped_and_where_the_results_are(
    owner: User, predicted: tuple[Run, Path, str]
) -> None:
    _, output, shown = predicted
    assert "Model     cifar10-cnn version 1, m-" in shown
    assert "Images    31 found" in shown
    assert "class " in shown
    assert f"Skipped   {owner.folder}/damaged.jpg: " in shown
    assert f"Results   {output}/predictions.csv" in shown
    assert "Traceback" not in shown
