import json
import subprocess
import sys

import pandas as pd

from cifar_mlflow.errors import FAILED
from tests.conftest import StandIn
from tests.end_to_end.conftest import QUICK, Studies, User

NAMES = {"sgd-relu-32-small-epochs=2", "adam-relu-32-small-epochs=2"}

# What a user's own program needs: MLflow and Keras, and nothing of this project.
INFERENCE = """
import sys, json
import mlflow, numpy as np, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
images, labels = np.load(sys.argv[2]), np.load(sys.argv[3])
probabilities = model.predict(images)
right = (probabilities.argmax(axis=1) == labels).mean()
assert not any("cifar_mlflow" in name for name in sys.modules)
print(json.dumps([float(right), probabilities.shape, str(probabilities.dtype)]))
"""


def test_trials_are_finished_children_of_the_run_of_mlflow_run(studies: Studies) -> None:
    user, parent = studies.user, studies.first
    assert (parent.info.run_name, parent.info.status) == ("grid", "FINISHED")
    assert len(user.runs("tags.kind = 'grid'")) == 2  # one for each command
    children = user.children(parent)
    assert children.keys() == NAMES
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert {run.data.params["optimizer"] for run in children.values()} == {"sgd", "adam"}
    assert all("confusion_matrix.png" in user.artifacts(run) for run in children.values())


def test_the_parent_has_the_results_and_the_best_child(studies: Studies) -> None:
    user, parent = studies.user, studies.first
    assert user.artifacts(parent) == {"curves.png", "grid.png", "results.csv", "summary.csv"}
    table = pd.read_csv(user.read(parent, "results.csv"))
    children = user.children(parent)
    best = max(children.values(), key=lambda run: run.data.metrics["kept_val_accuracy"])
    assert studies.best.info.run_id in table.loc[table["best"], "run_id"].tolist()
    value = studies.best.data.metrics["kept_val_accuracy"]
    assert value == best.data.metrics["kept_val_accuracy"]
    assert studies.best.data.tags["best"] == "true"
    assert "★" in parent.data.tags["mlflow.note.content"]


def test_the_terminal_shows_results_and_how_to_use_them(studies: Studies) -> None:
    shown, _ = studies.shown
    lines = [line for line in shown.splitlines() if " INFO " not in line]
    assert lines[0].startswith("Data      stand-in data (expected by CIFAR10_DIGEST)")
    assert lines[1].startswith("Study     2 trials, 4 epochs in all, workers x threads 2 x 1")
    assert any(line.startswith("  2/2 ") and "-relu-32-small" in line for line in lines)
    assert lines[-1] == 'Use       mlflow.pyfunc.load_model("models:/cifar10-cnn@champion")'
    assert f"sqlite:///{studies.user.folder}/mlflow.db" in lines[-2]
    assert "Traceback" not in shown
    assert "Warning" not in shown


def test_the_champion_says_what_it_is(studies: Studies, standin_files: StandIn) -> None:
    champion = studies.user.client.get_model_version_by_alias("cifar10-cnn", "champion")
    assert int(champion.version) == 1
    assert champion.tags["data_digest"] == standin_files.digest
    assert (
        float(champion.tags["kept_val_accuracy"]) == studies.best.data.metrics["kept_val_accuracy"]
    )
    description = champion.description or ""
    assert studies.best.info.run_id in description
    assert "airplane, automobile" in description


def test_the_champion_loaded_elsewhere_has_the_test_accuracy_of_its_run(
    studies: Studies, standin_files: StandIn
) -> None:
    user = studies.user
    cache = user.folder / "home" / ".cache" / "cifar_mlflow" / standin_files.digest
    arguments = [
        "models:/cifar10-cnn@champion",
        *(str(cache / f"test_{n}.npy") for n in ("images", "labels")),
    ]
    printed = subprocess.check_output(
        [sys.executable, "-c", INFERENCE, *arguments],
        cwd=user.folder,
        env={**user.environment, "PYTHONPATH": ""},
        text=True,
    )
    accuracy, shape, dtype = json.loads(printed.splitlines()[-1])
    assert accuracy == studies.best.data.metrics["test_accuracy"]
    assert (shape, dtype) == ([40, 10], "float32")


def test_the_same_study_on_one_worker_gives_the_same_numbers_and_no_new_champion(
    studies: Studies,
) -> None:
    user = studies.user
    before, after = (
        {name: run.data.metrics["test_loss"] for name, run in user.children(study).items()}
        for study in (studies.first, studies.second)
    )
    assert before == after
    assert before.keys() == NAMES
    assert "workers x threads 1 x 1" in studies.shown[1]
    aliases = user.client.get_registered_model("cifar10-cnn").aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {
        "champion": 1,
        "challenger": 2,
    }
    challenger = user.client.get_model_version("cifar10-cnn", "2")
    assert "does not beat" in challenger.tags["promotion"]


def test_a_failing_trial_stops_no_other_and_shows_in_table_and_exit_code(user: User) -> None:
    given = {"activation": "relu", "batch_size": "32", "optimizer": "adam"}
    given |= {"learning_rate": "1e20,0.001", "select_by": "test"}
    done = user.run_script("grid", QUICK | given | {"workers": "1"})
    assert done.returncode == FAILED
    parent = user.runs()[0]
    children = user.children(parent)
    assert sorted(run.info.status for run in children.values()) == ["FAILED", "FINISHED"]
    # What diverges once diverges again, so there was no second attempt.
    assert len(user.runs("tags.kind = 'trial'")) == 2
    assert "Failed    learning_rate=1e+20-relu-32-adam-small-epochs=2: Diverged" in done.stdout
    (failed,) = (run for run in children.values() if run.info.status == "FAILED")
    assert "traceback.txt" in user.artifacts(failed)
    champion = user.client.get_model_version_by_alias("cifar10-cnn", "champion")
    name = "learning_rate=0.001-relu-32-adam-small-epochs=2"
    assert champion.tags["trial"] == name
    chosen = children[name]
    value = chosen.data.metrics["test_accuracy"]
    assert parent.data.metrics["best_trial_test_accuracy"] == value
    assert "which leaks the test set into the choice" in done.stdout
