"""A training with every choice that the paper did not have: its model works everywhere that others do."""

import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run

from cifar_mlflow.data.cifar10 import CLASSES
from tests import standin
from tests.end_to_end.conftest import User

CHOICES = {
    "architecture": "airbench93",
    "activation": "gelu",
    "optimizer": "muon",
    "schedule": "triangular",
    "momentum": "0.7",
    "weight_decay": "0.01",
    "lookahead": "2",
    "label_smoothing": "0.2",
    "augment": "flip-crop",
    "resolution": "16-32",
    "tta": "flip-shift",
    "epochs": "2",
}
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
    done = user.run("train", CHOICES)
    assert done.returncode == 0, done.stdout
    (run,) = user.runs()
    return user, run


def test_the_choices_are_parameters_and_the_operations_a_metric(trained: tuple[User, Run]) -> None:
    _, run = trained
    assert run.data.params.items() >= CHOICES.items()
    assert 0 < run.data.metrics["train_pflop"] < 1e-3


def test_the_validation_accuracy_is_that_of_the_augmented_model(trained: tuple[User, Run]) -> None:
    user, run = trained
    done = user.run_script("evaluate", {"model": run.info.run_id, "part": "validation"})
    assert done.returncode == 0, done.stdout
    (evaluated,) = user.runs("tags.kind = 'evaluate'")
    for name in ("accuracy", "loss"):
        found = evaluated.data.metrics[f"validation_{name}"]
        assert found == pytest.approx(run.data.metrics[f"kept_val_{name}"], abs=1e-5)


def test_a_process_without_the_project_gets_the_same_probabilities(
    trained: tuple[User, Run],
) -> None:
    user, run = trained
    test = standin.batch(4, seed=5)
    np.save(user.folder / "images.npy", test.images)
    (user.folder / "outsider.py").write_text(OUTSIDER)
    answer = subprocess.run(
        [sys.executable, "outsider.py", run.data.tags["model_uri"], "images.npy"],
        cwd=user.folder,
        env=user.environment | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    table = pd.read_parquet(user.read(run, "predictions.parquet"))
    probabilities = np.array(json.loads(answer.stdout.splitlines()[-1]))
    np.testing.assert_allclose(probabilities, table[list(CLASSES)], atol=1e-5)
