"""The sections of the report: the paper's figures and tables, measured next to published.

Each function returns what the template shows of a section, by name, and what it lacks as "missing".
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
from cifar_mlflow.formatting import number, percent, ranges, signed
from cifar_mlflow.paper import ARCHITECTURES, CONFUSION, GRID, PER_CLASS, published
from cifar_mlflow.report.collect import Classifier, ReportData, Study, uses_own_data
from cifar_mlflow.report.elements import (
    Missing,
    ReportFigure,
    command,
    command_of,
    data_options,
    png_figure,
    vector_figure,
)
from cifar_mlflow.store.runs import DATA_DIGEST, Status, TrackedRun
from cifar_mlflow.study import results

# The paper's figures 2 to 4 show the architectures, 5 to 16 the grid, in the order of table 1.
# By what its trials differ in (`TrialConfig.VARIED`).
PAPER_FIGURES: dict[str, dict[tuple[Any, ...], int]] = {
    "architectures": {
        ("relu", 32, "sgd", name): number for number, name in enumerate(ARCHITECTURES, start=2)
    },
    "grid": {(*setting, "deep"): number for number, setting in enumerate(GRID, start=5)},
}
# More lines in one figure could not be distinguished.
MAX_LINES = len(figures.SERIES)
# The cells of a matrix by row: text, "right" or "wrong", and the shade from 0 to 1.
Cells = list[list[tuple[str, str, float]]]


def data(report: ReportData) -> dict[str, Any]:
    """Figure 1; of the user's own images also how many there are of each class."""
    run, png = report.data, report.class_examples
    why = ""
    if run is None or png is None:
        why = "this experiment has no run of the entry point data"
    elif {study.digest for study in report.studies} - {run.tags.get(DATA_DIGEST)}:
        why = "the newest run of the entry point data shows other data than the studies used"
    if why or run is None or png is None:
        repeat = command("data", data_options(report.own_data), report.experiment)
        return {
            "figure": None,
            "counts": None,
            "validation": _held_out(report),
            "missing": [Missing("Figure 1, an example of each class", why, repeat)],
        }
    counts = report.class_counts if report.own_data else None
    classes = list(CLASSES) if counts is None else counts["class"].tolist()
    size = run.parameters.get("image_size", "32")
    images = "Ten small photographs in two rows" if counts is None else "Small images in rows"
    figure = png_figure(
        png,
        "figure-1",
        "Figure 1",
        f"The first image of each class in the training set, {size} × {size} pixels each.",
        f"{images}, one of each class: {', '.join(classes)}.",
    )
    shown = None if counts is None else _counts(run, counts, size)
    return {"figure": figure, "counts": shown, "validation": _held_out(report), "missing": []}


def _held_out(report: ReportData) -> str:
    """Which training images were held out for validation; empty if none were, or nothing was trained."""
    trial = next((trial for study in report.studies for trial in study.trials), None)
    if trial is None or not trial.validation_fraction:
        return ""
    which = "A part" if report.own_data else f"The last {percent(trial.validation_fraction, 0)}"
    return f"{which} of the training images is held out for validation."


def _counts(run: TrackedRun, counts: pd.DataFrame, size: str) -> dict[str, Any]:
    """What a data set of the user's own consists of."""
    totals = {part: int(counts[part].sum()) for part in ("train", "test")}
    return {
        **totals,
        "size": size,
        "imbalance": run.metrics["imbalance"],
        "rows": counts.to_dict("records"),
    }


def architectures(report: ReportData) -> dict[str, Any]:
    """Figures 2 to 4, the layers, and a table of results."""
    study = report.architectures
    if study is None:
        own = report.own_data
        figures_missing = "" if own else "Figures 2 to 4, the three "
        part = f"{figures_missing}architectures with their layers"
        why = "this experiment has no finished study of the architectures"
        repeat = command("architectures", data_options(own), report.experiment)
        return {"study": None, "missing": [Missing(part, why, repeat)]}
    curves, missing = _curves(study, report.experiment)
    networks = []
    for curve, figure in curves:
        network = report.networks.get(curve.config.architecture)
        layers = network.layers if network else None
        networks.append((figure, [] if layers is None else layers.to_dict("records")))
    return {"study": study, "networks": networks, "missing": missing, **_table(study)}


