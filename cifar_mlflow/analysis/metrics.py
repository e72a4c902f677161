"""From probabilities and labels to confusion matrix, per-class report, calibration and samples.

Everything is computed from one table of predictions (`prediction_table`). A run logs it as
predictions.parquet, so every figure and number can be computed again without the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cifar_mlflow.analysis.statistics import (
    RESAMPLES,
    cross_table,
    percentile_interval,
    resampled_means,
)
from cifar_mlflow.data.dataset import RESERVED

# A probability that float32 rounded to 0 counts as its smallest normal number.
SMALLEST = np.finfo(np.float32).tiny
CALIBRATION_BINS = 15
TOP = (2, 3, 5)


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one model on one set of images.

    confusion: counts (classes, classes), a row for each true class, a column for each predicted one.
    report: columns precision, recall, f1 and support, a row for each class.
    macro_…: means over the classes that have images; that of recall is also called balanced accuracy.
    top_accuracy: for each k, the share of images whose true class is among the k most probable.
    """

    loss: float  # mean cross-entropy, nats
    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    calibration_error: float
    top_accuracy: dict[int, float]
    confusion: pd.DataFrame
    report: pd.DataFrame

    def metrics(self, prefix: str) -> dict[str, float]:
        """The numbers by name, such as ``test_accuracy`` for the prefix ``test``."""
        names = ("loss", "accuracy", "macro_precision", "macro_recall", "macro_f1")
        numbers = {name: getattr(self, name) for name in (*names, "calibration_error")}
        numbers |= {f"top_{k}_accuracy": share for k, share in self.top_accuracy.items()}
        return {f"{prefix}_{name}": number for name, number in numbers.items()}


def prediction_table(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8], classes: Sequence[str]
) -> pd.DataFrame:
    """One row for each image, in order: true and predicted class, and a probability for each class.

    Args:
        probabilities: (N, len(classes)).
        labels: (N,), indices of ``classes``.
    """
    table = pd.DataFrame(probabilities, columns=list(classes))
    names = np.array(classes)
    table.insert(0, "true", names[labels])
    table.insert(1, "predicted", names[probabilities.argmax(axis=1)])
    return table


def top(classes: int) -> list[int]:
    """Each k whose top-k accuracy is measured: with k classes or fewer it would always be 1."""
    return [k for k in TOP if k < classes]


def headlines(classes: int) -> list[str]:
    """The numbers that have an interval."""
    named = ["accuracy", "macro_f1", "loss", "calibration_error"]
    return named + [f"top_{k}_accuracy" for k in top(classes)]


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """The classes of a prediction table, in the order of the labels."""
    return list(predictions.columns[len(RESERVED) :])


def confidences(predictions: pd.DataFrame) -> "pd.Series[float]":
    """The probability of the predicted class of each image."""
    return predictions[classes_of(predictions)].max(axis=1)


def evaluate(predictions: pd.DataFrame) -> Evaluation:
    """All metrics of a prediction table."""
    confusion = confusion_table(predictions)
    report = per_class(confusion)
    images = _images(predictions)
    macro = report[report["support"] > 0].mean()
    return Evaluation(
        loss=float(images.loss.mean()),
        accuracy=float(images.correct.mean()),
        macro_precision=macro["precision"],
        macro_recall=macro["recall"],
        macro_f1=macro["f1"],
        calibration_error=calibration_error(images.confidence, images.correct),
        top_accuracy={k: float((images.rank < k).mean()) for k in top(len(report))},
        confusion=confusion,
        report=report,
    )


def confusion_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Counts (classes, classes): rows are the true classes, columns the predicted ones."""
    return cross_table(predictions["true"], predictions["predicted"], classes_of(predictions))


def per_class(confusion: pd.DataFrame) -> pd.DataFrame:
    """Precision, recall, F1 and support of each class, from a confusion table; 0 where undefined."""
    counts = confusion.to_numpy()
    right, support = np.diagonal(counts), counts.sum(axis=1)
    return pd.DataFrame(
        {
            "precision": _ratio(right, counts.sum(axis=0)),
            "recall": _ratio(right, support),
            "f1": f1_scores(counts),
            "support": support,
        },
        index=confusion.index.rename("class"),
    )


def f1_scores(confusion: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """F1 of each class (…, K), from confusion counts or shares (…, K, K); 0 where undefined."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return _f1(right, confusion.sum(axis=-1), confusion.sum(axis=-2))


