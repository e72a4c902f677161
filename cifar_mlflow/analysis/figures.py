"""Every picture: tables in, matplotlib Figure out. Nothing here knows a model or a run."""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from cifar_mlflow.data.cifar10 import CLASSES, Examples

# Of each class: x, y, and the area under the curve.
Curves = Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]]
# Train and validation, told apart without colour too: by their dashes.
TRAIN: dict[str, Any] = {"color": "#4477aa", "linestyle": "--", "label": "train"}
VALIDATION: dict[str, Any] = {"color": "#cc3311", "linestyle": "-", "label": "validation"}
PUBLISHED: dict[str, Any] = {"color": "#228833", "linestyle": ":", "label": "published (test)"}
# Series told apart by colour and mark (Paul Tol's bright scheme).
SERIES: tuple[dict[str, Any], ...] = (
    {"color": "#cc3311", "marker": "o"},
    {"color": "#4477aa", "marker": "s"},
    {"color": "#228833", "marker": "^"},
    {"color": "#aa3377", "marker": "v"},
    {"color": "#bb5500", "marker": "D"},
    {"color": "#6b6b6b", "marker": "P"},
)
# Of figures that stand in a page of text, at about their own size.
SMALL: Any = {"font.size": 9, "legend.fontsize": 8, "lines.linewidth": 1.4, "axes.linewidth": 0.7}
TITLE_WIDTH = 36  # characters above a panel


def class_examples(examples: Examples) -> Figure:
    """The first image of each class, 2 x 5, titled with the class name (the study's figure 1).

    A class without images has an empty cell that says so.
    """
    of_class = (examples.images[examples.labels == index] for index in range(len(CLASSES)))
    return _gallery([images[0] if len(images) else None for images in of_class], CLASSES)


def misclassified(images: npt.NDArray[np.uint8], wrong: pd.DataFrame) -> Figure:
    """Wrongly classified images, 2 x 5, titled with predicted and true class (figure 17).

    ``wrong`` is part of a prediction table, whose index counts ``images``.
    """
    titles = [
        f"predicted {predicted}\ntrue {true}"
        for predicted, true in zip(wrong["predicted"], wrong["true"])
    ]
    return _gallery(list(images[wrong.index.to_numpy()]), titles)


def _gallery(images: Sequence[npt.NDArray[np.uint8] | None], titles: Sequence[str]) -> Figure:
    figure = Figure(figsize=(10, 4.8), dpi=200, layout="constrained")  # crisp on any screen
    axes = figure.subplots(2, 5)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles):
        axis.set_title(title, fontsize=11)
        if image is None:
            axis.text(0.5, 0.5, "no image", ha="center", va="center")
        else:
            axis.imshow(image, interpolation="nearest")
    return figure


