"""A training with every choice that the paper did not have: its model works everywhere that others do."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.formatting import as_text
from tests.end_to_end.conftest import User

RECIPE = """
architecture = "airbench93"
activation = "gelu"
batch_size = 16
optimizer = "muon"
schedule = "triangular"
momentum = 0.7
weight_decay = 0.01
lookahead = 2
label_smoothing = 0.2
augment = "flip-crop"
resolution = "16-32"
tta = "flip-shift"
epochs = 3
"""
GIVEN = {"batch_size": "32", "epochs": "2"}  # counts more than the recipe, also at its default
# A program of someone who has MLflow and Keras, and nothing of this project.
OUTSIDER = """
import json, sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
probabilities = model.predict(np.load(sys.argv[2]))
assert not any("cifar_mlflow" in name for name in sys.modules)
print(json.dumps(probabilities.tolist()))
"""


@pytest.fixture(scope="module")
def trained(new_user: Callable[[], User]) -> tuple[User, Run]:
    user = new_user()
    recipe = user.folder / "mine.toml"
    recipe.write_text(RECIPE)
    done = user.run("train", GIVEN | {"recipe": str(recipe)})
    assert done.returncode == 0, done.stdout
    (run,) = user.runs()
    return user, run


def test_a_recipe_sets_what_is_not_given_and_the_run_has_all_values(
    trained: tuple[User, Run],
) -> None:
    user, run = trained
    values = TrialConfig.model_validate(tomllib.loads(RECIPE) | GIVEN)
    expected = {name: as_text(value) for name, value in values.model_dump().items()}
    assert run.data.params.items() >= expected.items()
    assert run.data.params["recipe"].strip("'") == f"{user.folder}/mine.toml"  # mlflow's spelling
    assert run.data.tags["trial_key"] == values.key
    assert run.info.run_name == "mine-batch_size=32-epochs=2"


def test_the_operations_are_a_metric(trained: tuple[User, Run]) -> None:
    _, run = trained
    assert 0 < run.data.metrics["train_pflop"] < 1e-3


def test_a_process_without_the_project_gets_the_probabilities_of_the_augmented_model(
    trained: tuple[User, Run], small_cifar10: DataSet
) -> None:
    """Those of the test images that the run has logged, and of the images that validated it."""
    user, run = trained
    test, validation = small_cifar10.examples("test"), small_cifar10.split(0.2).validation
    np.save(user.folder / "images.npy", np.concatenate([test.images, validation.images]))
    (user.folder / "outsider.py").write_text(OUTSIDER)
    answer = subprocess.run(
        [sys.executable, "outsider.py", run.data.tags["model_uri"], "images.npy"],
        cwd=user.folder,
        env=user.environment | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    probabilities = np.array(json.loads(answer.stdout.splitlines()[-1]))
    logged = pd.read_parquet(user.read(run, "predictions.parquet"))[list(CLASSES)]
    np.testing.assert_allclose(probabilities[: len(logged)], logged, atol=1e-5)
    of_truth = probabilities[np.arange(len(logged), len(probabilities)), validation.labels]
    right = probabilities[len(logged) :].argmax(axis=1) == validation.labels
    metrics = run.data.metrics
    assert metrics["kept_val_accuracy"] == pytest.approx(right.mean(), abs=1e-5)
    assert metrics["kept_val_loss"] == pytest.approx(-np.log(of_truth).mean(), abs=1e-4)
