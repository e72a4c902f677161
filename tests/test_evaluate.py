from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cifar_mlflow import evaluate
from cifar_mlflow.analysis import artifacts, metrics
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.errors import UsageError
from cifar_mlflow.evaluate import EvaluatedModel, choose_images
from cifar_mlflow.store import models
from cifar_mlflow.store.models import Lineage, LoadedModel
from tests import standin

UNUSED: Any = None  # in place of a network


def model(
    fraction: float | None = 0.2, digest: str | None = None, known: bool = True
) -> EvaluatedModel:
    loaded = LoadedModel("a/folder", "m-1", None, None, CLASSES, model=UNUSED)
    origin = Lineage("relu-32-sgd-deep", fraction, digest, "CIFAR-10", "1") if known else None
    return EvaluatedModel(loaded, origin)


def test_a_model_goes_by_its_version_else_its_trial_else_its_folder() -> None:
    registered = LoadedModel("models:/mine@champion", "m-1", "mine", "3", CLASSES, model=UNUSED)
    assert EvaluatedModel(registered, None).name == "mine version 3"
    assert model().name == "relu-32-sgd-deep"
    assert model(known=False).name == "folder"


def test_metrics_are_linked_only_to_a_model_that_the_store_knows() -> None:
    assert model().model_id == "m-1"
    assert model(known=False).model_id is None
    assert model(known=False).tags == {"model_uri": "a/folder"}


def test_a_version_without_a_run_is_recorded_by_its_number_and_not_by_an_alias() -> None:
    registered = LoadedModel("models:/mine@champion", None, "mine", "3", CLASSES, model=UNUSED)
    assert EvaluatedModel(registered, None).tags == {"model_uri": "models:/mine/3"}
    assert str(EvaluatedModel(registered, None)) == "mine version 3"


def test_the_test_part_is_the_test_set(small_cifar10: DataSet) -> None:
    images = choose_images("test", small_cifar10, [model()])
    np.testing.assert_array_equal(images.examples.labels, small_cifar10.examples("test").labels)
    assert f"{images}{images.remark}" == "40 test images"


def test_the_validation_part_is_what_every_training_held_out(small_cifar10: DataSet) -> None:
    images = choose_images("validation", small_cifar10, [model(0.1), model(0.25)])
    expected = small_cifar10.split(0.1).validation.labels
    np.testing.assert_array_equal(images.examples.labels, expected)
    assert str(images) == "20 validation images"
    assert images.remark == ", the last 10 % of the training images"


def test_an_unknown_split_is_replaced_by_the_default_one_and_said(small_cifar10: DataSet) -> None:
    for unknown in (model(fraction=None), model(known=False)):
        images = choose_images("validation", small_cifar10, [unknown])
        assert len(images.examples.labels) == 40
        assert "validation split is unknown, so this is the default one" in images.remark
    images = choose_images("validation", small_cifar10, [model(0.1), model(known=False)])
    assert "validation split is unknown, so this is the other's" in images.remark


def test_a_model_that_was_trained_on_all_images_has_no_validation_part(
    small_cifar10: DataSet,
) -> None:
    refusal = (
        r"^part=validation: relu-32-sgd-deep was trained on all training images; use part=test$"
    )
    with pytest.raises(UsageError, match=refusal):
        choose_images("validation", small_cifar10, [model(0.2), model(0.0)])
    assert len(choose_images("test", small_cifar10, [model(0.0)]).examples.labels) == 40


def test_it_is_said_if_a_model_was_trained_on_other_data(small_cifar10: DataSet) -> None:
    other = choose_images("test", small_cifar10, [model(digest="abc")])
    assert "trained on other data" in other.remark
    same = choose_images("test", small_cifar10, [model(digest=small_cifar10.digest)])
    assert same.remark == ""