def curves(history: pd.DataFrame, title: str) -> Figure:
    """Accuracy and loss by epoch; ``history`` has a row for each epoch (the study's figures 2-16)."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, measure in zip(figure.subplots(1, 2), ("accuracy", "loss")):
        axis.plot(history["epoch"], history[f"train_{measure}"], **TRAIN)
        axis.plot(history["epoch"], history[f"val_{measure}"], **VALIDATION)
        axis.set(xlabel="epoch", ylabel=measure if measure == "accuracy" else "loss (nats)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    axis.legend()
    figure.suptitle(title)
    return figure


def small_multiples(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy by epoch of many configurations, a panel each on common axes.

    A history has rows of epoch, train_accuracy and val_accuracy; where an epoch has several, those of
    several seeds, their mean is drawn, in a band of a standard deviation to each side.
    """
    columns = min(4, len(histories))
    rows = math.ceil(len(histories) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.5 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(histories) :]:
        axis.axis("off")
    for axis, (name, history) in zip(axes.flat, histories.items()):
        by_epoch = history.groupby("epoch")
        means, deviations = by_epoch.mean(), by_epoch.std()
        for column, style in (("train_accuracy", TRAIN), ("val_accuracy", VALIDATION)):
            mean, deviation = means[column], deviations[column]
            axis.plot(mean, **style)
            if deviation.notna().any():
                edges = (mean - deviation, mean + deviation)
                axis.fill_between(mean.index, *edges, color=style["color"], alpha=0.25, linewidth=0)
        axis.set_title(textwrap.fill(name, TITLE_WIDTH), fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    banded = any(axis.collections for axis in axes.flat)
    figure.supxlabel("epoch", fontsize=10)
    label = "accuracy" + ("\n(mean ± standard deviation over seeds)" if banded else "")
    figure.supylabel(label, fontsize=10, multialignment="center")
    return figure


def ranking(means: pd.DataFrame, measure: str) -> Figure:
    """Means of a measure with their 95 % intervals, as dots and lines, the first row on top.

    ``means``: by name, the columns mean, low and high (NaN: no interval), n, and verdict: "best",
    "within noise", "worse", "cannot be told" or "lacks a seed".
    """
    figure = Figure(figsize=(8, 1.8 + 0.32 * len(means)), layout="constrained")
    axis = figure.subplots()
    colour = VALIDATION["color"]
    heights = np.arange(len(means))
    axis.hlines(heights, means["low"], means["high"], color=colour, linewidth=2)
    for verdicts, marker, fill, label in (
        (("best", "within noise"), "o", colour, "the best, and within noise of it"),
        (("worse",), "o", "white", "worse"),
        (("cannot be told",), "x", colour, "cannot be told"),
        (("lacks a seed",), "D", "white", "lacks a seed: not compared"),
    ):
        mask = means["verdict"].isin(verdicts).to_numpy()
        if mask.any():
            (dots,) = axis.plot(
                means["mean"][mask], heights[mask], marker, color=colour, label=label
            )
            dots.set_markerfacecolor(fill)
    axis.axvline(means["mean"].iloc[0], color="black", linewidth=0.8, linestyle=":")
    axis.set_yticks(heights, [f"{name} (n = {n})" for name, n in means["n"].items()])
    axis.invert_yaxis()
    interval = " and its 95 % interval" if means["low"].notna().any() else ""
    axis.set_xlabel(f"{measure}, mean over seeds{interval}")
    axis.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure


def accuracy_curves(histories: Sequence[pd.DataFrame], published: float | None = None) -> Figure:
    """Accuracy by epoch, small; a pair of lines for each of the trials that differ by seed alone.

    ``published`` is the study's accuracy on the test set, drawn as a level.
    """
    with rc_context(SMALL):
        figure = Figure(figsize=(3.7, 2.5), layout="constrained")
        axis = figure.subplots()
        if published is not None:
            axis.axhline(published, **PUBLISHED)
        for number, history in enumerate(histories):
            for column, style in (("train_accuracy", TRAIN), ("val_accuracy", VALIDATION)):
                (line,) = axis.plot(history["epoch"], history[column], **style)
                if number > 0:  # once in the legend
                    line.set_label(None)
        axis.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axis.grid(alpha=0.4)
        axis.legend(loc="best", frameon=False)
    return figure


def accuracy_levels(measured: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Two tables of accuracies alike: a line for each row, its columns across; published hollow."""
    with rc_context(SMALL):
        figure = Figure(figsize=(4.4, 3.4), layout="constrained")
        axis = figure.subplots()
        places = range(measured.shape[1])
        for name, style in zip(measured.index, itertools.cycle(SERIES)):
            axis.plot(places, measured.loc[name], label=name, markersize=5, **style)
            hollow: dict[str, Any] = {"linestyle": "none", "fillstyle": "none", "markersize": 8}
            axis.plot(places, published.loc[name], **style, **hollow)
        axis.set_xticks(places, [str(name) for name in measured.columns])
        across = str(measured.columns.name).replace("_", " ")
        axis.set(xlabel=across, ylabel="test accuracy", ylim=(0, 1))
        axis.margins(x=0.08)
        axis.grid(alpha=0.4)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def intervals(table: pd.DataFrame, label: str) -> Figure:
    """Values with intervals, a line of each; columns name, value, low, high and published or NaN."""
    with rc_context(SMALL):
        figure = Figure(figsize=(4.4, 1 + 0.45 * len(table)), layout="constrained")
        axis = figure.subplots()
        places = np.arange(len(table))
        axis.axvline(0, color="black", linewidth=0.8)
        axis.hlines(places, table["low"], table["high"], color=VALIDATION["color"], linewidth=1.6)
        axis.plot(table["value"], places, "o", color=VALIDATION["color"], label="measured")
        if table["published"].notna().any():
            axis.plot(
                table["published"],
                places,
                "D",
                color=PUBLISHED["color"],
                fillstyle="none",
                markersize=8,
                label="published",
            )
            figure.legend(loc="outside upper right", ncols=2, frameon=False)
        axis.set_yticks(places, table["name"].str.replace(": ", ":\n"))
        axis.set_ylim(len(table) - 0.4, -0.6)
        axis.set(xlabel=label)
        axis.grid(axis="x", alpha=0.4)
    return figure


def confusion_matrix(confusion: pd.DataFrame, title: str) -> Figure:
    """Counts in a 10 x 10 picture, rows true, columns predicted; shades are shares of the row."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    axis = figure.subplots()
    shares = confusion.div(confusion.sum(axis=1).clip(lower=1), axis=0)
    picture = _heatmap(axis, shares, confusion.map("{:,}".format))
    axis.set(xlabel="predicted class", ylabel="true class", title=title)
    bar = figure.colorbar(picture, ax=axis, shrink=0.8, format=PercentFormatter(1))
    bar.set_label("share of the true class")
    return figure


def reliability(calibration: pd.DataFrame, title: str) -> Figure:
    """Reliability diagram of a calibration table: accuracy by confidence, and images in each bin."""
    figure = Figure(figsize=(6.4, 7), layout="constrained")
    diagram, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = {
        "x": calibration["lower"],
        "width": calibration["upper"] - calibration["lower"],
        "align": "edge",
        "edgecolor": "white",
    }
    diagram.bar(
        height=calibration["accuracy"], color=TRAIN["color"], label="accuracy of the bin", **bins
    )
    diagram.plot([0, 1], [0, 1], color="black", linestyle="--", label="perfectly calibrated")
    diagram.plot(
        calibration["confidence"],
        calibration["accuracy"],
        color=VALIDATION["color"],
        linestyle="",
        marker="o",
        label="at the bin's mean confidence",
    )
    diagram.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=title)
    diagram.legend(loc="upper left")
    counts.bar(height=calibration["count"], color="#888888", **bins)
    counts.set(xlabel="confidence: probability of the predicted class", ylabel="images")
    counts.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for axis in (diagram, counts):
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    return figure


def roc(curves: Curves, title: str) -> Figure:
    """True by false positive rate of each class against the rest, with the area under each curve."""
    figure, axis = _class_curves(curves, "AUC")
    axis.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1)  # chance
    axis.set(xlabel="false positive rate", ylabel="true positive rate", title=title)
    return figure


