import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from cifar_mlflow.analysis import metrics
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.paper import CONFUSION, PER_CLASS


def predictions(seed: int = 0, count: int = 200) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count).astype(np.uint8)
    scores = random.random((count, 10)) + 2 * np.eye(10)[labels] * random.random((count, 1))
    probabilities = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    return metrics.prediction_table(probabilities, labels, CLASSES)


def test_the_published_confusion_matrix_gives_the_published_report() -> None:
    confusion = pd.DataFrame(CONFUSION, index=list(CLASSES), columns=list(CLASSES))
    report = metrics.per_class(confusion)
    measured = report[["precision", "recall", "f1"]].to_numpy()
    assert np.abs(measured - np.array(PER_CLASS)).max() <= 0.0051  # printed with two digits
    assert (report["support"] == 1000).all()


def test_rows_of_the_confusion_matrix_are_true_classes() -> None:
    probabilities = np.eye(10, dtype=np.float32)[[5, 5, 3]]  # dog, dog, cat
    table = metrics.prediction_table(probabilities, np.array([3, 5, 3], np.uint8), CLASSES)
    confusion = metrics.confusion_table(table)
    assert confusion.loc["cat", "dog"] == 1
    assert confusion.loc["dog", "cat"] == 0
    assert confusion.to_numpy().sum() == 3
    assert (confusion.index.name, confusion.columns.name) == ("true", "predicted")


def test_numbers_agree_with_scikit_learn() -> None:
    table = predictions()
    result = metrics.evaluate(table)
    assert result.accuracy == accuracy_score(table["true"], table["predicted"])
    expected = log_loss(table["true"], table[list(CLASSES)], labels=list(CLASSES))
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert result.macro_f1 == pytest.approx(result.report["f1"].mean())


def test_the_report_of_each_class_agrees_with_scikit_learn() -> None:
    table = predictions()
    report = metrics.evaluate(table).report
    expected = precision_recall_fscore_support(
        table["true"], table["predicted"], labels=list(CLASSES), zero_division=0
    )
    for column, values in zip(("precision", "recall", "f1", "support"), expected):
        np.testing.assert_array_equal(report[column], values)


def test_the_loss_is_finite_where_a_probability_is_zero() -> None:
    table = metrics.prediction_table(
        np.eye(10, dtype=np.float32)[[0]], np.array([1], np.uint8), CLASSES
    )
    assert metrics.evaluate(table).loss == pytest.approx(87.3, abs=0.1)


def test_a_class_that_is_never_predicted_has_precision_zero() -> None:
    probabilities = np.eye(10, dtype=np.float32)[np.zeros(20, int)]
    table = metrics.prediction_table(probabilities, np.arange(20).astype(np.uint8) % 10, CLASSES)
    report = metrics.evaluate(table).report
    assert report.loc["airplane", "precision"] == 0.1
    assert list(report.loc["truck"])[:3] == [0, 0, 0]


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidences = np.full(100, 0.75)
    right = np.arange(100) < 75
    assert metrics.calibration_error(confidences, right) == pytest.approx(0)
    assert metrics.calibration_error(confidences, ~right) == pytest.approx(0.5)
    assert metrics.calibration_error(np.ones(4), np.zeros(4, bool)) == 1


def test_everything_can_be_computed_again_from_the_stored_table(tmp_path: object) -> None:
    table = predictions()
    path = f"{tmp_path}/predictions.parquet"
    table.to_parquet(path)
    again = metrics.evaluate(pd.read_parquet(path))
    before = metrics.evaluate(table)
    assert again.metrics("test") == before.metrics("test")
    pd.testing.assert_frame_equal(again.confusion, before.confusion)


def test_samples_are_thirty_different_images_and_the_same_each_time() -> None:
    table = predictions()
    samples = metrics.sample_predictions(table)
    assert len(samples) == samples["image"].nunique() == 30
    assert (samples["correct"] == (samples["true"] == samples["predicted"])).all()
    pd.testing.assert_frame_equal(samples, metrics.sample_predictions(table))


def test_misclassified_rows_are_all_wrong_and_at_most_ten() -> None:
    wrong = metrics.misclassified(predictions())
    assert len(wrong) == 10
    assert (wrong["true"] != wrong["predicted"]).all()
    perfect = metrics.prediction_table(
        np.eye(10, dtype=np.float32), np.arange(10, dtype=np.uint8), CLASSES
    )
    assert metrics.misclassified(perfect).empty


