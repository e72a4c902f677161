import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, log_loss

from cifar_mlflow import evaluation
from cifar_mlflow.data import CLASSES
from cifar_mlflow.published import CONFUSION, PER_CLASS


def predictions(seed: int = 0, count: int = 200) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count).astype(np.uint8)
    scores = random.random((count, 10)) + 2 * np.eye(10)[labels] * random.random((count, 1))
    probabilities = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    return evaluation.prediction_table(probabilities, labels)


def test_the_published_confusion_matrix_gives_the_published_report() -> None:
    confusion = pd.DataFrame(CONFUSION, index=list(CLASSES), columns=list(CLASSES))
    report = evaluation.per_class(confusion)
    measured = report[["precision", "recall", "f1"]].to_numpy()
    assert np.abs(measured - np.array(PER_CLASS)).max() <= 0.0051  # printed with two digits
    assert (report["support"] == 1000).all()


def test_rows_of_the_confusion_matrix_are_true_classes() -> None:
    probabilities = np.eye(10, dtype=np.float32)[[5, 5, 3]]  # dog, dog, cat
    table = evaluation.prediction_table(probabilities, np.array([3, 5, 3], np.uint8))
    confusion = evaluation.confusion_table(table)
    assert confusion.loc["cat", "dog"] == 1
    assert confusion.loc["dog", "cat"] == 0
    assert confusion.to_numpy().sum() == 3
    assert (confusion.index.name, confusion.columns.name) == ("true", "predicted")


def test_numbers_agree_with_scikit_learn() -> None:
    table = predictions()
    result = evaluation.evaluate(table)
    assert result.accuracy == accuracy_score(table["true"], table["predicted"])
    expected = log_loss(table["true"], table[list(CLASSES)], labels=list(CLASSES))
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert result.macro_f1 == pytest.approx(result.report["f1"].mean())


def test_the_loss_is_finite_where_a_probability_is_zero() -> None:
    table = evaluation.prediction_table(np.eye(10, dtype=np.float32)[[0]], np.array([1], np.uint8))
    assert evaluation.evaluate(table).loss == pytest.approx(87.3, abs=0.1)


def test_a_class_that_is_never_predicted_has_precision_zero() -> None:
    probabilities = np.eye(10, dtype=np.float32)[np.zeros(20, int)]
    table = evaluation.prediction_table(probabilities, np.arange(20).astype(np.uint8) % 10)
    report = evaluation.evaluate(table).report
    assert report.loc["airplane", "precision"] == 0.1
    assert list(report.loc["truck"])[:3] == [0, 0, 0]


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidences = np.full(100, 0.75)
    right = np.arange(100) < 75
    assert evaluation.calibration_error(confidences, right) == pytest.approx(0)
    assert evaluation.calibration_error(confidences, ~right) == pytest.approx(0.5)
    assert evaluation.calibration_error(np.ones(4), np.zeros(4, bool)) == 1


def test_everything_can_be_computed_again_from_the_stored_table(tmp_path: object) -> None:
    table = predictions()
    path = f"{tmp_path}/predictions.parquet"
    table.to_parquet(path)
    again = evaluation.evaluate(pd.read_parquet(path))
    before = evaluation.evaluate(table)
    assert again.metrics("test") == before.metrics("test")
    pd.testing.assert_frame_equal(again.confusion, before.confusion)


def test_samples_are_thirty_different_images_and_the_same_each_time() -> None:
    table = predictions()
    samples = evaluation.sample_predictions(table)
    assert len(samples) == samples["image"].nunique() == 30
    assert (samples["correct"] == (samples["true"] == samples["predicted"])).all()
    pd.testing.assert_frame_equal(samples, evaluation.sample_predictions(table))


def test_misclassified_rows_are_all_wrong_and_at_most_ten() -> None:
    wrong = evaluation.misclassified(predictions())
    assert len(wrong) == 10
    assert (wrong["true"] != wrong["predicted"]).all()
    perfect = evaluation.prediction_table(
        np.eye(10, dtype=np.float32), np.arange(10, dtype=np.uint8)
    )
    assert evaluation.misclassified(perfect).empty