def precision_recall(curves: Curves, title: str) -> Figure:
    """Precision by recall of each class against the rest, with each average precision."""
    figure, axis = _class_curves(curves, "AP")
    axis.set(xlabel="recall", ylabel="precision", title=title)
    return figure


def _class_curves(curves: Curves, area: str) -> tuple[Figure, Axes]:
    """A line for each class, told apart by colour and dashes; the legend has the largest area first."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axis = figure.subplots()
    for name, (x, y, under) in sorted(curves.items(), key=lambda item: -item[1][2]):
        number = CLASSES.index(name)
        axis.plot(
            x,
            y,
            color=f"C{number}",
            linestyle=("-", "--", "-.")[number % 3],
            label=f"{name}, {area} {under:.3f}",
        )
    axis.set(xlim=(0, 1), ylim=(0, 1.01))
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure, axis


def grid_heatmap(
    accuracies: pd.DataFrame, title: str, deviations: pd.DataFrame | None = None
) -> Figure:
    """Accuracies, shares of 1, of a grid: rows and columns as the table has them; NaN is left out.

    ``deviations``: standard deviations for the same cells, NaN where there is none.
    """
    rows, columns = accuracies.shape
    figure = Figure(figsize=(2.6 + 1.4 * columns, 1.6 + 0.6 * rows), layout="constrained")
    axis = figure.subplots()
    text = accuracies.map(lambda value: "" if np.isnan(value) else f"{value:.3f}")
    if deviations is not None:
        text += deviations.map(lambda value: "" if np.isnan(value) else f"\n± {value:.3f}")
        if deviations.notna().any(axis=None):
            title += "\nmean ± standard deviation over seeds"
    _heatmap(axis, accuracies, text)
    axis.set(xlabel=accuracies.columns.name, ylabel=accuracies.index.name)
    figure.suptitle(title, fontsize="medium")
    return figure


def _heatmap(axis: Axes, shades: pd.DataFrame, text: pd.DataFrame) -> AxesImage:
    picture = axis.imshow(shades, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(shades.shape[1]), [str(name) for name in shades.columns])
    axis.set_yticks(range(shades.shape[0]), [str(name) for name in shades.index])
    if shades.shape[1] > 6:
        axis.tick_params(axis="x", rotation=45)
    for (row, column), value in np.ndenumerate(shades.to_numpy()):
        colour = "white" if value > 0.55 else "black"
        axis.text(column, row, str(text.iloc[row, column]), ha="center", va="center", color=colour)
    return picture
