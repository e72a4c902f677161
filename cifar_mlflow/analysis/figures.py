"""All figures: tables in, a matplotlib Figure out. Nothing here knows a model or a run."""

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
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)

from cifar_mlflow.analysis.statistics import INTERVAL
from cifar_mlflow.data.dataset import Examples
from cifar_mlflow.formatting import number, significant

# By class: x, y, and the area under the curve.
Curves = Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]]
# Train and validation differ by their dashes too, for readers who see no colour.
TRAIN: dict[str, Any] = {"color": "#4477aa", "linestyle": "--", "label": "train"}
VALIDATION: dict[str, Any] = {"color": "#cc3311", "linestyle": "-", "label": "validation"}
PUBLISHED: dict[str, Any] = {"color": "#228833", "linestyle": ":", "label": "published (test)"}
# Colours and markers of series (Paul Tol's bright scheme).
SERIES: tuple[dict[str, Any], ...] = (
    {"color": "#cc3311", "marker": "o"},
    {"color": "#4477aa", "marker": "s"},
    {"color": "#228833", "marker": "^"},
    {"color": "#aa3377", "marker": "v"},
    {"color": "#bb5500", "marker": "D"},
    {"color": "#6b6b6b", "marker": "P"},
)
# For figures in a page of text, shown at about their own size.
SMALL: Any = {"font.size": 9, "legend.fontsize": 8, "lines.linewidth": 1.4, "axes.linewidth": 0.7}
OCCLUSION_SCALE = 5  # nats, the same in every figure; it divides the odds by 150
TITLE_WIDTH = 36  # characters above a panel
NAME_WIDTH = 22  # characters of a line with a class name
MOST_PICTURED = 100  # classes in a gallery
MOST_NAMED = 20  # curves with a name of their own
MOST_NUMBERED = 20  # classes of a confusion matrix with numbers in its cells
MOST_LABELLED = 100  # names along its sides


def class_examples(examples: Examples, classes: Sequence[str]) -> Figure:
    """The first image of each class, of 100 classes at most, titled with its name (figure 1 of the paper).

    A class without images has an empty cell that says so.
    """
    pictured = classes[:MOST_PICTURED]
    firsts = (np.flatnonzero(examples.labels == index)[:1] for index in range(len(pictured)))
    figure = _gallery(
        [examples.images[first[0]] if len(first) else None for first in firsts],
        [*map(_name, pictured)],
    )
    if len(pictured) < len(classes):
        figure.suptitle(f"The first {len(pictured)} of {len(classes)} classes")
    return figure


def misclassified(images: npt.NDArray[np.uint8], wrong: pd.DataFrame) -> Figure:
    """Wrongly classified images, 2 x 5, titled with predicted and true class (figure 17 of the paper).

    ``wrong`` is part of a prediction table, whose index counts the ``images`` (N, size, size, 3).
    """
    titles = [
        f"predicted {_name(predicted, 13)}\ntrue {_name(true, 18)}"
        for predicted, true in zip(wrong["predicted"], wrong["true"])
    ]
    return _gallery(list(images[wrong.index.to_numpy()]), titles)


def occlusion(
    images: npt.NDArray[np.uint8],
    shown: pd.DataFrame,
    maps: npt.NDArray[np.float64],
    title: str,
) -> Figure:
    """Images above their occlusion maps, up to six rightly and six wrongly classified ones.

    Args:
        images: (N, size, size, 3).
        shown: their N rows of a prediction table.
        maps: (N, 8, 8), of `occlusion.occlusion_maps` for the predicted classes.
    """
    figure = Figure(figsize=(11, 8.6), dpi=150, layout="constrained")
    figure.suptitle(
        f"{title}\nRed: the prediction rests on this part, for a grey patch over it lowers its odds. "
        "Blue: it raises them.",
        fontsize=11,
    )
    size = images.shape[1]
    scale = ScalarMappable(Normalize(-OCCLUSION_SCALE, OCCLUSION_SCALE), "RdBu_r")
    right = (shown["true"] == shown["predicted"]).to_numpy()
    parts = figure.subfigures(2, 1, squeeze=False).flat
    for part, mask, name in zip(parts, (right, ~right), ("right", "wrong")):
        some = "the most confident images, one for each predicted class, with probabilities"
        part.suptitle(f"Classified {name}: {some if mask.any() else 'none'}", fontsize=11)
        axes = part.subplots(2, 6)
        for axis in axes.flat:
            axis.axis("off")
        rows = shown[mask].to_dict("records")
        for (above, below), image, row, values in zip(axes.T, images[mask], rows, maps[mask]):
            predicted, true = row["predicted"], row["true"]
            truth = f"\ntrue: {_name(true, 16)} {number(row[true])}" if true != predicted else ""
            above.set_title(f"{_name(predicted)} {number(row[predicted])}{truth}", fontsize=9.5)
            above.imshow(image, interpolation="nearest")
            below.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
            below.imshow(
                values,
                scale.get_cmap(),
                scale.norm,
                alpha=0.6,
                interpolation="bilinear",
                extent=(-0.5, size - 0.5, size - 0.5, -0.5),  # the pixels' edges; a map is coarser
            )
        bar = part.colorbar(scale, ax=axes[1], fraction=0.02, extend="both")
        bar.set_label("log odds lost (nats)")
    return figure


