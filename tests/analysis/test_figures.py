import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from cifar_mlflow.analysis import figures, metrics
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.data.dataset import Examples
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
    figure = figures.class_examples(examples, CLASSES)
    assert [axis.get_title() for axis in figure.axes] == list(CLASSES)
    for index, axis in enumerate(figure.axes):
        first = examples.images[int(np.argmax(examples.labels == index))]
        np.testing.assert_array_equal(axis.images[0].get_array(), first)


def test_a_class_without_an_image_has_an_empty_cell_that_says_so() -> None:
    whole = standin.batch(3, seed=1)
    others = whole.labels != CLASSES.index("cat")
    figure = figures.class_examples(Examples(whole.images[others], whole.labels[others]), CLASSES)
    shown = {axis.get_title(): [text.get_text() for text in axis.texts] for axis in figure.axes}
    assert shown == {name: ["no image"] if name == "cat" else [] for name in CLASSES}
    pictured = [axis.get_title() for axis in figure.axes if axis.images]
    assert pictured == [name for name in CLASSES if name != "cat"]
    assert "no image" in texts(figure)


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


def test_occlusion_maps_are_drawn_below_their_images_right_ones_first() -> None:
    probabilities = np.full((4, 10), 0.05, np.float32)
    probabilities[range(4), [3, 5, 3, 8]] = 0.55
    shown = metrics.prediction_table(probabilities, np.array([3, 5, 4, 8], np.uint8), CLASSES)
    images, maps = standin.batch(1, seed=1).images[:4], np.arange(4 * 64.0).reshape(4, 8, 8)
    figure = figures.occlusion(images, shown, maps, "a title")
    pictured = [axis for axis in figure.axes if axis.images]
    above, below = pictured[:3] + pictured[6:7], pictured[3:6] + pictured[7:8]
    titles = ["cat 0.550", "dog 0.550", "ship 0.550", "cat 0.550\ntrue: deer 0.050"]
    assert [axis.get_title() for axis in above] == titles
    for upper, lower, index in zip(above, below, (0, 1, 3, 2)):
        np.testing.assert_array_equal(upper.images[0].get_array(), images[index])
        np.testing.assert_array_equal(lower.images[1].get_array(), maps[index])
    assert "a title\nRed: " in figure.get_suptitle()


def test_occlusion_says_that_no_image_is_wrong() -> None:
    shown = metrics.prediction_table(
        np.eye(10, dtype=np.float32)[:1], np.zeros(1, np.uint8), CLASSES
    )
    figure = figures.occlusion(standin.batch(1, seed=1).images[:1], shown, np.zeros((1, 8, 8)), "")
    assert "Classified wrong: none" in texts(figure)


def test_curves_show_train_and_validation_by_epoch() -> None:
    figure = figures.curves(HISTORY, "relu-32-sgd-deep")
    accuracy, loss = figure.axes
    assert [line.get_label() for line in accuracy.lines] == ["train", "validation"]
    np.testing.assert_array_equal(
        np.asarray(accuracy.lines[1].get_ydata()), HISTORY["val_accuracy"]
    )
    np.testing.assert_array_equal(np.asarray(loss.lines[0].get_xdata()), HISTORY["epoch"])
    assert "relu-32-sgd-deep" in texts(figure)


def test_a_single_panel_is_large_enough_for_its_labels() -> None:
    figure = figures.small_multiples({"relu 32 sgd": pd.concat([HISTORY, HISTORY])})
    figure.canvas.draw()
    drawn = figure.get_tightbbox()  # inches
    width, height = figure.get_size_inches()
    pixel = 0.01
    assert min(drawn.x0, drawn.y0) >= -pixel
    assert drawn.x1 <= width + pixel
    assert drawn.y1 <= height + pixel


def test_small_multiples_have_a_panel_for_each_trial() -> None:
    figure = figures.small_multiples({f"trial {n}": HISTORY for n in range(5)})
    shown = [axis.get_title() for axis in figure.axes if axis.lines]
    assert shown == [f"trial {n}" for n in range(5)]


