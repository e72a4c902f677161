import json
import subprocess
import sys
from collections.abc import Callable

import pandas as pd
import pytest
from mlflow.entities import Run

from tests.conftest import StandIn
from tests.end_to_end.conftest import QUICK, User

GRID = QUICK | {"activation": "relu", "batch_size": "32,64", "optimizer": "adam", "workers": "2"}
NAMES = {"small-relu-32-adam-epochs=2", "small-relu-64-adam-epochs=2"}

# What a user's own program needs: MLflow and Keras, and nothing of this project.
INFERENCE = """
import sys, json
import mlflow, numpy as np, pandas as pd
assert not any("cifar_mlflow" in name for name in sys.modules)
model = mlflow.pyfunc.load_model(sys.argv[1])
images, labels = np.load(sys.argv[2]), np.load(sys.argv[3])
probabilities = model.predict(images)
right = (probabilities.argmax(axis=1) == labels).mean()
print(json.dumps([float(right), probabilities.shape, str(probabilities.dtype)]))
"""


@pytest.fixture(scope="module")
def studied(new_user: Callable[[], User]) -> tuple[User, Run, str]:
    """A user who ran a grid of two trials on two workers, its run, and what the terminal showed."""
    user = new_user()
    done = user.run("grid", GRID)
    assert done.returncode == 0, done.stdout
    return user, user.runs()[0], done.stdout


def test_trials_are_finished_children_of_the_run_of_mlflow_run(
    studied: tuple[User, Run, str],
) -> None:
    user, parent, _ = studied
    assert (parent.info.run_name, parent.info.status) == ("grid", "FINISHED")
    children = user.children(parent)
    assert children.keys() == NAMES
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert {run.data.params["batch_size"] for run in children.values()} == {"32", "64"}
    assert all("confusion_matrix.png" in user.artifacts(run) for run in children.values())
    assert len(user.runs()) == 3


def test_the_parent_has_the_results_and_the_best_child(studied: tuple[User, Run, str]) -> None:
    user, parent, _ = studied
    assert user.artifacts(parent) == {"curves.png", "grid.png", "results.csv", "summary.csv"}
    table = pd.read_csv(user.read(parent, "results.csv"))
    children = user.children(parent)
    best = max(children.values(), key=lambda run: run.data.metrics["kept_val_accuracy"])
    assert parent.data.tags["best_run_id"] in table.loc[table["best"], "run_id"].tolist()
    chosen = user.client.get_run(parent.data.tags["best_run_id"])
    value = chosen.data.metrics["kept_val_accuracy"]
    assert value == best.data.metrics["kept_val_accuracy"]
    assert chosen.data.tags["best"] == "true"
    assert "★" in parent.data.tags["mlflow.note.content"]


def test_the_terminal_shows_results_and_how_to_use_them(studied: tuple[User, Run, str]) -> None:
    user, _, shown = studied
    lines = [line for line in shown.splitlines() if " INFO " not in line]
    assert lines[0].startswith("Data      not CIFAR-10")
    assert lines[1].startswith("Study     2 trials, 4 epochs in all, workers x threads 2 x 1")
    assert any(line.startswith("  2/2 small-relu-") for line in lines)
    assert lines[-1] == 'Use       mlflow.pyfunc.load_model("models:/cifar10-cnn@champion")'
    assert f"sqlite:///{user.folder}/mlflow.db" in lines[-2]
    assert "Traceback" not in shown
    assert "Warning" not in shown


def test_the_champion_says_what_it_is(
    studied: tuple[User, Run, str], standin_files: StandIn
) -> None:
    user, parent, _ = studied
    champion = user.client.get_model_version_by_alias("cifar10-cnn", "champion")
    best = user.client.get_run(parent.data.tags["best_run_id"])
    assert int(champion.version) == 1
    assert champion.tags["data_digest"] == standin_files.digest
    assert float(champion.tags["val_accuracy"]) == best.data.metrics["kept_val_accuracy"]
    description = champion.description or ""
    assert best.info.run_id in description
    assert "airplane, automobile" in description