def _gallery(images: Sequence[npt.NDArray[np.uint8] | None], titles: Sequence[str]) -> Figure:
    """Images under their titles, None as an empty cell: ten in rows of five, more in rows of ten."""
    columns, width, dpi, fontsize = (10, 1.5, 150, 8)
    if len(images) <= 10:
        columns, width, dpi, fontsize = (min(5, max(2, len(images))), 2.0, 200, 11)
    rows = max(1, math.ceil(len(images) / columns))
    size = (columns * width, rows * 1.2 * width)
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")  # crisp on any screen
    # Ticks take longer than the images, even where they are not shown.
    no_ticks: dict[str, Any] = {"xticks": [], "yticks": []}
    axes = figure.subplots(rows, columns, squeeze=False, subplot_kw=no_ticks)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles):
        axis.set_title(title, fontsize=fontsize)
        if image is None:
            axis.text(0.5, 0.5, "no image", ha="center", va="center")
        else:
            axis.imshow(image, interpolation="nearest")
    return figure


def curves(history: pd.DataFrame, title: str) -> Figure:
    """Accuracy and loss by epoch (figures 2 to 16 of the paper).

    ``history``: one row for each epoch: epoch, train_accuracy, val_accuracy, train_loss, val_loss (nats).
    Where those of validation are NaN, it has no line.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, measure in zip(figure.subplots(1, 2), ("accuracy", "loss")):
        _learning_curves(axis, history, measure)
        axis.set(xlabel="epoch", ylabel=measure if measure == "accuracy" else "loss (nats)")
    axis.legend()
    figure.suptitle(title)
    return figure


def small_multiples(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy by epoch of many configurations, each in its own panel, on common axes.

    A history has rows of epoch, train_accuracy and val_accuracy; with several seeds, several rows for
    each epoch.
    """
    columns = min(4, len(histories))
    rows = math.ceil(len(histories) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.5 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(histories) :]:
        axis.axis("off")
    for axis, (name, history) in zip(axes.flat, histories.items()):
        _learning_curves(axis, history)
        axis.set_title(textwrap.fill(name, TITLE_WIDTH), fontsize=10)
    axes.flat[0].legend(fontsize=8)
    banded = any(axis.collections for axis in axes.flat)
    figure.supxlabel("epoch", fontsize=10)
    label = "accuracy" + ("\n(mean ± standard deviation over seeds)" if banded else "")
    figure.supylabel(label, fontsize=10, multialignment="center")
    return figure


def ranking(means: pd.DataFrame, measure: str) -> Figure:
    """Means of a measure as dots with their 95 % intervals as lines, the first row on top.

    ``means``: by name, the columns mean, low and high (NaN: no interval), n, and verdict: "best",
    "within noise", "worse", "untested" or "lacks a seed".
    """
    figure = Figure(figsize=(8, 1.8 + 0.32 * len(means)), layout="constrained")
    axis = figure.subplots()
    colour = VALIDATION["color"]
    heights = np.arange(len(means))
    axis.hlines(heights, means["low"], means["high"], color=colour, linewidth=2)
    for verdicts, marker, fill, label in (
        (("best", "within noise"), "o", colour, "the best, and within noise of it"),
        (("worse",), "o", "white", "worse"),
        (("untested",), "x", colour, "untested"),
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
    interval = f" and its {INTERVAL}" if means["low"].notna().any() else ""
    axis.set_xlabel(f"{measure}, mean over seeds{interval}")
    axis.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure


def accuracy_curves(histories: Sequence[pd.DataFrame], published: float | None = None) -> Figure:
    """Accuracy by epoch, small; two lines for each of the trials that differ by their seed alone.

    ``published``: the paper's accuracy on the test set, drawn as a horizontal line.
    """
    with rc_context(SMALL):
        figure = Figure(figsize=(3.7, 2.5), layout="constrained")
        axis = figure.subplots()
        if published is not None:
            axis.axhline(published, **PUBLISHED)
        for index, history in enumerate(histories):
            _learning_curves(axis, history, in_legend=index == 0)
        axis.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1))
        axis.legend(loc="best", frameon=False)
    return figure


