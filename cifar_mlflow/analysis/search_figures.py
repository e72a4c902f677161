"""The figures of a search: the table of its trials in, a matplotlib Figure out.

The table has a row for each trial: number, state (complete, stopped or failed), epochs, val_accuracy (0 to 1,
after these epochs), and a column for each parameter that varies.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from cifar_mlflow.analysis.figures import SERIES
from cifar_mlflow.formatting import counted, number
from cifar_mlflow.space import Choice, Domain, Range

Array = npt.NDArray[np.float64]
MAX_CHOICES = 12  # whose names fit on an axis
STOPPED: dict[str, Any] = {"color": "#999999", "linewidth": 0.8}
COLOURS = "viridis_r"  # the best are dark


def history(trials: pd.DataFrame) -> Figure:
    """Validation accuracy by trial, in the order of the proposals, and the best so far.

    Trials that were stopped at a rung are hollow, with a marker for each rung: their accuracies are those of
    fewer epochs. Failed ones are crosses at the bottom.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axis = figure.subplots()
    complete = trials[trials["state"] == "complete"]
    best = complete["val_accuracy"].cummax()
    # The line goes on to the last trial, which may have been stopped.
    axis.step(
        [*complete["number"], trials["number"].max()],
        [*best, best.max()],
        where="post",
        color="black",
        linewidth=1,
        label="best so far",
    )
    style, *others = SERIES
    points: dict[str, Any] = {"linestyle": "none", "markersize": 5}
    axis.plot(complete["number"], complete["val_accuracy"], label="complete", **style | points)
    stopped = trials[trials["state"] == "stopped"]
    for place, epochs in enumerate(sorted(stopped["epochs"].unique().tolist())):
        part = stopped[stopped["epochs"] == epochs]
        hollow = others[place % len(others)] | points | {"fillstyle": "none"}
        label = f"stopped after {counted(epochs, 'epoch')}"
        axis.plot(part["number"], part["val_accuracy"], label=label, **hollow)
    failed = trials[trials["state"] == "failed"]
    if len(failed):
        bottom: dict[str, Any] = {"transform": axis.get_xaxis_transform(), "clip_on": False}
        axis.plot(failed["number"], np.zeros(len(failed)), "kx", label="failed", **bottom)
    axis.set(xlabel="trial", ylabel="validation accuracy")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5, fontsize=9)
    return figure


def parallel_coordinates(trials: pd.DataFrame, domains: Mapping[str, Domain]) -> Figure:
    """A line for each trial through its parameters to its validation accuracy.

    Complete trials are coloured by their accuracy, and stopped ones are grey. Failed ones are left out.
    """
    judged = trials[trials["val_accuracy"].notna()]
    low, high = _span(judged["val_accuracy"])
    axes: dict[str, Domain] = {**domains, "val_accuracy": Range(low, high, False)}
    figure = Figure(figsize=(1.6 + 1.6 * len(axes), 4.8), layout="constrained")
    axis = figure.subplots()
    heights = np.column_stack([_places(judged[name], domain) for name, domain in axes.items()])
    lines = np.stack([np.broadcast_to(np.arange(len(axes)), heights.shape), heights], axis=-1)
    complete = (judged["state"] == "complete").to_numpy()
    if not complete.all():
        axis.add_collection(LineCollection(list(lines[~complete]), alpha=0.5, **STOPPED))
    accuracies = judged["val_accuracy"].to_numpy()[complete]
    order = np.argsort(accuracies)  # the best on top
    coloured = LineCollection(list(lines[complete][order]), cmap=COLOURS, linewidth=1.6)
    coloured.set_array(accuracies[order])
    coloured.set_norm(Normalize(*_span(pd.Series(accuracies))))
    axis.add_collection(coloured)
    for place, (name, domain) in enumerate(axes.items()):
        axis.axvline(place, color="black", linewidth=0.8)
        for height, label in _ticks(domain):
            behind = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
            axis.annotate(
                f"{label} –",
                (place, height),
                ha="right",
                va="center",
                fontsize=9,
                bbox=behind,
            )
    axis.set_xticks(range(len(axes)), [_heading(name) for name in axes])
    axis.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.tick_params(axis="x", length=0)
    axis.set(xlim=(-0.55, len(axes) - 0.95), ylim=(-0.05, 1.05))
    axis.yaxis.set_visible(False)
    axis.spines[:].set_visible(False)
    _name_stopped(figure, judged)
    return figure


