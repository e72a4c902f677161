"""The figures and tables that a run logs of a model's predictions."""

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from cifar_mlflow.analysis import figures, metrics
from cifar_mlflow.formatting import number


def model_artifacts(
    predictions: pd.DataFrame,
    result: metrics.Evaluation,
    images: npt.NDArray[np.uint8],
    title: str,
) -> tuple[dict[str, Figure], dict[str, pd.DataFrame]]:
    """Figures and tables by file name: figure 17 and tables 2 to 4 of the paper, and the predictions."""
    heading = f"{title}, accuracy {number(result.accuracy)}"
    wrong = metrics.misclassified(predictions)
    return (
        {
            "confusion_matrix.png": figures.confusion_matrix(result.confusion, heading),
            "misclassified.png": figures.misclassified(images, wrong),
        },
        {
            "confusion_matrix.csv": result.confusion,
            "per_class.csv": result.report,
            "sample_predictions.csv": metrics.sample_predictions(predictions),
            "predictions.parquet": predictions,
        },
    )