def _learning_curves(
    axis: Axes, history: pd.DataFrame, measure: str = "accuracy", in_legend: bool = True
) -> None:
    """Training and validation by epoch: the mean over seeds, in a band of one standard deviation."""
    by_epoch = history.groupby("epoch")
    for part, style in (("train", TRAIN), ("val", VALIDATION)):
        values = by_epoch[f"{part}_{measure}"]
        mean, deviation = values.mean(), values.std()
        if mean.isna().all():  # trained without validation
            continue
        (line,) = axis.plot(mean, **style | ({} if in_legend else {"label": None}))
        if len(mean) == 1:  # which makes no line
            line.set_marker("o")
        if deviation.notna().any():
            edges = (mean - deviation, mean + deviation)
            axis.fill_between(mean.index, *edges, color=style["color"], alpha=0.25, linewidth=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.grid(alpha=0.3)


def accuracy_levels(measured: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Two tables of accuracies: a line for each row, the columns across; published values hollow."""
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


def accuracy_by_compute(
    trials: pd.DataFrame, front: pd.DataFrame, published: float | None = None
) -> Figure:
    """Test accuracy by compute on a logarithmic axis: dots, and a step line along the best of them.

    Args:
        trials: pflop (1e15 floating-point operations, above 0), test_accuracy, in_grid (a bool).
        front: the trials that none beats, the cheapest first, numbered from 1 in the figure.
        published: the paper's best accuracy, drawn as a horizontal line.
    """
    with rc_context(SMALL):
        figure = Figure(figsize=(4.4, 3.4), layout="constrained")
        axis = figure.subplots()
        if published is not None:
            axis.axhline(published, **PUBLISHED | {"label": "published best (test)"})
        cheapest, dearest = trials["pflop"].min(), trials["pflop"].max()
        edges = (cheapest / 2, dearest * 2)
        # The line goes on to the edge: no trial there is better than the front's last.
        axis.step(
            [*front["pflop"], edges[1]],
            [*front["test_accuracy"], front["test_accuracy"].max()],
            where="post",
            color="#6b6b6b",
            label="front",
        )
        series = {
            "other trials": (~trials["in_grid"], SERIES[0]),
            "grid": (trials["in_grid"], SERIES[1]),
        }
        for label, (mask, style) in series.items():
            if mask.any():
                part = trials[mask]
                dots: dict[str, Any] = {**style, "linestyle": "none", "markersize": 5}
                axis.plot(part["pflop"], part["test_accuracy"], label=label, **dots)
        for place, point in enumerate(zip(front["pflop"], front["test_accuracy"]), start=1):
            # No trial lies above and to the left of a point of the front.
            offset: dict[str, Any] = {"xytext": (-3, 3), "textcoords": "offset points"}
            axis.annotate(str(place), point, ha="right", va="bottom", **offset)
        axis.set(xscale="log", xlim=edges, xlabel="PFLOP of training")
        axis.set(ylim=(0, 1), ylabel="test accuracy")
        marks = (1, 2, 5) if dearest < 100 * cheapest else (1,)
        axis.xaxis.set_major_locator(LogLocator(subs=marks))
        axis.xaxis.set_major_formatter(lambda value, _: significant(value, 1))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.4)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def intervals(table: pd.DataFrame, label: str) -> Figure:
    """Values with intervals, one above the other: columns name, value, low, high, published (or NaN)."""
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
    """Counts (classes, classes), rows true, columns predicted; shaded by their share of the row.

    Of more than 20 classes the counts are left out, and small shares are shaded more.
    """
    classes = [_name(name) for name in confusion.index]
    numbered = len(classes) <= MOST_NUMBERED
    side = min(max(5.5, 2.5 + 0.65 * len(classes)), 15)
    figure = Figure(figsize=(side, side - 1), dpi=100 if numbered else 150, layout="constrained")
    axis = figure.subplots()
    shares = confusion.div(confusion.sum(axis=1).clip(lower=1), axis=0)
    text = confusion.map("{:,}".format) if numbered else None
    image = _heatmap(axis, shares, text, gamma=1 if numbered else 0.5)
    labelled = range(0, len(classes), math.ceil(len(classes) / MOST_LABELLED))
    names = [classes[place] for place in labelled]
    fontsize = 10 if numbered else min(10, 600 / len(names))
    axis.set_xticks(labelled, names, fontsize=fontsize)
    axis.set_yticks(labelled, names, fontsize=fontsize)
    if not numbered:
        axis.tick_params(axis="x", rotation=90)
    axis.set(xlabel="predicted class", ylabel="true class", title=title)
    bar = figure.colorbar(image, ax=axis, shrink=0.8, format=PercentFormatter(1))
    bar.set_label("share of the true class")
    return figure


def reliability(calibration: pd.DataFrame, title: str) -> Figure:
    """Reliability diagram of a `metrics.calibration_table`: accuracy by confidence, images by bin."""
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
    """A line for each class, by colour and dashes; the legend starts with the largest area.

    Of more than 20 classes, those with the smallest areas are named, and the others are pale.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    axis = figure.subplots()
    by_area = sorted(curves, key=lambda name: -curves[name][2])
    named = set(by_area[-MOST_NAMED:])
    places = {name: place for place, name in enumerate(name for name in curves if name in named)}
    # Of labels alone, without their lines, matplotlib leaves out those that begin with "_".
    lines, labels = [], []
    for name in by_area:
        x, y, under = curves[name]
        if name not in named:
            axis.plot(x, y, color="#dddddd", linewidth=0.8, zorder=1)
            continue
        place = places[name]
        style = ("-", "--", "-.")[place % 3]
        lines += axis.plot(x, y, color=f"C{place % 10}", linestyle=style)
        labels.append(f"{_name(name)}, {area} {number(under)}")
    axis.set(xlim=(0, 1), ylim=(0, 1.01))
    axis.grid(alpha=0.3)
    lowest = f"the lowest {len(named)} of {len(curves)}" if len(named) < len(curves) else None
    axis.legend(lines, labels, loc="upper left", bbox_to_anchor=(1.01, 1), title=lowest)
    return figure, axis


def grid_heatmap(
    accuracies: pd.DataFrame, title: str, deviations: pd.DataFrame | None = None
) -> Figure:
    """Accuracies (0 to 1) of a grid, rows and columns as in the table; NaN is left blank.

    ``deviations``: standard deviations of the same cells, NaN where there is none.
    """
    rows, columns = accuracies.shape
    figure = Figure(figsize=(2.6 + 1.4 * columns, 1.6 + 0.6 * rows), layout="constrained")
    axis = figure.subplots()
    text = accuracies.map(lambda value: "" if np.isnan(value) else number(value))
    if deviations is not None:
        text += deviations.map(lambda value: "" if np.isnan(value) else f"\n± {number(value)}")
        if deviations.notna().any(axis=None):
            title += "\nmean ± standard deviation over seeds"
    _heatmap(axis, accuracies, text)
    axis.set(xlabel=accuracies.columns.name, ylabel=accuracies.index.name)
    figure.suptitle(title, fontsize="medium")
    return figure


def _name(name: str, width: int = NAME_WIDTH) -> str:
    """A class name as a label: a long one without its middle, and never read as a formula."""
    cut = name
    if len(name) > width:
        cut = f"{name[: width // 2]}…{name[len(name) - (width - 1) // 2 :]}"
    return plain(cut)


def plain(text: str) -> str:
    """The same for matplotlib to show as it is, and not to read as a formula."""
    return text.replace("$", r"\$")


def _heatmap(
    axis: Axes, shades: pd.DataFrame, text: pd.DataFrame | None, gamma: float = 1
) -> AxesImage:
    image = axis.imshow(shades, cmap="Blues", norm=PowerNorm(gamma, 0, 1), aspect="auto")
    axis.set_xticks(range(shades.shape[1]), [str(name) for name in shades.columns])
    axis.set_yticks(range(shades.shape[0]), [str(name) for name in shades.index])
    if shades.shape[1] > 6:
        axis.tick_params(axis="x", rotation=45)
    if text is None:
        return image
    for (row, column), value in np.ndenumerate(shades.to_numpy()):
        colour = "white" if value > 0.55 else "black"
        cell = str(text.iloc[row, column])
        # Out of the layout, which would measure a hundred texts that the axes enclose anyway.
        axis.text(column, row, cell, ha="center", va="center", color=colour, in_layout=False)
    return image