def test_the_most_confident_images_have_different_predicted_classes() -> None:
    table = predictions()
    for right in (True, False):
        chosen = metrics.most_confident(table, right)
        assert len(chosen) == 6
        assert ((chosen["true"] == chosen["predicted"]) == right).all()
        assert chosen["predicted"].is_unique
        confidence = chosen[list(CLASSES)].max(axis=1)
        assert confidence.is_monotonic_decreasing
        alike = table[(table["true"] == table["predicted"]) == right]
        assert confidence.iloc[0] == alike[list(CLASSES)].max(axis=None)
    perfect = metrics.prediction_table(
        np.eye(10, dtype=np.float32), np.arange(10, dtype=np.uint8), CLASSES
    )
    assert metrics.most_confident(perfect, right=False).empty


@pytest.mark.parametrize("k", [2, 3, 5])
def test_top_k_accuracy_agrees_with_scikit_learn(k: int) -> None:
    table = predictions()
    expected = top_k_accuracy_score(table["true"], table[list(CLASSES)], k=k, labels=list(CLASSES))
    assert metrics.evaluate(table).top_accuracy[k] == pytest.approx(expected)
    assert metrics.evaluate(table).metrics("val")[f"val_top_{k}_accuracy"] == pytest.approx(
        expected
    )


def test_equal_probabilities_are_no_hits_for_every_class() -> None:
    labels = np.arange(10, dtype=np.uint8)
    table = metrics.prediction_table(np.full((10, 10), 0.1, np.float32), labels, CLASSES)
    assert metrics.evaluate(table).top_accuracy == {2: 0.2, 3: 0.3, 5: 0.5}


def test_the_most_confused_pairs_come_first_with_their_share_of_the_true_class() -> None:
    confusion = pd.DataFrame(
        CONFUSION, index=pd.Index(CLASSES, name="true"), columns=pd.Index(CLASSES, name="predicted")
    )
    pairs = metrics.most_confused(confusion)
    assert list(pairs.columns) == ["true", "predicted", "count", "share"]
    assert pairs.iloc[:3].to_numpy().tolist() == [
        ["dog", "cat", 209, 0.209],
        ["cat", "dog", 125, 0.125],
        ["bird", "deer", 122, 0.122],
    ]
    assert len(pairs) == 90  # no pair of a class with itself
    assert pairs["count"].sum() == 10_000 - np.trace(np.array(CONFUSION))


def test_a_class_may_be_called_like_a_column_of_the_pairs() -> None:
    table = metrics.prediction_table(
        np.eye(3, dtype=np.float32)[[0, 1, 1]],
        np.array([0, 1, 2], np.uint8),
        ("count", "duke", "x"),
    )
    pairs = metrics.most_confused(metrics.confusion_table(table))
    assert pairs.to_numpy().tolist() == [["x", "duke", 1, 1.0]]


def test_pairs_that_are_never_confused_are_left_out() -> None:
    table = metrics.prediction_table(
        np.eye(10, dtype=np.float32)[[5]], np.array([3], np.uint8), CLASSES
    )
    pairs = metrics.most_confused(metrics.confusion_table(table))
    assert pairs.to_numpy().tolist() == [["cat", "dog", 1, 1.0]]


def test_the_calibration_table_sums_to_the_calibration_error() -> None:
    table = predictions()
    calibration = metrics.calibration_table(table)
    assert len(calibration) == metrics.CALIBRATION_BINS
    assert calibration["count"].sum() == len(table)
    filled = calibration.dropna()
    assert filled["confidence"].between(filled["lower"], filled["upper"]).all()
    gaps = (filled["confidence"] - filled["accuracy"]).abs() * filled["count"] / len(table)
    assert gaps.sum() == pytest.approx(metrics.evaluate(table).calibration_error)


def test_bins_without_images_are_empty_not_zero() -> None:
    table = metrics.prediction_table(
        np.eye(10, dtype=np.float32), np.arange(10, dtype=np.uint8), CLASSES
    )
    calibration = metrics.calibration_table(table)
    assert calibration["count"].tolist() == [0] * 14 + [10]
    assert calibration["accuracy"].isna().tolist() == [True] * 14 + [False]
    assert calibration[["confidence", "accuracy"]].to_numpy()[14].tolist() == [1, 1]


def test_areas_under_the_curves_agree_with_scikit_learn() -> None:
    table = predictions()
    roc = metrics.roc_curves(table)
    precision_recall = metrics.precision_recall_curves(table)
    assert roc.keys() == precision_recall.keys() == set(CLASSES)
    for name in CLASSES:
        truth = table["true"] == name
        assert roc[name].area == pytest.approx(roc_auc_score(truth, table[name]))
        expected = average_precision_score(truth, table[name])
        assert precision_recall[name].area == pytest.approx(expected)
        assert (roc[name].x[0], roc[name].y[-1]) == (0, 1)
        assert precision_recall[name].x.max() == 1


