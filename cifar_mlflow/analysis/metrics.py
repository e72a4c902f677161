"""From probabilities and labels to confusion matrix, per-class report, calibration and samples.

Everything is computed from one table of predictions (`prediction_table`), which a run keeps as
predictions.parquet, so that every figure and number can be made again without the model. Intervals
and comparisons of two models are made of such tables too.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import (
    auc,
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_curve,
)

from cifar_mlflow.analysis.statistics import RESAMPLES, bootstrap
from cifar_mlflow.data.cifar10 import CLASSES

CALIBRATION_BINS = 15
TOP = (2, 3, 5)
# The numbers that are given with an interval.
HEADLINES = (
    "accuracy",
    "macro_f1",
    "loss",
    "calibration_error",
    *(f"top_{k}_accuracy" for k in TOP),
)


@dataclass(frozen=True)
class Evaluation:
    """What the predictions of one set of images amount to.

    confusion: counts (10, 10), a row for each true class, a column for each predicted one.
    report: precision, recall, f1 and support of each class, a row for each.
    """

    loss: float  # mean cross-entropy, nats
    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    calibration_error: float
    top_accuracy: dict[
        int, float
    ]  # by k: share of images whose true class is among the k likeliest
    confusion: pd.DataFrame
    report: pd.DataFrame

    def metrics(self, prefix: str) -> dict[str, float]:
        """The numbers by name, such as ``test_accuracy`` for the prefix ``test``."""
        names = (
            "loss",
            "accuracy",
            "macro_precision",
            "macro_recall",
            "macro_f1",
            "calibration_error",
        )
        numbers = {name: getattr(self, name) for name in names}
        numbers |= {f"top_{k}_accuracy": share for k, share in self.top_accuracy.items()}
        return {f"{prefix}_{name}": number for name, number in numbers.items()}


def prediction_table(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]
) -> pd.DataFrame:
    """A row for each image, in order: true and predicted class, and ten columns of probabilities."""
    table = pd.DataFrame(probabilities, columns=list(CLASSES))
    names = np.array(CLASSES)
    table.insert(0, "true", names[labels])
    table.insert(1, "predicted", names[probabilities.argmax(axis=1)])
    return table


def evaluate(predictions: pd.DataFrame) -> Evaluation:
    """Compute every number from a prediction table."""
    confusion = confusion_table(predictions)
    report = per_class(confusion)
    images = _images(predictions)
    return Evaluation(
        loss=float(images.loss.mean()),
        accuracy=float(images.correct.mean()),
        macro_precision=float(report["precision"].mean()),
        macro_recall=float(report["recall"].mean()),
        macro_f1=float(report["f1"].mean()),
        calibration_error=calibration_error(images.confidence, images.correct),
        top_accuracy={k: float((images.rank < k).mean()) for k in TOP},
        confusion=confusion,
        report=report,
    )


def confusion_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Counts (10, 10): rows are the true classes, columns the predicted ones."""
    counts = confusion_matrix(predictions["true"], predictions["predicted"], labels=list(CLASSES))
    return pd.DataFrame(
        counts,
        index=pd.Index(CLASSES, name="true"),
        columns=pd.Index(CLASSES, name="predicted"),
    )


def per_class(confusion: pd.DataFrame) -> pd.DataFrame:
    """Precision, recall, F1 and support of each class, from a confusion table; 0 where undefined."""
    counts = confusion.to_numpy()
    true, predicted = np.indices(counts.shape)
    precision, recall, f1, _ = precision_recall_fscore_support(
        true.ravel(), predicted.ravel(), sample_weight=counts.ravel(), zero_division=0
    )
    return pd.DataFrame(
        {"precision": precision, "recall": recall, "f1": f1, "support": counts.sum(axis=1)},
        index=confusion.index.rename("class"),
    )


def most_confused(confusion: pd.DataFrame) -> pd.DataFrame:
    """Pairs of classes that are mistaken, the most frequent first: true, predicted, count, share.

    The share is of the images of the true class. Pairs that never happen are left out.
    """
    pairs = confusion.reset_index().melt("true", var_name="predicted", value_name="count")
    pairs["share"] = pairs["count"] / pairs.groupby("true", sort=False)["count"].transform("sum")
    mistaken = pairs[(pairs["true"] != pairs["predicted"]) & (pairs["count"] > 0)]
    return mistaken.sort_values("count", ascending=False, kind="stable", ignore_index=True)


