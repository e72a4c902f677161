"""The sections of the report: figures and tables of the study, measured beside published.

Each function gives what the template shows of a section, by name, and under "missing" what it lacks.
"""

import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cifar_mlflow.analysis import figures, metrics, statistics
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.formatting import ranges, signed
from cifar_mlflow.paper import ARCHITECTURES, CONFUSION, FACTORS, GRID, PER_CLASS, published
from cifar_mlflow.report.collect import Classifier, Material, Study
from cifar_mlflow.report.elements import (
    Missing,
    Picture,
    command,
    command_of,
    mean,
    photograph,
    vector,
)
from cifar_mlflow.store.runs import DATA_DIGEST, TrackedRun
from cifar_mlflow.study import results

# The study's figures 2 to 4 show the architectures, 5 to 16 the grid, in the order of table 1.
STUDY_FIGURES: dict[str, dict[tuple[Any, ...], int]] = {
    "architectures": {(name,): number for number, name in enumerate(ARCHITECTURES, start=2)},
    "grid": {setting: number for number, setting in enumerate(GRID, start=5)},
}
# Of the lines in one picture, more could not be told apart.
MOST_LINES = len(figures.SERIES)
# Rows of cells of a matrix: text, "right" or "wrong", and how dark from 0 to 1.
Cells = list[list[tuple[str, str, float]]]


def data(material: Material) -> dict[str, Any]:
    """Figure 1."""
    found, png = material.data, material.class_examples
    why = ""
    if found is None or png is None:
        why = "no run of the entry point data is in this experiment"
    elif {study.digest for study in material.studies} - {found.tags.get(DATA_DIGEST)}:
        why = "the newest run of the entry point data shows other data than the studies used"
    if why or png is None:
        again = command("data", {}, material.experiment)
        return {
            "figure": None,
            "missing": [Missing("Figure 1, an example of each class", why, again)],
        }
    figure = photograph(
        png,
        "figure-1",
        "Figure 1",
        "The first image of each class in the training set, 32 × 32 pixels each.",
        f"Ten small photographs in two rows, one of each class: {', '.join(CLASSES)}.",
    )
    return {"figure": figure, "missing": []}


def architectures(material: Material) -> dict[str, Any]:
    """Figures 2 to 4, the layers, and a table of results."""
    study = material.architectures
    if study is None:
        part = "Figures 2 to 4, the three architectures with their layers"
        why = "no finished study of the architectures is in this experiment"
        again = command("architectures", {}, material.experiment)
        return {"study": None, "missing": [Missing(part, why, again)]}
    curves, missing = _curves(study, material.experiment)
    networks = []
    for curve, picture in curves:
        network = material.networks.get(curve.config.architecture)
        layers = network.layers if network else None
        networks.append((picture, [] if layers is None else layers.to_dict("records")))
    return {"study": study, "networks": networks, "missing": missing, **_table(study)}


def grid(material: Material) -> dict[str, Any]:
    """Figures 5 to 16 and table 1."""
    study = material.grid
    if study is None:
        part = "Figures 5 to 17 and tables 1 to 4, the grid and its best model"
        why = "no finished grid is in this experiment"
        again = command("grid", {}, material.experiment)
        return {"study": None, "missing": [Missing(part, why, again)]}
    curves, missing = _curves(study, material.experiment)
    return {
        "study": study,
        "pictures": [picture for _, picture in curves],
        "levels": _levels(study),
        "missing": missing,
        **_table(study),
    }


class Curve(NamedTuple):
    """A configuration whose accuracy by epoch is a figure, the study's own where it has a number."""

    number: int | None
    config: TrialConfig
    trials: list[TrialConfig]  # alike but for their seed

    @property
    def label(self) -> str:
        return f"Figure {self.number}" if self.number else "Extra figure"


def _curves(study: Study, experiment: str) -> tuple[list[tuple[Curve, Picture]], list[Missing]]:
    """The learning curves, the study's figures first, in its order; and what is missing of them."""
    free = dict(STUDY_FIGURES[study.run.kind])
    curves = []
    for config, trials in study.configurations.items():
        setting = tuple(getattr(config, name) for name in FACTORS[study.run.kind])
        curves.append(Curve(free.pop(setting, None), config, trials))
    curves.sort(key=lambda curve: curve.number or math.inf)
    missing = []
    if free:
        part = f"Figure{'s' if len(free) > 1 else ''} {ranges(free.values())}"
        why = "this study has no such configuration"
        missing.append(Missing(part, why, command(study.run.kind, {}, experiment)))
    again = command_of(study.run, experiment)
    unfinished = [
        Missing(f"{curve.label}, trial {trial.name}", why, again)
        for curve in curves
        for trial in curve.trials
        if (why := _unfinished(study.runs.get(trial.key)))
    ]
    missing += unfinished[: results.MOST]
    if more := max(0, len(unfinished) - results.MOST):
        missing.append(Missing(f"{more:,} more trials", "they did not finish either", again))
    if more := max(0, len(curves) - results.MOST):
        part = f"The curves of {more:,} more configurations"
        missing.append(Missing(part, "too many for a page; see them in the UI", "mlflow ui"))
    drawn = [(curve, _curve(study, curve)) for curve in curves[: results.MOST]]
    return [(curve, picture) for curve, picture in drawn if picture], missing