def test_a_class_without_images_has_no_curve() -> None:
    table = predictions()
    few = table[table["true"] != "cat"]
    assert set(CLASSES) - metrics.roc_curves(few).keys() == {"cat"}
    assert set(CLASSES) - metrics.precision_recall_curves(few).keys() == {"cat"}


def test_every_headline_has_an_interval_around_what_was_measured() -> None:
    table = predictions()
    intervals = metrics.intervals(table)
    measured = metrics.evaluate(table).metrics("test")
    assert list(intervals.index) == list(metrics.headlines(10))
    assert intervals["value"].to_dict() == pytest.approx(
        {name: measured[f"test_{name}"] for name in metrics.headlines(10)}
    )
    sure = intervals.drop("calibration_error")  # which resampling raises
    assert (sure["low"] < sure["value"]).all()
    assert (sure["value"] < sure["high"]).all()


def test_the_interval_of_an_accuracy_is_that_of_the_binomial_distribution() -> None:
    """Resampling n images of which a share is right draws from Binomial(n, share)."""
    table = predictions(count=1000)
    accuracy = metrics.intervals(table, resamples=5000).loc["accuracy"]
    low, high = stats.binom.interval(0.95, 1000, accuracy["value"])
    assert accuracy["low"] == pytest.approx(low / 1000, abs=0.003)
    assert accuracy["high"] == pytest.approx(high / 1000, abs=0.003)


def test_intervals_agree_with_evaluating_every_resample_itself() -> None:
    table = predictions(count=60)
    random = np.random.default_rng(1)
    again = [
        metrics.evaluate(table.iloc[random.integers(0, 60, 60)]).metrics("x") for _ in range(500)
    ]
    intervals = metrics.intervals(table, resamples=5000)
    for name in metrics.headlines(10):
        values = [metrics[f"x_{name}"] for metrics in again]
        spread = float(np.std(values))
        low, high = np.quantile(values, [0.025, 0.975])
        assert intervals.loc[name, "low"] == pytest.approx(low, abs=0.4 * spread)
        assert intervals.loc[name, "high"] == pytest.approx(high, abs=0.4 * spread)


def test_intervals_are_the_same_each_time() -> None:
    table = predictions()
    first, again = (metrics.intervals(table, resamples=200) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    other = metrics.intervals(table, resamples=200, seed=1)
    assert not first.equals(other)


def test_a_single_image_gives_no_interval() -> None:
    table = metrics.prediction_table(
        np.eye(10, dtype=np.float32)[[0]], np.array([0], np.uint8), CLASSES
    )
    intervals = metrics.intervals(table)
    assert intervals.loc["accuracy", "value"] == 1
    assert intervals[["low", "high"]].isna().all(axis=None)


def table_of(classes: int, count: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(classes), count).astype(np.float32)
    labels = random.integers(0, classes, count).astype(np.uint8)
    return metrics.prediction_table(probabilities, labels, [f"class {n}" for n in range(classes)])


@pytest.mark.parametrize(("classes", "ks"), [(2, []), (3, [2]), (5, [2, 3]), (256, [2, 3, 5])])
def test_top_k_is_measured_where_there_are_more_than_k_classes(classes: int, ks: list[int]) -> None:
    table = table_of(classes)
    result = metrics.evaluate(table)
    assert list(result.top_accuracy) == ks
    assert result.confusion.shape == (classes, classes)
    measured = metrics.intervals(table, resamples=20)["value"].to_dict()
    assert measured == pytest.approx(
        {name: result.metrics("x")[f"x_{name}"] for name in metrics.headlines(classes)}
    )


def test_macro_recall_is_the_balanced_accuracy() -> None:
    table = predictions()
    expected = balanced_accuracy_score(table["true"], table["predicted"])
    assert metrics.evaluate(table).macro_recall == pytest.approx(expected)


@pytest.mark.parametrize(("classes", "images"), [(50, 2), (256, 1), (2, 1), (10, 100)])
def test_macro_f1_lies_in_its_interval_however_few_images_a_class_has(
    classes: int, images: int
) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), images).astype(np.uint8)
    predicted = np.where(random.random(len(labels)) < 0.9, labels, 0)
    probabilities = np.eye(classes, dtype=np.float32)[predicted]
    names = [f"class {number}" for number in range(classes)]
    table = metrics.prediction_table(probabilities, labels, names)
    value, low, high = metrics.intervals(table).T["macro_f1"].tolist()
    assert low <= value <= high
    assert value == pytest.approx(metrics.evaluate(table).macro_f1)