def calibration_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """What a reliability diagram shows: a row for each of 15 bins of equal width of the confidence.

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
    """Expected calibration error with 15 bins of equal width (Guo et al., ICML 2017)."""
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
    curves = {}
    for name, positive, score in _one_against_rest(predictions):
        false_rate, true_rate, _ = roc_curve(positive, score)
        curves[name] = Curve(false_rate, true_rate, float(auc(false_rate, true_rate)))
    return curves


def precision_recall_curves(predictions: pd.DataFrame) -> dict[str, Curve]:
    """Each class against the rest: precision (y) by recall (x); the area is the average precision."""
    curves = {}
    for name, positive, score in _one_against_rest(predictions):
        precision, recall, _ = precision_recall_curve(positive, score, drop_intermediate=True)
        area = float(average_precision_score(positive, score))
        curves[name] = Curve(recall, precision, area)
    return curves


def _one_against_rest(
    predictions: pd.DataFrame,
) -> list[tuple[str, npt.NDArray[np.bool_], npt.NDArray[np.float64]]]:
    """Name, whether each image is of it, and its probabilities, of every class with a curve."""
    against = [
        (name, (predictions["true"] == name).to_numpy(), predictions[name].to_numpy(np.float64))
        for name in CLASSES
    ]
    return [(name, own, score) for name, own, score in against if 0 < own.sum() < len(own)]


# Uncertainty ----------------------------------------------------------------------------------


def intervals(predictions: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """The headline numbers with the bounds of their 95 % intervals: value, low, high.

    Percentile bootstrap over images (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapter 13): how the numbers of this one model would vary with other images of the same kind, not
    with another training. Resampling raises a calibration error, so its interval lies somewhat high.
    One image makes no interval: its bounds are NaN.
    """
    sums = _summands(_images(predictions))
    images = len(sums)

    def statistics(chosen: npt.NDArray[np.intp], axis: int) -> npt.NDArray[np.float64]:
        """Numbers (headlines, resamples) of rows of image numbers (resamples, images)."""
        rows = len(chosen)
        offsets = images * np.arange(rows)[:, np.newaxis]
        times = np.bincount((chosen + offsets).ravel(), minlength=rows * images)
        return _headlines(times.reshape(rows, images) @ sums / images)

    low, high = bootstrap(np.arange(images), statistics, resamples, seed)
    values = _headlines(sums.mean(axis=0, keepdims=True))[:, 0]
    return pd.DataFrame(
        {"value": values, "low": low, "high": high},
        index=pd.Index(HEADLINES, name="metric"),
    )


# Samples --------------------------------------------------------------------------------------


def sample_predictions(predictions: pd.DataFrame, count: int = 30, seed: int = 0) -> pd.DataFrame:
    """Random images: their number in the file, correct or not, true and predicted class."""
    chosen = predictions.sample(min(count, len(predictions)), random_state=seed)
    return pd.DataFrame(
        {
            "image": chosen.index,
            "correct": (chosen["true"] == chosen["predicted"]).to_numpy(),
            "true": chosen["true"].to_numpy(),
            "predicted": chosen["predicted"].to_numpy(),
            "probability": chosen[list(CLASSES)].max(axis=1).round(3).to_numpy(),
        }
    )


def misclassified(predictions: pd.DataFrame, count: int = 10, seed: int = 0) -> pd.DataFrame:
    """Random rows among the wrongly classified; fewer where there are not that many."""
    wrong = predictions[predictions["true"] != predictions["predicted"]]
    return wrong.sample(min(count, len(wrong)), random_state=seed)


# What the numbers are functions of -------------------------------------------------------------


class _Images(NamedTuple):
    """Of each image, (N,)."""

    true: npt.NDArray[np.intp]
    predicted: npt.NDArray[np.intp]
    loss: npt.NDArray[np.float64]  # cross-entropy, nats
    confidence: npt.NDArray[np.float64]  # probability of the predicted class
    rank: npt.NDArray[np.intp]  # of the true class, 0 for the most probable

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        return np.equal(self.true, self.predicted)


def _images(predictions: pd.DataFrame) -> _Images:
    probabilities = predictions[list(CLASSES)].to_numpy(np.float64)
    true = _indices(predictions["true"])
    of_true = probabilities[np.arange(len(true)), true]
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return _Images(
        true=true,
        predicted=_indices(predictions["predicted"]),
        # A probability that float32 rounded to 0 counts as its smallest normal number.
        loss=-np.log(np.maximum(of_true, np.finfo(np.float32).tiny)),
        confidence=probabilities.max(axis=1),
        rank=(order == true[:, np.newaxis]).argmax(axis=1),
    )


def _summands(images: _Images) -> npt.NDArray[np.float64]:
    """A row for each image whose mean over images, of any choice of them, gives every headline.

    Columns: the loss; a top-k hit for each k; a cell of the confusion matrix, 100 of them; the gap
    between confidence and correctness in each bin of the calibration.
    """
    cells = np.eye(len(CLASSES) ** 2)[images.true * len(CLASSES) + images.predicted]
    bins = np.eye(CALIBRATION_BINS)[_calibration_bins(images.confidence)]
    return np.column_stack(
        [
            images.loss,
            *(images.rank < k for k in TOP),
            cells,
            bins * (images.confidence - images.correct)[:, np.newaxis],
        ]
    )


def _headlines(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """HEADLINES (headlines, M) of M rows of means of `_summands`."""
    loss, *hits = means[:, : 1 + len(TOP)].T
    cells, gaps = np.split(means[:, 1 + len(TOP) :], [len(CLASSES) ** 2], axis=1)
    confusion = cells.reshape(-1, len(CLASSES), len(CLASSES))
    right = np.diagonal(confusion, axis1=1, axis2=2)
    seen = confusion.sum(axis=1) + confusion.sum(axis=2)
    f1 = np.divide(2 * right, seen, out=np.zeros_like(seen), where=seen > 0)
    calibration = np.abs(gaps).sum(axis=1)
    return np.stack([right.sum(axis=1), f1.mean(axis=1), loss, calibration, *hits])


def _indices(names: "pd.Series[str]") -> npt.NDArray[np.intp]:
    return pd.Index(CLASSES).get_indexer(pd.Index(names))