def _unfinished(run: TrackedRun | None) -> str:
    """Why a trial has no result; empty where it has."""
    if run is None:
        return "not run"
    if run.status == "FINISHED":
        return ""
    return ", ".join(filter(None, [run.status.lower(), run.end_reason]))


def _curve(study: Study, curve: Curve) -> Picture | None:
    """The accuracy by epoch of a configuration; None where no epoch was finished."""
    found = [study.histories.get(trial.key) for trial in curve.trials]
    histories = [history for history in found if history is not None and len(history)]
    if not histories:
        return None
    record = study.summary.loc[curve.config.name].to_dict()
    theirs = published(curve.config) if study.official else None
    ends = pd.concat([history.iloc[[0, -1]] for history in histories]).groupby("epoch").mean()
    first, last = ends.iloc[0], ends.iloc[-1]
    seen = (
        f"Line chart of accuracy over {int(ends.index[-1])} epochs. "
        f"Training: from {first.train_accuracy:.2f} to {last.train_accuracy:.2f}. "
        f"Validation: from {first.val_accuracy:.2f} to {last.val_accuracy:.2f}."
    )
    caption = _describe(curve.config, study.run.kind)
    caption += f". Test accuracy {mean(record, 'test_accuracy')}"
    if theirs:
        seen += f" A level line marks the published test accuracy, {theirs.accuracy:.2f}."
        caption += f", published {theirs.accuracy:.2f} ({signed(record['difference'])})."
    else:
        caption += "; the study has none with this configuration."
    return vector(
        figures.accuracy_curves(histories, theirs.accuracy if theirs else None),
        f"figure-{curve.number}" if curve.number else f"{study.run.kind}-{curve.config.key}",
        curve.label,
        caption,
        seen,
    )


def _describe(config: TrialConfig, kind: str) -> str:
    """In words; by its name too where it has settings that words leave out."""
    words = f"{config.activation}, batch {config.batch_size}, {config.optimizer}"
    if kind == "architectures" or config.architecture != "deep":
        words = f"The {config.architecture} network, {words}"
    return f"{words} ({config.name})" if "=" in config.name else words


def _table(study: Study) -> dict[str, Any]:
    """Table 1, or the like of it for the architectures: measured beside published."""
    summary = study.summary
    factors = results.shown_factors(summary)
    rows = [
        {
            **record,
            "settings": [str(record[name]) for name in factors],
            "mark": results.mark(record),
            "val": mean(record, "kept_val_accuracy"),
            "test": mean(record, "test_accuracy"),
            "loss": mean(record, "test_loss"),
            "loss_difference": record["test_loss_mean"] - record["published_loss"],
        }
        for record in results.top(summary).to_dict("records")
    ]
    headings = [results.HEADINGS.get(name, name.replace("_", " ")) for name in factors]
    return {
        "factors": headings,
        "select_by": f"{study.select_by} accuracy",
        "rows": rows,
        "hidden": len(summary) - len(rows),
        "replicated": len(study.seeds) > 1,
        "reading": [
            f"{topic}: {text}"
            for topic, text in results.reading(summary, study.select_by)
            if topic in ("Outdated", "Ranking")
        ],
    }


def _levels(study: Study) -> Picture | None:
    """Table 1 as a picture; None where the study has too many lines or too few points for one."""
    measured = results.accuracy_grid(study.summary, "test_accuracy_mean").dropna(how="all")
    theirs = results.accuracy_grid(study.summary, "published_accuracy").loc[measured.index]
    if not 0 < len(measured) <= MOST_LINES or len(measured.columns) < 2:
        return None
    spans = [f"{name}: {row.min():.2f} to {row.max():.2f}" for name, row in measured.iterrows()]
    hollow = "; hollow marks are the published ones" if theirs.notna().any(axis=None) else ""
    return vector(
        figures.accuracy_levels(measured, theirs),
        "figure-a",
        "Figure A",
        f"Table 1 as a picture: test accuracy by batch size{hollow}.",
        f"Line chart, a line for each of the other settings. {'; '.join(spans)}.",
    )


