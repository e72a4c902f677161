import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run

from cifar_mlflow.analysis.metrics import evaluate, headlines, intervals
from cifar_mlflow.analysis.statistics import compare
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.formatting import literal_markdown
from tests.conftest import StandIn
from tests.end_to_end.conftest import Studies, User

PICTURES = {
    "confusion_matrix.png",
    "misclassified.png",
    "occlusion.png",
    "precision_recall.png",
    "reliability.png",
    "roc.png",
}
TABLES = {
    "calibration.csv",
    "confusion_matrix.csv",
    "intervals.csv",
    "most_confused.csv",
    "per_class.csv",
    "predictions.parquet",
    "sample_predictions.csv",
}


@pytest.fixture(scope="module")
def evaluated(studies: Studies) -> tuple[Run, str]:
    """The run of `evaluate` with nothing said, so of the champion, and what the terminal showed."""
    done = studies.user.run("evaluate", {})
    assert done.returncode == 0, done.stdout
    return newest(studies.user, "evaluate"), done.stdout


@pytest.fixture(scope="module")
def compared(studies: Studies) -> tuple[Run, str]:
    """The run that compared another trial, given by its run, with the champion, on validation."""
    models = f"{studies.other.info.run_id},models:/cifar10-cnn@champion"
    done = studies.user.run_script("evaluate", {"model": models, "part": "validation"})
    assert done.returncode == 0, done.stdout
    return newest(studies.user, "comparison"), done.stdout


def newest(user: User, kind: str) -> Run:
    return user.runs(f"tags.kind = '{kind}'")[-1]


def table(user: User, run: Run) -> pd.DataFrame:
    return pd.read_parquet(user.read(run, "predictions.parquet"))


def test_the_run_holds_every_figure_and_table(studies: Studies, evaluated: tuple[Run, str]) -> None:
    user, (run, _) = studies.user, evaluated
    assert (run.info.run_name, run.info.status) == ("evaluate cifar10-cnn version 1", "FINISHED")
    assert user.artifacts(run) == PICTURES | TABLES
    calibration = pd.read_csv(user.read(run, "calibration.csv"))
    assert calibration["count"].sum() == 40
    pairs = pd.read_csv(user.read(run, "most_confused.csv"))
    confusion = pd.read_csv(user.read(run, "confusion_matrix.csv"), index_col="true")
    assert list(confusion.columns) == list(confusion.index) == list(CLASSES)
    assert pairs["count"].sum() == 40 - np.trace(confusion.to_numpy())


def test_the_numbers_are_those_of_the_trial_that_made_the_model(
    studies: Studies, evaluated: tuple[Run, str]
) -> None:
    user, (run, _) = studies.user, evaluated
    trial = studies.best
    for name in ("test_accuracy", "test_macro_f1", "test_top_3_accuracy"):
        assert run.data.metrics[name] == trial.data.metrics[name]
    assert run.data.metrics["test_loss"] == pytest.approx(trial.data.metrics["test_loss"])
    bounds = pd.read_csv(user.read(run, "intervals.csv"), index_col="metric")
    again = intervals(table(user, run))
    for name in headlines(10):
        assert bounds.loc[name].to_numpy() == pytest.approx(again.loc[name].to_numpy())
        assert run.data.metrics[f"test_{name}_low"] == pytest.approx(bounds["low"][name])
        assert run.data.metrics[f"test_{name}_high"] == pytest.approx(bounds["high"][name])


def test_metrics_are_linked_to_the_model_and_the_data_set(
    studies: Studies, evaluated: tuple[Run, str], standin_files: StandIn
) -> None:
    user, (run, _) = studies.user, evaluated
    run = user.client.get_run(run.info.run_id)
    assert run.inputs
    assert [found.model_id for found in run.inputs.model_inputs] == [studies.champion_id]
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.tags[0].value) == ("cifar10", "test")
    logged = user.client.get_logged_model(studies.champion_id)
    linked = {
        metric.key: (metric.dataset_name, metric.dataset_digest)
        for metric in logged.metrics or []
        if metric.run_id == run.info.run_id
    }
    assert linked == dict.fromkeys(run.data.metrics, ("cifar10", standin_files.digest[:36]))


def test_the_terminal_shows_the_essence_and_nothing_else(evaluated: tuple[Run, str]) -> None:
    run, shown = evaluated
    lines = [line for line in shown.splitlines() if " INFO " not in line]
    topics = [line[:10].strip() for line in lines]
    assert topics == (
        ["Data", "Images", "Model", "Accuracy", "Macro F1", "Loss", "Top k", "ECE"]
        + ["Confused", "Classes"]
    )
    accuracy, low, high = (
        run.data.metrics[f"test_accuracy{bound}"] for bound in ("", "_low", "_high")
    )
    assert lines[3][10:] == f"{accuracy:.4f} (95 % interval {low:.4f} to {high:.4f})"
    assert literal_markdown(lines[3][10:]) in run.data.tags["mlflow.note.content"]


def test_two_models_are_evaluated_in_a_run_each_and_compared(
    studies: Studies, compared: tuple[Run, str]
) -> None:
    user, (run, shown) = studies.user, compared
    name = studies.other.info.run_name
    assert run.info.run_name == f"{name} against cifar10-cnn version 1"
    children = user.children(run)
    first, second = (children[f"evaluate {each}"] for each in (name, "cifar10-cnn version 1"))
    assert first.data.tags["model_uri"] == studies.other.data.tags["model_uri"]
    assert second.data.params["model"] == "models:/cifar10-cnn@champion"
    for child in (first, second):
        assert child.info.status == "FINISHED"
        assert user.artifacts(child) == PICTURES | TABLES
        again = evaluate(table(user, child)).metrics("validation")
        assert {each: child.data.metrics[each] for each in again} == pytest.approx(again)
    # On the images that the training of both held out.
    kept = studies.other.data.metrics["kept_val_accuracy"]
    assert first.data.metrics["validation_accuracy"] == pytest.approx(kept)

    expected = compare(table(user, first), table(user, second))
    assert run.data.metrics == pytest.approx(
        {
            "accuracy_difference": expected.difference,
            "accuracy_difference_low": expected.low,
            "accuracy_difference_high": expected.high,
            "mcnemar_p_value": expected.p_value,
        }
    )
    counts = pd.read_csv(user.read(run, "comparison.csv"), index_col="first")
    assert counts.to_numpy().tolist() == expected.table.to_numpy().tolist()
    assert f"{name} against cifar10-cnn version 1: {expected}" in shown
    assert literal_markdown(str(expected)) in run.data.tags["mlflow.note.content"]