def test_the_champion_loaded_elsewhere_has_the_test_accuracy_of_its_run(
    studied: tuple[User, Run, str], standin_files: StandIn
) -> None:
    user, parent, _ = studied
    cache = user.folder / "home" / ".cache" / "cifar_mlflow" / standin_files.digest
    arguments = [
        "models:/cifar10-cnn@champion",
        *(str(cache / f"test_{n}.npy") for n in ("images", "labels")),
    ]
    printed = subprocess.check_output(
        [sys.executable, "-c", INFERENCE, *arguments],
        cwd=user.folder,
        env=user.environment,
        text=True,
    )
    accuracy, shape, dtype = json.loads(printed.splitlines()[-1])
    best = user.client.get_run(parent.data.tags["best_run_id"])
    assert accuracy == best.data.metrics["test_accuracy"]
    assert (shape, dtype) == ([40, 10], "float32")


def test_the_same_study_again_gives_the_same_numbers_and_no_new_champion(
    studied: tuple[User, Run, str],
) -> None:
    user, parent, _ = studied
    done = user.run("grid", GRID)
    assert done.returncode == 0, done.stdout
    again = user.runs()[3]
    before, after = (
        {name: run.data.metrics["test_loss"] for name, run in user.children(study).items()}
        for study in (parent, again)
    )
    assert before == after
    aliases = user.client.get_registered_model("cifar10-cnn").aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {
        "champion": 1,
        "challenger": 2,
    }
    challenger = user.client.get_model_version("cifar10-cnn", "2")
    assert "does not beat" in challenger.tags["promotion"]


def test_a_failing_trial_stops_no_other_and_shows_in_table_and_exit_code(user: User) -> None:
    done = user.run("grid", GRID | {"batch_size": "32", "learning_rate": "1e20,0.001"})
    assert done.returncode == 1
    children = user.children(user.runs()[0])
    assert sorted(run.info.status for run in children.values()) == ["FAILED", "FINISHED"]
    # What diverges once diverges again, so there was no second attempt.
    assert len(user.runs("tags.kind = 'trial'")) == 2
    assert "Failed    small-relu-32-adam-learning_rate=1e+20-epochs=2: Diverged" in done.stdout
    assert "traceback.txt" in user.artifacts(
        next(run for run in children.values() if run.info.status == "FAILED")
    )
    champion = user.client.get_model_version_by_alias("cifar10-cnn", "champion")
    assert champion.tags["trial"] == "small-relu-32-adam-epochs=2"


def test_a_study_without_a_finished_trial_registers_nothing(user: User) -> None:
    done = user.run("grid", GRID | {"batch_size": "32", "learning_rate": "1e20"})
    assert done.returncode == 1
    assert "no trial finished" in done.stdout
    assert not user.client.search_registered_models()


def test_a_study_on_one_worker_is_tracked_alike(user: User) -> None:
    done = user.run("grid", GRID | {"workers": "1", "select_by": "test_accuracy"})
    assert done.returncode == 0, done.stdout
    parent = user.runs()[0]
    children = user.children(parent)
    assert {name: run.info.status for name, run in children.items()} == dict.fromkeys(
        NAMES, "FINISHED"
    )
    best = max(run.data.metrics["test_accuracy"] for run in children.values())
    assert parent.data.metrics["best_trial_test_accuracy"] == best
    assert "which leaks the test set into the choice" in done.stdout


def test_a_dry_run_prints_the_plan_and_trains_nothing(user: User) -> None:
    done = user.run("grid", GRID | {"dry_run": "true"})
    assert done.returncode == 0
    assert all(name in done.stdout for name in NAMES)
    assert "2 trials, 4 epochs in all" in done.stdout
    assert len(user.runs()) == 1


def test_a_wrong_value_in_a_list_is_one_line_and_trains_nothing(user: User) -> None:
    done = user.run("grid", GRID | {"batch_size": "32,0"})
    assert done.returncode == 1
    assert "grid: batch_size=0: input should be greater than 0" in done.stdout
    assert "Traceback" not in done.stdout
    assert len(user.runs()) == 1