def test_one_history_is_drawn_without_a_band() -> None:
    figure = figures.small_multiples({"relu 32 sgd": HISTORY})
    assert not figure.axes[0].collections
    assert "accuracy" in texts(figure)


def test_several_histories_are_drawn_as_their_mean_in_a_band() -> None:
    better = HISTORY.assign(val_accuracy=HISTORY["val_accuracy"] + 0.2)
    figure = figures.small_multiples({"relu 32 sgd": pd.concat([HISTORY, better])})
    axis = figure.axes[0]
    _, validation = axis.lines
    np.testing.assert_allclose(np.asarray(validation.get_ydata()), HISTORY["val_accuracy"] + 0.1)
    edges = np.asarray(axis.collections[1].get_paths()[0].vertices)
    deviation = 0.2 / np.sqrt(2)
    assert edges[:, 1].max() == pytest.approx(0.25 + 0.1 + deviation)
    assert "accuracy\n(mean ± standard deviation over seeds)" in texts(figure)


def test_an_epoch_that_one_history_has_alone_is_drawn_without_a_band() -> None:
    figure = figures.small_multiples({"name": pd.concat([HISTORY, HISTORY.head(2)])})
    assert len(np.asarray(figure.axes[0].lines[1].get_ydata())) == 3
    assert "name" in texts(figure)


RANKING = pd.DataFrame(
    {
        "mean": [0.7, 0.69, 0.5, 0.4, 0.8],
        "low": [0.68, 0.67, 0.48, np.nan, np.nan],
        "high": [0.72, 0.71, 0.52, np.nan, np.nan],
        "n": [3, 3, 3, 3, 2],
        "verdict": ["best", "within noise", "worse", "untested", "lacks a seed"],
    },
    index=["first", "second", "third", "fourth", "fifth"],
)


def test_a_ranking_has_the_best_on_top_and_full_dots_within_noise_of_it() -> None:
    figure = figures.ranking(RANKING, "validation accuracy")
    axis = figure.axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == [f"{name} (n = {n})" for name, n in RANKING["n"].items()]
    assert axis.yaxis_inverted()
    within, worse, unknown, lacking, _ = axis.lines
    np.testing.assert_array_equal(np.asarray(within.get_xdata()), [0.7, 0.69])
    np.testing.assert_array_equal(np.asarray(worse.get_xdata()), [0.5])
    np.testing.assert_array_equal(np.asarray(unknown.get_xdata()), [0.4])
    np.testing.assert_array_equal(np.asarray(lacking.get_xdata()), [0.8])
    assert worse.get_markerfacecolor() == "white"
    assert len({line.get_marker() for line in (worse, unknown, lacking)}) == 3
    shown = texts(figure)
    assert {"worse", "untested", "lacks a seed: not compared"} <= set(shown)
    assert "validation accuracy, mean over seeds and its 95 % interval" in shown


def test_a_ranking_without_intervals_speaks_of_none() -> None:
    figure = figures.ranking(RANKING.assign(low=np.nan, high=np.nan), "validation accuracy")
    assert "validation accuracy, mean over seeds" in texts(figure)


def test_a_ranking_draws_each_interval_at_its_height() -> None:
    (intervals,) = figures.ranking(RANKING, "validation accuracy").axes[0].collections
    ends = [np.asarray(path.vertices).tolist() for path in intervals.get_paths()]
    assert ends[:3] == [[[0.68, 0], [0.72, 0]], [[0.67, 1], [0.71, 1]], [[0.48, 2], [0.52, 2]]]


def test_every_count_of_the_confusion_matrix_can_be_read() -> None:
    dogs = np.eye(10, dtype=np.float32)[[CLASSES.index("dog")] * 10]
    labels = np.arange(10, dtype=np.uint8)
    confusion = metrics.confusion_table(metrics.prediction_table(dogs, labels, CLASSES))
    confusion.iloc[0, 1] = 1234
    figure = figures.confusion_matrix(confusion, "title")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts].count("1,234") == 1
    assert len(axis.texts) == 100
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")
    assert [label.get_text() for label in axis.get_yticklabels()] == list(CLASSES)