def _f1(
    right: npt.NDArray[Any], true: npt.NDArray[Any], predicted: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    return _ratio(2 * right, true + predicted)


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """0 where ``whole`` is 0."""
    ratio = np.zeros(part.shape)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def most_confused(confusion: pd.DataFrame) -> pd.DataFrame:
    """The mistakes, the most frequent pair of classes first: true, predicted, count, share.

    The share is of the images of the true class. Pairs that never occur are left out.
    """
    pairs = pd.DataFrame(
        {
            "true": np.tile(confusion.index, len(confusion.columns)),
            "predicted": np.repeat(confusion.columns, len(confusion.index)),
            "count": confusion.to_numpy().ravel("F"),
        }
    )
    pairs["share"] = pairs["count"] / pairs.groupby("true", sort=False)["count"].transform("sum")
    mistaken = pairs[(pairs["true"] != pairs["predicted"]) & (pairs["count"] > 0)]
    return mistaken.sort_values("count", ascending=False, kind="stable", ignore_index=True)


def calibration_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """The numbers of a reliability diagram: one row for each of 15 equally wide bins of confidence.

    Columns: bin, lower and upper (its bounds), count, confidence and accuracy (means over its images,
    NaN where it has none).
    """
    images = _images(predictions)
    bins = _calibration_bins(images.confidence)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    bounds = np.arange(CALIBRATION_BINS + 1) / CALIBRATION_BINS

    def means(values: npt.NDArray[np.float64] | npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        sums = np.bincount(bins, weights=values, minlength=CALIBRATION_BINS)
        return sums / np.where(counts > 0, counts, np.nan)

    return pd.DataFrame(
        {
            "lower": bounds[:-1],
            "upper": bounds[1:],
            "count": counts,
            "confidence": means(images.confidence),
            "accuracy": means(images.correct),
        },
        index=pd.RangeIndex(1, CALIBRATION_BINS + 1, name="bin"),
    )


def calibration_error(
    confidences: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
) -> float:
    """Expected calibration error with 15 equally wide bins (Guo et al., ICML 2017)."""
    bins = _calibration_bins(confidences)
    gaps = np.bincount(bins, weights=confidences - correct, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def _calibration_bins(confidences: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    bins: npt.NDArray[np.intp] = (confidences * CALIBRATION_BINS).astype(np.intp)
    return np.minimum(bins, CALIBRATION_BINS - 1)


# Curves ---------------------------------------------------------------------------------------


class Curve(NamedTuple):
    """A curve over all thresholds of one class's probability, and the area under it."""

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    area: float


def roc_curves(predictions: pd.DataFrame) -> dict[str, Curve]:
    """Each class against the rest: true positive rate (y) by false positive rate (x).

    A class without images, or with all of them, has no such curve and is left out.
    """
    from sklearn.metrics import auc, roc_curve  # takes a second

    curves = {}
    for name, positive, score in _one_against_rest(predictions):
        false_rate, true_rate, _ = roc_curve(positive, score)
        curves[name] = Curve(false_rate, true_rate, float(auc(false_rate, true_rate)))
    return curves


def precision_recall_curves(predictions: pd.DataFrame) -> dict[str, Curve]:
    """Each class against the rest: precision (y) by recall (x); the area is the average precision."""
    from sklearn.metrics import average_precision_score, precision_recall_curve  # takes a second

    curves = {}
    for name, positive, score in _one_against_rest(predictions):
        precision, recall, _ = precision_recall_curve(positive, score, drop_intermediate=True)
        area = float(average_precision_score(positive, score))
        curves[name] = Curve(recall, precision, area)
    return curves


def _one_against_rest(
    predictions: pd.DataFrame,
) -> list[tuple[str, npt.NDArray[np.bool_], npt.NDArray[np.float64]]]:
    """For each class that has a curve: name, whether each image is of it, its probabilities."""
    against = [
        (name, (predictions["true"] == name).to_numpy(), predictions[name].to_numpy(np.float64))
        for name in classes_of(predictions)
    ]
    return [(name, own, score) for name, own, score in against if 0 < own.sum() < len(own)]


# Uncertainty ----------------------------------------------------------------------------------


def intervals(predictions: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """The headline numbers with the bounds of their 95 % intervals: value, low, high.

    The intervals are percentile bootstraps over the images. They show how the numbers of this model
    would vary with other images of the same kind, not with another training. Resampling raises a
    calibration error, so its interval lies somewhat high. A single image gives no interval: its bounds
    are NaN.
    """
    classes = len(classes_of(predictions))
    names = headlines(classes)
    summands = _summands(_images(predictions), classes)
    low = high = np.full(len(names), np.nan)
    if len(summands) > 1:
        resampled = _headlines(resampled_means(summands, resamples, seed), classes)
        low, high = percentile_interval(resampled)
    (values,) = _headlines(summands.mean(axis=0, keepdims=True), classes)
    return pd.DataFrame(
        {"value": values, "low": low, "high": high}, index=pd.Index(names, name="metric")
    )


# Samples --------------------------------------------------------------------------------------


def sample_predictions(predictions: pd.DataFrame, count: int = 30, seed: int = 0) -> pd.DataFrame:
    """Random images: number in the file, correct or not, true and predicted class, probability."""
    chosen = predictions.sample(min(count, len(predictions)), random_state=seed)
    return pd.DataFrame(
        {
            "image": chosen.index,
            "correct": (chosen["true"] == chosen["predicted"]).to_numpy(),
            "true": chosen["true"].to_numpy(),
            "predicted": chosen["predicted"].to_numpy(),
            "probability": confidences(chosen).round(3).to_numpy(),
        }
    )


def misclassified(predictions: pd.DataFrame, count: int = 10, seed: int = 0) -> pd.DataFrame:
    """Random rows of wrongly classified images; all of them if there are fewer than ``count``."""
    wrong = predictions[predictions["true"] != predictions["predicted"]]
    return wrong.sample(min(count, len(wrong)), random_state=seed)


def most_confident(predictions: pd.DataFrame, right: bool, count: int = 6) -> pd.DataFrame:
    """Rows of rightly or of wrongly classified images, the most confident first, at most ``count``.

    Each is the most confident one of its predicted class, so that no class takes all places.
    """
    chosen = predictions[(predictions["true"] == predictions["predicted"]) == right]
    ordered = chosen.loc[confidences(chosen).sort_values(ascending=False, kind="stable").index]
    return ordered.drop_duplicates("predicted").head(count)


# Per image ------------------------------------------------------------------------------------


class _Images(NamedTuple):
    """What the metrics are computed from, (N,) each."""

    true: npt.NDArray[np.intp]
    predicted: npt.NDArray[np.intp]
    loss: npt.NDArray[np.float64]  # cross-entropy, nats
    confidence: npt.NDArray[np.float64]  # probability of the predicted class
    rank: npt.NDArray[np.intp]  # of the true class, 0 for the most probable

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        return np.equal(self.true, self.predicted)


def _images(predictions: pd.DataFrame) -> _Images:
    classes = pd.Index(classes_of(predictions))
    probabilities = predictions[classes].to_numpy(np.float64)
    true = classes.get_indexer(pd.Index(predictions["true"]))
    of_true = probabilities[np.arange(len(true)), true]
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return _Images(
        true=true,
        predicted=classes.get_indexer(pd.Index(predictions["predicted"])),
        loss=-np.log(np.maximum(of_true, SMALLEST)),
        confidence=probabilities.max(axis=1),
        rank=(order == true[:, np.newaxis]).argmax(axis=1),
    )


def _summands(images: _Images, classes: int) -> npt.NDArray[np.float64]:
    """One row for each image; the mean over any choice of images gives all headlines of that choice.

    Columns: the loss; a top-k hit for each k; the gap between confidence and correctness in each
    calibration bin; and for each class three: classified rightly, of it, taken for it.
    """
    own = np.eye(classes)
    true, predicted = own[images.true], own[images.predicted]
    bins = np.eye(CALIBRATION_BINS)[_calibration_bins(images.confidence)]
    return np.column_stack(
        [
            images.loss,
            *(images.rank < k for k in top(classes)),
            bins * (images.confidence - images.correct)[:, np.newaxis],
            true * predicted,
            true,
            predicted,
        ]
    )


def _headlines(means: npt.NDArray[np.float64], classes: int) -> npt.NDArray[np.float64]:
    """The `headlines` (M, headlines) of M rows of means of `_summands`."""
    gaps_at, classes_at = 1 + len(top(classes)), means.shape[1] - 3 * classes
    numbers, gaps, of_classes = np.split(means, [gaps_at, classes_at], axis=1)
    loss, *hits = numbers.T
    right, true, predicted = np.split(of_classes, 3, axis=1)
    # Over the classes that have images: a resample may leave out a class of few.
    macro_f1 = np.mean(_f1(right, true, predicted), axis=1, where=true > 0)
    calibration = np.abs(gaps).sum(axis=1)
    return np.column_stack([right.sum(axis=1), macro_f1, loss, calibration, *hits])