def grid(report: ReportData) -> dict[str, Any]:
    """Figures 5 to 16 and table 1."""
    study = report.grid
    if study is None:
        own = report.own_data
        figures_missing = "" if own else "Figures 5 to 17 and tables 1 to 4, "
        part = f"{figures_missing}the grid and its best model"
        why = "this experiment has no finished grid"
        repeat = command("grid", data_options(own), report.experiment)
        return {"study": None, "missing": [Missing(part, why, repeat)]}
    curves, missing = _curves(study, report.experiment)
    return {
        "study": study,
        "figures": [figure for _, figure in curves],
        "levels": _levels(study),
        "missing": missing,
        **_table(study),
    }


class Curve(NamedTuple):
    """A configuration whose learning curves are a figure; number: of the paper's figure, if it has one."""

    number: int | None
    config: TrialConfig
    trials: list[TrialConfig]  # alike but for their seed

    @property
    def label(self) -> str:
        return f"Figure {self.number}" if self.number else "Extra figure"


def _curves(
    study: Study, experiment: str
) -> tuple[list[tuple[Curve, ReportFigure]], list[Missing]]:
    """The learning curves, the paper's figures first, in its order; and which of them are missing."""
    own = uses_own_data(study.run)
    unused = {} if own else dict(PAPER_FIGURES[study.run.kind])
    curves = []
    for config, trials in study.configurations.items():
        setting = tuple(getattr(config, name) for name in TrialConfig.VARIED)
        curves.append(Curve(unused.pop(setting, None), config, trials))
    curves.sort(key=lambda curve: curve.number or math.inf)
    missing = []
    if unused:
        part = f"Figure{'s' if len(unused) > 1 else ''} {ranges(unused.values())}"
        why = "this study has no such configuration"
        missing.append(Missing(part, why, command(study.run.kind, {}, experiment)))
    repeat = command_of(study.run, experiment)
    unfinished = [
        Missing(f"{curve.label}, trial {trial.name}", why, repeat)
        for curve in curves
        for trial in curve.trials
        if (why := _unfinished(study.runs.get(trial.key)))
    ]
    missing += unfinished[: results.MOST]
    if more := max(0, len(unfinished) - results.MOST):
        missing.append(Missing(f"{more:,} more trials", "they did not finish either", repeat))
    if more := max(0, len(curves) - results.MOST):
        part = f"The curves of {more:,} more configurations"
        missing.append(Missing(part, "too many for a page; see them in the UI", "mlflow ui"))
    drawn = [(curve, _curve(study, curve)) for curve in curves[: results.MOST]]
    return [(curve, figure) for curve, figure in drawn if figure], missing


def _unfinished(run: TrackedRun | None) -> str:
    """Why a trial has no result; empty if it has one."""
    if run is None:
        return "not run"
    if run.status == Status.FINISHED:
        return ""
    return ", ".join(filter(None, [run.status.lower(), run.end_reason]))


def _curve(study: Study, curve: Curve) -> ReportFigure | None:
    """The accuracy by epoch of a configuration; None if no epoch was finished."""
    logged = [study.histories.get(trial.key) for trial in curve.trials]
    histories = [history for history in logged if history is not None and len(history)]
    if not histories:
        return None
    record = study.summary.loc[curve.config.name].to_dict()
    paper = published(curve.config) if study.official else None
    ends = pd.concat([history.iloc[[0, -1]] for history in histories]).groupby("epoch").mean()
    first, last = ends.iloc[0], ends.iloc[-1]
    alt_text = (
        f"Line chart of accuracy over {int(ends.index[-1])} epochs. "
        f"Training: from {number(first.train_accuracy, 2)} to {number(last.train_accuracy, 2)}."
    )
    if curve.config.validation_fraction:
        ends_of = f"from {number(first.val_accuracy, 2)} to {number(last.val_accuracy, 2)}"
        alt_text += f" Validation: {ends_of}."
    caption = _describe(curve.config, study.run.kind)
    caption += f". Test accuracy {results.mean_text(record, 'test_accuracy')}"
    if paper:
        level = number(paper.accuracy, 2)
        alt_text += f" A horizontal line marks the published test accuracy, {level}."
        caption += f", published {level} ({signed(record['difference'])})."
    else:
        caption += "." if uses_own_data(study.run) else "; the paper has no such configuration."
    return vector_figure(
        figures.accuracy_curves(histories, paper.accuracy if paper else None),
        f"figure-{curve.number}" if curve.number else f"{study.run.kind}-{curve.config.key}",
        curve.label,
        caption,
        alt_text,
    )


