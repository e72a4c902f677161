import io

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from cifar_mlflow import evaluation, figures
from cifar_mlflow.data import CLASSES
from tests import standin

HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "train_accuracy": [0.1, 0.2, 0.3],
        "val_accuracy": [0.1, 0.2, 0.25],
        "train_loss": [3.0, 2.0, 1.0],
        "val_loss": [3.0, 2.5, 2.0],
    }
)


def texts(figure: Figure) -> list[str]:
    """What a reader can read in the figure, once it is drawn."""
    figure.savefig(io.BytesIO(), format="png")
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def test_class_examples_title_an_image_of_each_class() -> None:
    examples = standin.batch(3, seed=1)
    figure = figures.class_examples(examples)
    assert [axis.get_title() for axis in figure.axes] == list(CLASSES)
    for index, axis in enumerate(figure.axes):
        first = examples.images[int(np.argmax(examples.labels == index))]
        np.testing.assert_array_equal(axis.images[0].get_array(), first)


def test_misclassified_images_are_titled_with_predicted_and_true_class() -> None:
    wrong = pd.DataFrame({"predicted": ["cat"], "true": ["dog"]}, index=[3])
    images = standin.batch(1, seed=1).images
    axis = figures.misclassified(images, wrong).axes[0]
    assert axis.get_title() == "predicted cat\ntrue dog"
    np.testing.assert_array_equal(axis.images[0].get_array(), images[3])


def test_a_model_without_mistakes_gives_an_empty_gallery() -> None:
    nothing = pd.DataFrame({"predicted": [], "true": []}, index=pd.Index([], dtype=int))
    figure = figures.misclassified(standin.batch(1, seed=1).images, nothing)
    assert not any(axis.images for axis in figure.axes)


def test_curves_show_train_and_validation_by_epoch() -> None:
    figure = figures.curves(HISTORY, "deep-relu-32-sgd")
    accuracy, loss = figure.axes
    assert [line.get_label() for line in accuracy.lines] == ["train", "validation"]
    np.testing.assert_array_equal(
        np.asarray(accuracy.lines[1].get_ydata()), HISTORY["val_accuracy"]
    )
    np.testing.assert_array_equal(np.asarray(loss.lines[0].get_xdata()), HISTORY["epoch"])
    assert "deep-relu-32-sgd" in texts(figure)


def test_small_multiples_have_a_panel_for_each_trial() -> None:
    figure = figures.small_multiples({f"trial {n}": HISTORY for n in range(5)})
    shown = [axis.get_title() for axis in figure.axes if axis.lines]
    assert shown == [f"trial {n}" for n in range(5)]


def test_every_count_of_the_confusion_matrix_can_be_read() -> None:
    confusion = evaluation.confusion_table(
        pd.DataFrame({"true": list(CLASSES), "predicted": ["dog"] * 10})
    )
    confusion.iloc[0, 1] = 1234
    figure = figures.confusion_matrix(confusion, "title")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts].count("1,234") == 1
    assert len(axis.texts) == 100
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")
    assert [label.get_text() for label in axis.get_yticklabels()] == list(CLASSES)


def test_a_grid_heatmap_leaves_missing_trials_blank() -> None:
    grid = pd.DataFrame([[0.5, np.nan]], index=["relu"], columns=[32, 64])
    axis = figures.grid_heatmap(grid, "validation accuracy").axes[0]
    assert [text.get_text() for text in axis.texts] == ["0.500", ""]


def test_a_reliability_diagram_shows_accuracy_and_images_of_each_bin() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(10), 50).astype(np.float32)
    labels = random.integers(0, 10, 50).astype(np.uint8)
    table = evaluation.calibration_table(evaluation.prediction_table(probabilities, labels))
    figure = figures.reliability(table, "expected calibration error 0.1")
    diagram, counts = figure.axes
    heights = [bar.get_height() for bar in diagram.patches if isinstance(bar, Rectangle)]
    np.testing.assert_array_equal(heights, table["accuracy"])
    heights = [bar.get_height() for bar in counts.patches if isinstance(bar, Rectangle)]
    np.testing.assert_array_equal(heights, table["count"])
    assert "expected calibration error 0.1" in texts(figure)


def test_the_legend_of_class_curves_has_the_largest_area_first() -> None:
    line = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    curves = {"cat": (*line, 0.5), "ship": (*line, 0.9)}
    for figure, area in (
        (figures.roc(curves, "title"), "AUC"),
        (figures.precision_recall(curves, "title"), "AP"),
    ):
        legend = figure.axes[0].get_legend()
        assert legend is not None
        shown = [text.get_text() for text in legend.get_texts()]
        assert shown == [f"ship, {area} 0.900", f"cat, {area} 0.500"]
        assert "title" in texts(figure)