def confusion_of(classes: Sequence[str]) -> pd.DataFrame:
    labels = np.arange(len(classes), dtype=np.uint8)
    right = np.eye(len(classes), dtype=np.float32)
    return metrics.confusion_table(metrics.prediction_table(right, labels, classes))


@pytest.mark.parametrize(
    ("classes", "numbers", "labels"), [(2, 4, 2), (20, 400, 20), (47, 0, 47), (256, 0, 86)]
)
def test_a_confusion_matrix_of_any_number_of_classes_is_legible_and_bounded(
    classes: int, numbers: int, labels: int
) -> None:
    figure = figures.confusion_matrix(confusion_of([str(n) for n in range(classes)]), "title")
    axis = figure.axes[0]
    assert len(axis.texts) == numbers
    assert len(axis.get_xticklabels()) == len(axis.get_yticklabels()) == labels
    assert max(figure.get_size_inches()) <= 15


def test_long_class_names_lose_their_middle_and_are_never_formulas() -> None:
    names = ["a class with a very long name 1", "$x$"]
    axis = figures.confusion_matrix(confusion_of(names), "title").axes[0]
    shown = [label.get_text() for label in axis.get_yticklabels()]
    assert shown == ["a class wit…ong name 1", r"\$x\$"]


@pytest.mark.parametrize(("classes", "cells"), [(2, 2), (47, 50), (101, 100)])
def test_examples_of_many_classes_are_bounded(classes: int, cells: int) -> None:
    labels = np.arange(classes, dtype=np.uint8)
    examples = Examples(np.zeros((classes, 4, 4, 3), np.uint8), labels)
    figure = figures.class_examples(examples, [str(n) for n in range(classes)])
    assert len(figure.axes) == cells
    assert (figure.get_suptitle() == "The first 100 of 101 classes") == (classes > 100)


def test_curves_of_many_classes_name_the_lowest() -> None:
    line = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    figure = figures.roc({str(n): (*line, n / 100) for n in range(47)}, "title")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == [f"{n}, AUC {n / 100:.3f}" for n in range(19, -1, -1)]
    assert legend.get_title().get_text() == "the lowest 20 of 47"
    assert len(figure.axes[0].lines) == 47 + 1  # and chance


def test_a_grid_heatmap_leaves_missing_trials_blank() -> None:
    grid = pd.DataFrame([[0.5, np.nan]], index=["relu"], columns=[32, 64])
    axis = figures.grid_heatmap(grid, "validation accuracy").axes[0]
    assert [text.get_text() for text in axis.texts] == ["0.500", ""]


def test_a_grid_heatmap_of_means_shows_their_spread() -> None:
    grid = pd.DataFrame([[0.5, 0.4]], index=["relu"], columns=[32, 64])
    spread = pd.DataFrame([[0.01, np.nan]], index=["relu"], columns=[32, 64])
    figure = figures.grid_heatmap(grid, "validation accuracy", spread)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.500\n± 0.010", "0.400"]
    assert "validation accuracy\nmean ± standard deviation over seeds" in texts(figure)


def test_a_reliability_diagram_shows_accuracy_and_images_of_each_bin() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(10), 50).astype(np.float32)
    labels = random.integers(0, 10, 50).astype(np.uint8)
    table = metrics.calibration_table(metrics.prediction_table(probabilities, labels, CLASSES))
    figure = figures.reliability(table, "expected calibration error 0.1")
    diagram, counts = figure.axes
    heights = [bar.get_height() for bar in diagram.patches if isinstance(bar, Rectangle)]
    np.testing.assert_array_equal(heights, table["accuracy"])
    heights = [bar.get_height() for bar in counts.patches if isinstance(bar, Rectangle)]
    np.testing.assert_array_equal(heights, table["count"])
    assert "expected calibration error 0.1" in texts(figure)