def _describe(config: TrialConfig, kind: str) -> str:
    """In words, followed by its name if it has settings that the words leave out."""
    words = f"{config.activation}, batch {config.batch_size}, {config.optimizer}"
    if kind == "architectures" or config.architecture != "deep":
        words = f"The {config.architecture} network, {words}"
    return f"{words} ({config.name})" if "=" in config.name else words


def _table(study: Study) -> dict[str, Any]:
    """Table 1, or the same table for the architectures: measured next to published."""
    summary = study.summary
    factors = results.shown_factors(summary)
    rows = [
        {
            **record,
            "settings": [str(record[name]) for name in factors],
            "mark": results.mark(record),
            "val": results.mean_text(record, "kept_val_accuracy"),
            "test": results.mean_text(record, "test_accuracy"),
            "loss": results.mean_text(record, "test_loss"),
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


def _levels(study: Study) -> ReportFigure | None:
    """Table 1 as a figure; None if the study has too many lines or too few points for one."""
    measured = results.accuracy_grid(study.summary, "test_accuracy_mean").dropna(how="all")
    paper = results.accuracy_grid(study.summary, "published_accuracy").loc[measured.index]
    if not 0 < len(measured) <= MAX_LINES or len(measured.columns) < 2:
        return None
    spans = [
        f"{name}: {number(row.min(), 2)} to {number(row.max(), 2)}"
        for name, row in measured.iterrows()
    ]
    hollow = "; hollow marks are the published ones" if paper.notna().any(axis=None) else ""
    return vector_figure(
        figures.accuracy_levels(measured, paper),
        "figure-a",
        "Figure A",
        f"Table 1 as a figure: test accuracy by batch size{hollow}.",
        f"Line chart, a line for each of the other settings. {'; '.join(spans)}.",
    )


def classes(report: ReportData) -> dict[str, Any]:
    """Tables 2 to 4 and figure 17."""
    best = report.best
    nothing: dict[str, Any] = {"best": None, "missing": []}
    if report.grid is None:
        return nothing
    repeat = command_of(report.grid.run, report.experiment)
    if best is None:
        why = "no trial of the study finished"
        return {**nothing, "missing": [Missing("Figure 17 and tables 2 to 4", why, repeat)]}
    missing = []
    if best.predictions is None:
        why = f"run {best.run.run_id} has no predictions.parquet"
        missing.append(Missing("Tables 2 to 4", why, repeat))
    if best.misclassified is None:
        why = f"run {best.run.run_id} has no misclassified.png"
        missing.append(Missing("Figure 17", why, repeat))
    return {
        "best": best,
        "second": _second(report),
        "figure": _misclassified(best),
        "missing": missing,
        **_tables_of_classes(best, report.grid.official),
    }


def _second(report: ReportData) -> str:
    """How the best model compares with the second, if the seeds are too few to say."""
    tables = [model.predictions for model in report.top_models]
    few = report.grid is not None and len(report.grid.seeds) < statistics.MIN_VALUES
    if not few or len(tables) < 2 or tables[0] is None or tables[1] is None:
        return ""
    comparison = statistics.compare(tables[0], tables[1])
    return f"Against the second, {report.top_models[1].run.name}, on the same images: {comparison}."


def _misclassified(best: Classifier) -> ReportFigure | None:
    if best.misclassified is None:
        return None
    count = "Ten"
    alt_text = "small photographs in rows, each titled with its predicted and its true class."
    if best.predictions is not None:
        wrong = metrics.misclassified(best.predictions)
        if wrong.empty:
            return None
        pairs = [
            f"{true} taken for {taken}" for true, taken in zip(wrong["true"], wrong["predicted"])
        ]
        count = "Ten" if len(pairs) == 10 else str(len(pairs))
        alt_text += f" In turn: {', '.join(pairs)}."
    caption = f"{count} random test images that the best model classifies wrongly."
    return png_figure(best.misclassified, "figure-17", "Figure 17", caption, f"{count} {alt_text}")


def _tables_of_classes(best: Classifier, official: bool) -> dict[str, Any]:
    """Tables 2, 3 and 4."""
    predictions, result, intervals = best.predictions, best.evaluation, best.intervals
    if predictions is None or result is None or intervals is None:
        return {"evaluation": None}
    confusion = result.confusion.to_numpy()
    paper = np.array(CONFUSION)
    classes = metrics.classes_of(predictions)
    few = len(classes) <= figures.MOST_NUMBERED
    matrices = [("measured", _shaded(confusion))] if few else []
    if official:
        matrices.append(("published", _shaded(paper)))
        matrices.append(("measured less published", _compared(confusion - paper)))
    printed = PER_CLASS if official else [(math.nan,) * 3] * len(classes)
    measures = ("precision", "recall", "f1")
    report = [
        (name, [(row[m], paper_row[i], row[m] - paper_row[i]) for i, m in enumerate(measures)])
        for (name, row), paper_row in zip(result.report.iterrows(), printed)
    ]
    samples = metrics.sample_predictions(predictions)
    return {
        "evaluation": result,
        "class_names": classes,
        "matrix": None if few else _matrix(result.confusion),
        "images": len(predictions),
        "matrices": matrices,
        "report": report,
        "interval": intervals.loc["accuracy"].to_numpy(),
        "confused": _confused(result.confusion, official),
        "samples": samples.to_dict("records"),
        "samples_right": int(samples["correct"].sum()),
    }


def _matrix(confusion: pd.DataFrame) -> ReportFigure:
    """The confusion matrix of too many classes for a table."""
    pairs = metrics.most_confused(confusion).head(3)
    mistakes = [
        f"{true} taken for {taken}" for true, taken in zip(pairs["true"], pairs["predicted"])
    ]
    return vector_figure(
        figures.confusion_matrix(confusion, ""),
        "figure-confusion",
        "Table 2, measured",
        "Too many classes for numbers: each row is shaded by the shares of its images. The artifact "
        "confusion_matrix.csv of the run has the counts.",
        f"A heat map. The most frequent mistakes: {', '.join(mistakes) or 'none'}.",
    )


def _confused(confusion: pd.DataFrame, official: bool) -> list[dict[Hashable, Any]]:
    """The ten most frequent mistakes, each with its published count."""
    pairs = metrics.most_confused(confusion).head(10)
    if not official:
        return pairs.assign(published=math.nan).to_dict("records")
    paper = pd.DataFrame(CONFUSION, index=confusion.index, columns=confusion.columns)
    published_counts = [
        paper.loc[true, predicted] for true, predicted in zip(pairs["true"], pairs["predicted"])
    ]
    return pairs.assign(published=published_counts).to_dict("records")


def _shaded(counts: npt.NDArray[np.int64]) -> Cells:
    """Counts, shaded by their share of the row, the mistakes on a scale of their own."""
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    darkest = shares[~np.eye(len(counts), dtype=bool)].max() or 1
    return [
        [
            (number(counts[i, j], 0), *(("right", share) if i == j else ("wrong", share / darkest)))
            for j, share in enumerate(row)
        ]
        for i, row in enumerate(shares)
    ]


def _compared(
    differences: npt.NDArray[np.int64],
) -> Cells:
    """Differences: more than published is right on the diagonal, and wrong elsewhere."""
    most = np.abs(differences).max() or 1
    return [
        [
            (signed(value, 0), "right" if (value > 0) == (i == j) else "wrong", abs(value) / most)
            for j, value in enumerate(row)
        ]
        for i, row in enumerate(differences)
    ]