def test_a_model_of_other_classes_is_refused(
    small_cifar10: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(uri: str, threads: int) -> LoadedModel:
        return LoadedModel(uri, None, None, None, ("cat", "dog"), model=UNUSED)

    monkeypatch.setattr(models, "load_model", load)
    with pytest.raises(UsageError, match=r"^models:/m-1: its classes are cat, dog, not CIFAR-10's"):
        evaluate.find_model("models:/m-1", small_cifar10, threads=1)


def test_a_model_of_another_image_size_is_refused(
    small_cifar10: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(uri: str, threads: int) -> LoadedModel:
        larger = SimpleNamespace(input_shape=(None, 64, 64, 3))
        return LoadedModel(uri, None, None, None, CLASSES, model=larger)

    monkeypatch.setattr(models, "load_model", load)
    with pytest.raises(UsageError, match="it takes images of 64 x 64 pixels; give image_size=64"):
        evaluate.find_model("models:/m-1", small_cifar10, threads=1)


def predictions() -> pd.DataFrame:
    examples = standin.batch(3, seed=0)
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(10), len(examples.labels)).astype(np.float32)
    return metrics.prediction_table(probabilities, examples.labels, CLASSES)


def test_a_models_figures_and_tables_have_the_file_names_of_a_run() -> None:
    table = predictions()
    images = standin.batch(3, seed=0).images
    drawn, tables = artifacts.model_artifacts(table, metrics.evaluate(table), images, "a title")
    assert drawn.keys() == {"confusion_matrix.png", "misclassified.png"}
    assert tables.keys() == {
        "confusion_matrix.csv",
        "per_class.csv",
        "predictions.parquet",
        "sample_predictions.csv",
    }


def test_every_headline_is_a_metric_with_its_bounds() -> None:
    table = predictions()
    bounds = metrics.intervals(table, resamples=100)
    logged = evaluate.with_bounds(metrics.evaluate(table), bounds, "validation")
    for name in metrics.headlines(10):
        assert logged[f"validation_{name}"] == pytest.approx(bounds["value"][name])
        assert logged[f"validation_{name}_low"] == bounds["low"][name]
        assert logged[f"validation_{name}_high"] == bounds["high"][name]


def test_the_main_results_name_the_worst_mistakes_and_classes() -> None:
    # Two of three airplanes are taken for ships; everything else is right.
    labels = np.repeat(np.arange(10, dtype=np.uint8), 3)
    predicted = labels.copy()
    predicted[:2] = CLASSES.index("ship")
    table = metrics.prediction_table(np.eye(10, dtype=np.float32)[predicted], labels, CLASSES)
    result = metrics.evaluate(table)
    pairs = metrics.most_confused(result.confusion)
    lines = dict(
        evaluate.headline_lines(model(), result, metrics.intervals(table, resamples=100), pairs)
    )
    assert lines["Model"] == "m-1 (relu-32-sgd-deep)"
    assert lines["Accuracy"].startswith("0.9333 (95 % interval ")
    assert lines["Confused"] == "airplane taken for ship 2 times (67 %)"
    assert lines["Classes"] == "best automobile (F1 1.000), worst airplane (F1 0.500)"


def test_a_class_without_images_is_not_the_worst() -> None:
    labels = np.array([0, 1, 1], np.uint8)
    right = np.eye(3, dtype=np.float32)[labels]
    table = metrics.prediction_table(right, labels, ("cat", "dog", "eel"))
    result = metrics.evaluate(table)
    bounds, pairs = metrics.intervals(table, resamples=100), metrics.most_confused(result.confusion)
    lines = dict(evaluate.headline_lines(model(), result, bounds, pairs))
    assert lines["Classes"] == "best cat (F1 1.000), worst cat (F1 1.000)"


def test_the_balanced_accuracy_is_shown_where_classes_differ_in_size() -> None:
    labels = np.array([0] * 9 + [1], np.uint8)
    table = metrics.prediction_table(np.eye(2, dtype=np.float32)[[0] * 10], labels, ("cat", "dog"))
    result = metrics.evaluate(table)
    pairs = metrics.most_confused(result.confusion)
    lines = evaluate.headline_lines(model(), result, metrics.intervals(table, resamples=100), pairs)
    assert ("Balanced", "0.5000, the mean recall of the classes") in lines
    assert "Top k" not in dict(lines)


def test_a_description_says_what_it_is_about(small_cifar10: DataSet) -> None:
    images = choose_images("test", small_cifar10, [model()])
    text = evaluate.description([("Compared", "a is better")], images)
    assert text.startswith("40 test images. Intervals are percentile bootstraps")
    assert "**Compared** a is better" in text


def test_two_models_are_shown_side_by_side() -> None:
    table = predictions()
    bounds = metrics.intervals(table, resamples=100)
    models = [
        evaluate.ModelEvaluation(each, table, bounds) for each in (model(), model(known=False))
    ]
    text = evaluate.side_by_side(models)
    rows = [line.strip("| ").split("&ensp; | ") for line in text.splitlines()]
    assert rows[0] == ["metric", "relu-32-sgd-deep", "folder"]
    assert [row[0] for row in rows[2:]] == [
        name.replace("_", " ") for name in metrics.headlines(10)
    ]
    assert all(row[1] == row[2] for row in rows[2:])
