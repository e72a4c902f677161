"""From probabilities and labels to confusion matrix, per-class report, calibration and samples.

Everything is computed from one table of predictions (`prediction_table`), which a run keeps as
predictions.parquet, so that every figure and number can be made again without the model.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from cifar_mlflow.data import CLASSES

CALIBRATION_BINS = 15


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
        return {f"{prefix}_{name}": getattr(self, name) for name in names}


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
    probabilities = predictions[list(CLASSES)].to_numpy(np.float64)
    of_true = probabilities[np.arange(len(predictions)), _indices(predictions["true"])]
    correct = (predictions["true"] == predictions["predicted"]).to_numpy()
    return Evaluation(
        # A probability that float32 rounded to 0 counts as its smallest normal number.
        loss=float(-np.log(np.maximum(of_true, np.finfo(np.float32).tiny)).mean()),
        accuracy=float(correct.mean()),
        macro_precision=float(report["precision"].mean()),
        macro_recall=float(report["recall"].mean()),
        macro_f1=float(report["f1"].mean()),
        calibration_error=calibration_error(probabilities.max(axis=1), correct),
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


def calibration_error(
    confidences: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
) -> float:
    """Expected calibration error with 15 bins of equal width (Guo et al., ICML 2017)."""
    bins = np.minimum((confidences * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidences - correct, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidences))


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


def _indices(names: "pd.Series[str]") -> npt.NDArray[np.intp]:
    return pd.Index(CLASSES).get_indexer(pd.Index(names))