def slices(trials: pd.DataFrame, domains: Mapping[str, Domain]) -> Figure:
    """Validation accuracy by each parameter, in a panel of its own.

    Complete trials are coloured by their number, and stopped ones are grey circles. Failed ones are left
    out.
    """
    judged = trials[trials["val_accuracy"].notna()]
    stopped = judged[judged["state"] == "stopped"]
    complete = judged[judged["state"] == "complete"]
    columns = min(4, len(domains))
    rows = math.ceil(len(domains) / columns)
    figure = Figure(figsize=(3.2 * columns + 1, 2.9 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    colours = ScalarMappable(Normalize(1, max(2, int(trials["number"].max()))), COLOURS)
    for axis in panels.flat[len(domains) :]:
        axis.axis("off")
    for axis, (name, domain) in zip(panels.flat, domains.items()):
        grey = {"s": 14, "facecolors": "none", "edgecolors": STOPPED["color"]}
        axis.scatter(_spread(stopped, name, domain), stopped["val_accuracy"], **grey)
        colour = colours.to_rgba(complete["number"].to_numpy())
        axis.scatter(_spread(complete, name, domain), complete["val_accuracy"], s=22, c=colour)
        _label(axis, domain)
        axis.set_xlabel(_heading(name))
        axis.grid(alpha=0.3)
    figure.supylabel("validation accuracy", fontsize="medium")
    whole = MaxNLocator(integer=True)
    figure.colorbar(colours, ax=panels, label="trial", ticks=whole, fraction=0.05, aspect=30)
    _name_stopped(figure, judged)
    return figure


def importance(shares: Mapping[str, float], title: str) -> Figure:
    """Bars of the importance of parameters, as shares of 1, the most important one on top."""
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(shares)), layout="constrained")
    axis = figure.subplots()
    ordered = sorted(shares.items(), key=lambda item: item[1])
    names, widths = [_heading(name) for name, _ in ordered], [share for _, share in ordered]
    bars = axis.barh(names, widths, color="#4477aa")
    axis.bar_label(bars, [number(share, 2) for _, share in ordered], padding=3)
    axis.set(xlim=(0, 1.1 * max(shares.values())), xlabel="share of the importance")
    figure.suptitle(title, fontsize="medium")
    return figure


def _heading(name: str) -> str:
    return "validation accuracy" if name == "val_accuracy" else name.replace("_", " ")


def _name_stopped(figure: Figure, judged: pd.DataFrame) -> None:
    if (judged["state"] == "stopped").any():
        figure.supxlabel("grey: stopped at a rung, accuracy after fewer epochs", fontsize=9)


def _span(values: pd.Series) -> tuple[float, float]:
    """The least and the largest value, or any two around a single one."""
    if values.empty:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low - 0.01, high + 0.01)


# A parameter's axis runs from 0 to 1 ----------------------------------------------------------


def _places(values: pd.Series, domain: Domain) -> Array:
    """Where values of a parameter are on its axis, from 0 to 1."""
    match domain:
        case Choice(choices):
            indices = [choices.index(value) for value in values]
            return np.asarray(indices, float) / max(1, len(choices) - 1)
        case Range(low, high, logarithmic):
            change = np.log if logarithmic else np.asarray
            places = change(values.to_numpy(float))
            return np.asarray((places - change(low)) / (change(high) - change(low)))


def _ticks(domain: Domain) -> list[tuple[float, str]]:
    """Places on a parameter's axis, and their labels."""
    if isinstance(domain, Choice):
        step = math.ceil(len(domain.values) / MAX_CHOICES)
        shown: Sequence[Any] = domain.values[::step]
    else:
        shown = [
            float(f"{value:.6g}") for value in _round_numbers(domain)
        ]  # not 0.30000000000000004
    labels = [f"{value:g}" if isinstance(value, float) else str(value) for value in shown]
    return list(zip(_places(pd.Series(shown), domain).tolist(), labels))


def _round_numbers(domain: Range) -> list[float]:
    low, high = domain.low, domain.high
    if domain.logarithmic:
        marks = (1,) if high / low >= 100 else (1, 2, 5)
        values = LogLocator(subs=marks).tick_values(low, high)
    else:
        values = MaxNLocator(5, integer=domain.whole).tick_values(low, high)
    return [float(value) for value in values if low <= value <= high]


def _label(axis: Axes, domain: Domain) -> None:
    places, labels = zip(*_ticks(domain))
    long = sum(map(len, labels)) > 24
    axis.set_xticks(places, labels, rotation=45 if long else 0, ha="right" if long else "center")
    axis.set_xlim(-0.15, 1.15)


def _spread(trials: pd.DataFrame, name: str, domain: Domain) -> Array:
    """The places of trials on a parameter's axis; equal choices side by side, by their number."""
    places = _places(trials[name], domain)
    if isinstance(domain, Range):
        return places
    room = 0.5 / max(2, len(domain.values))
    return np.asarray(places + room * ((trials["number"] * 3 % 7 - 3) / 6).to_numpy())