def classes(material: Material) -> dict[str, Any]:
    """Tables 2 to 4 and figure 17."""
    best = material.best
    nothing: dict[str, Any] = {"best": None, "missing": []}
    if material.grid is None:
        return nothing
    again = command_of(material.grid.run, material.experiment)
    if best is None:
        why = "no trial of the study finished"
        return {**nothing, "missing": [Missing("Figure 17 and tables 2 to 4", why, again)]}
    missing = []
    if best.predictions is None:
        why = f"run {best.run.run_id} holds no predictions.parquet"
        missing.append(Missing("Tables 2 to 4", why, again))
    if best.misclassified is None:
        why = f"run {best.run.run_id} holds no misclassified.png"
        missing.append(Missing("Figure 17", why, again))
    return {
        "best": best,
        "second": _second(material),
        "figure": _misclassified(best),
        "missing": missing,
        **_tables_of_classes(best, material.grid.official),
    }


def _second(material: Material) -> str:
    """How the best model compares with the second, where the seeds are too few to tell."""
    tables = [leader.predictions for leader in material.leaders]
    few = material.grid is not None and len(material.grid.seeds) < statistics.FEWEST
    if not few or len(tables) < 2 or tables[0] is None or tables[1] is None:
        return ""
    comparison = statistics.compare(tables[0], tables[1])
    return f"Against the second, {material.leaders[1].run.name}, on the same images: {comparison}."


def _misclassified(best: Classifier) -> Picture | None:
    if best.misclassified is None:
        return None
    seen = "Ten small photographs in two rows, each titled with its predicted and its true class."
    if best.predictions is not None:
        wrong = metrics.misclassified(best.predictions)
        if wrong.empty:
            return None
        pairs = [
            f"{true} taken for {taken}" for true, taken in zip(wrong["true"], wrong["predicted"])
        ]
        seen += f" {', '.join(pairs).capitalize()}."
    caption = "Ten test images, drawn at random among those that the best model classifies wrongly."
    return photograph(best.misclassified, "figure-17", "Figure 17", caption, seen)


def _tables_of_classes(best: Classifier, official: bool) -> dict[str, Any]:
    """Tables 2, 3 and 4."""
    predictions, result, intervals = best.predictions, best.evaluation, best.intervals
    if predictions is None or result is None or intervals is None:
        return {"evaluation": None}
    confusion = result.confusion.to_numpy()
    theirs = np.array(CONFUSION)
    matrices = [("measured", _shaded(confusion))]
    if official:
        matrices.append(("published", _shaded(theirs)))
        matrices.append(("measured less published", _compared(confusion - theirs)))
    printed = PER_CLASS if official else [(math.nan,) * 3] * len(CLASSES)
    measures = ("precision", "recall", "f1")
    report = [
        (name, [(row[m], theirs[i], row[m] - theirs[i]) for i, m in enumerate(measures)])
        for (name, row), theirs in zip(result.report.iterrows(), printed)
    ]
    samples = metrics.sample_predictions(predictions)
    return {
        "evaluation": result,
        "images": len(predictions),
        "matrices": matrices,
        "report": report,
        "interval": intervals.loc["accuracy"].to_numpy(),
        "confused": _confused(result.confusion, official),
        "samples": samples.to_dict("records"),
        "samples_right": int(samples["correct"].sum()),
    }


def _confused(confusion: pd.DataFrame, official: bool) -> list[dict[Hashable, Any]]:
    """The ten most frequent mistakes, each with its published count."""
    theirs = pd.DataFrame(CONFUSION, index=confusion.index, columns=confusion.columns)
    pairs = metrics.most_confused(confusion).head(10)
    published_counts = [
        theirs.loc[true, predicted] if official else math.nan
        for true, predicted in zip(pairs["true"], pairs["predicted"])
    ]
    return pairs.assign(published=published_counts).to_dict("records")


def _shaded(counts: npt.NDArray[np.int64]) -> Cells:
    """Counts, shaded by their share of the row, mistakes on a scale of their own."""
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    darkest = shares[~np.eye(len(counts), dtype=bool)].max() or 1
    return [
        [
            (f"{counts[i, j]:,}", *(("right", share) if i == j else ("wrong", share / darkest)))
            for j, share in enumerate(row)
        ]
        for i, row in enumerate(shares)
    ]


def _compared(
    differences: npt.NDArray[np.int64],
) -> Cells:
    """Differences: more than published is right on the diagonal, and wrong beside it."""
    most = np.abs(differences).max() or 1
    return [
        [
            (signed(value, 0), "right" if (value > 0) == (i == j) else "wrong", abs(value) / most)
            for j, value in enumerate(row)
        ]
        for i, row in enumerate(differences)
    ]