def test_the_legend_of_class_curves_has_the_largest_area_first() -> None:
    line = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    # Of the second name, matplotlib's own legend would leave out the line.
    curves = {"cat": (*line, 0.5), "_ship_": (*line, 0.9)}
    for figure, area in (
        (figures.roc(curves, "title"), "AUC"),
        (figures.precision_recall(curves, "title"), "AP"),
    ):
        legend = figure.axes[0].get_legend()
        assert legend is not None
        shown = [text.get_text() for text in legend.get_texts()]
        assert shown == [f"_ship_, {area} 0.900", f"cat, {area} 0.500"]
        assert "title" in texts(figure)


def test_small_curves_have_one_pair_of_lines_for_each_seed_and_one_legend() -> None:
    figure = figures.accuracy_curves([HISTORY, HISTORY], published=0.5)
    (axis,) = figure.axes
    assert len(axis.lines) == 5  # and the published level
    legend = axis.get_legend()
    assert legend is not None
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["published (test)", "train", "validation"]
    assert axis.get_ylim() == (0, 1)  # alike in every figure


def test_levels_show_measured_and_published_values_of_each_row() -> None:
    columns = pd.Index([32, 64], name="batch_size")
    measured = pd.DataFrame([[0.5, 0.6], [0.1, np.nan]], ["relu sgd", "sigmoid sgd"], columns)
    published = pd.DataFrame([[0.4, 0.7], [0.1, 0.1]], measured.index, columns)
    figure = figures.accuracy_levels(measured, published)
    (axis,) = figure.axes
    drawn = [np.asarray(line.get_ydata()).tolist() for line in axis.lines]
    assert drawn[:2] == [[0.5, 0.6], [0.4, 0.7]]
    assert {"batch size", "32", "64", "relu sgd", "sigmoid sgd"} <= set(texts(figure))


def test_intervals_are_drawn_from_low_to_high_about_the_value() -> None:
    rows = {"name": ["a: x less y"], "value": [0.3], "low": [0.1], "high": [0.5]}
    figure = figures.intervals(pd.DataFrame(rows).assign(published=np.nan), "difference")
    (axis,) = figure.axes
    (spans,) = axis.collections
    assert [np.asarray(path.vertices)[:, 0].tolist() for path in spans.get_paths()] == [[0.1, 0.5]]
    assert [np.asarray(line.get_xdata()).tolist() for line in axis.lines] == [[0, 0], [0.3]]
    assert not figure.legends  # nothing is published


def test_compute_is_on_a_logarithmic_axis_and_the_front_is_numbered() -> None:
    trials = pd.DataFrame(
        [(0.01, 0.6, True), (0.01, 0.5, True), (1.0, 0.9, False)],
        columns=["pflop", "test_accuracy", "in_grid"],
    )
    figure = figures.accuracy_by_compute(trials, trials.iloc[[0, 2]], published=0.7)
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    assert [(text.get_text(), text.xy) for text in axis.texts] == [  # type: ignore[attr-defined]
        ("1", (0.01, 0.6)),
        ("2", (1.0, 0.9)),
    ]
    lines = {str(line.get_label()): line for line in axis.lines}
    assert list(lines) == ["published best (test)", "front", "other trials", "grid"]
    assert list(np.asarray(lines["grid"].get_ydata())) == [0.6, 0.5]
    assert list(np.asarray(lines["front"].get_ydata())) == [0.6, 0.9, 0.9]
    assert {"0.01", "0.1", "1"} <= set(texts(figure))


def test_a_single_epoch_is_a_dot() -> None:
    (axis,) = figures.accuracy_curves([HISTORY.head(1)]).axes
    assert {line.get_marker() for line in axis.lines} == {"o"}
    (axis,) = figures.accuracy_curves([HISTORY]).axes
    assert {line.get_marker() for line in axis.lines} == {"None"}


def test_curves_of_a_training_without_validation_have_one_line() -> None:
    history = pd.DataFrame({"epoch": [1, 2], "train_accuracy": [0.2, 0.4], "train_loss": [2, 1.5]})
    figure = figures.curves(history.assign(val_accuracy=np.nan, val_loss=np.nan), "all images")
    assert [len(axis.get_lines()) for axis in figure.axes] == [1, 1]
