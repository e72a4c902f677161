import json
from collections.abc import Callable

import pandas as pd
import pytest
from mlflow.entities import Run

from cifar_mlflow.analysis.metrics import evaluate
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.formatting import as_text
from cifar_mlflow.parameters import TrainParameters
from tests.conftest import StandIn
from tests.end_to_end.conftest import QUICK, User

PARAMETERS = QUICK | {"optimizer": "adam", "tensorboard": "true", "threads": "1"}


@pytest.fixture(scope="module")
def trained(new_user: Callable[[], User]) -> tuple[User, Run, str]:
    """A user who trained one configuration, the run, and what the terminal showed."""
    user = new_user()
    done = user.run("main", PARAMETERS, "--experiment-name", "my experiment")
    assert done.returncode == 0, done.stdout
    (run,) = user.runs()
    return user, run, done.stdout


def test_the_run_of_mlflow_run_is_used_named_and_finished(trained: tuple[User, Run, str]) -> None:
    user, run, _ = trained
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "relu-32-adam-small-epochs=2"
    experiment = user.client.get_experiment(run.info.experiment_id)
    assert experiment.name == "my experiment"


def test_parameters_metrics_and_tags_are_logged(
    trained: tuple[User, Run, str], standin_files: StandIn
) -> None:
    user, run, _ = trained
    values = TrainParameters.model_validate(PARAMETERS).model_dump()
    # As a script logs them; of the learning rate, which is auto, the metric has the number.
    assert run.data.params == {name: as_text(value) for name, value in values.items()}
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"):
        steps = [point.step for point in user.client.get_metric_history(run.info.run_id, name)]
        assert steps == [1, 2]
    metrics = run.data.metrics
    assert metrics["parameters"] == 178_506
    assert metrics["kept_epoch"] == 2
    assert (metrics["train_images"], metrics["validation_images"]) == (160, 40)
    assert metrics["kept_val_accuracy"] == metrics["val_accuracy"] <= metrics["best_val_accuracy"]
    assert {"test_loss", "test_macro_f1", "test_calibration_error", "images_per_second"} <= set(
        metrics
    )
    assert run.data.tags["data_digest"] == standin_files.digest
    assert run.data.tags["threads"] == "1"


def test_artifacts_are_complete_and_agree_with_the_metrics(trained: tuple[User, Run, str]) -> None:
    user, run, _ = trained
    assert user.artifacts(run) == {
        "config.json",
        "confusion_matrix.csv",
        "confusion_matrix.png",
        "curves.png",
        "layers.csv",
        "misclassified.png",
        "model_summary.txt",
        "per_class.csv",
        "predictions.parquet",
        "sample_predictions.csv",
        "tensorboard",
    }
    again = evaluate(pd.read_parquet(user.read(run, "predictions.parquet")))
    for name, value in again.metrics("test").items():
        assert run.data.metrics[name] == pytest.approx(value)
    confusion = pd.read_csv(user.read(run, "confusion_matrix.csv"), index_col="true")
    assert list(confusion.columns) == list(confusion.index) == list(CLASSES)
    assert confusion.to_numpy().sum() == 40
    assert len(pd.read_csv(user.read(run, "sample_predictions.csv"))) == 30
    config = json.loads(user.read(run, "config.json").read_text())
    assert (config["learning_rate"], config["epochs"]) == ("auto", 2)
    assert list(user.read(run, "tensorboard").glob("events.out.tfevents.*"))


def test_the_data_set_and_the_model_are_linked_to_the_run(
    trained: tuple[User, Run, str], standin_files: StandIn
) -> None:
    user, run, _ = trained
    assert run.inputs
    assert run.outputs
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("cifar10", standin_files.digest[:36])
    (output,) = run.outputs.model_outputs
    model = user.client.get_logged_model(output.model_id)
    assert {metric.key: metric.value for metric in model.metrics or []}[
        "test_accuracy"
    ] == run.data.metrics["test_accuracy"]


def test_the_terminal_shows_the_projects_own_lines_and_nothing_else(
    trained: tuple[User, Run, str],
) -> None:
    _, _, shown = trained
    topics = {"Data", "Trial", "Epoch", "Result", "Model"}
    others = [
        line
        for line in shown.splitlines()
        if line.partition(" ")[0] not in topics and " INFO " not in line
    ]
    assert others == []


def test_a_wrong_value_is_one_line_and_trains_nothing(user: User) -> None:
    done = user.run("train", QUICK | {"optimizer": "adm"})
    assert done.returncode == 1  # mlflow's; the script's own is 2
    ours = [line for line in done.stdout.splitlines() if line.startswith("train: ")]
    assert len(ours) == 1
    assert ours[0].startswith("train: optimizer=adm: input should be 'sgd', 'adam'")
    assert "Traceback" not in done.stdout
    (run,) = user.runs()
    assert run.info.status == "FAILED"
    assert not run.data.metrics
