"""The chapter beyond the paper: accuracy against compute, of every tracked trial on the same data."""

import math
from typing import Any

import pandas as pd

from cifar_mlflow.analysis import figures
from cifar_mlflow.formatting import counted, number, significant
from cifar_mlflow.paper import BEST
from cifar_mlflow.report import conclusions
from cifar_mlflow.report.collect import ReportData, Study
from cifar_mlflow.report.elements import ReportFigure, command, data_options, vector_figure
from cifar_mlflow.store.runs import Status


def beyond(report: ReportData) -> dict[str, Any]:
    """What the template shows of the chapter, by name."""
    tracked = tabulate(report)
    trials = tracked[tracked["pflop"] > 0]
    shown: dict[str, Any] = {
        "left_out": len(tracked) - len(trials),
        "train_more": None,
        "figure": None,
    }
    if trials["reported"].all():
        shown["train_more"] = command(
            "train", {"recipe": "strong"} | data_options(report.own_data), report.experiment
        )
    if trials.empty:
        return shown
    best, whole_grid = front(trials), _pflop_of(report.grid)
    return shown | {
        "figure": _figure(trials, best, report.official),
        "front": best.assign(of_grid=best["pflop"] / whole_grid).to_dict("records"),
        "conclusion": conclusions.on_compute(trials, whole_grid, report.official),
    }


def tabulate(report: ReportData) -> pd.DataFrame:
    """A row for each finished trial, those of the grid first; NaN where a run lacks a metric.

    Columns: name, pflop (1e15 floating-point operations of training), minutes (of training),
    val_accuracy, test_accuracy, in_grid, and reported: it is of a study that the page is about.
    """
    in_grid = {run.run_id for run in report.grid.runs.values()} if report.grid else set()
    reported = {run.run_id for study in report.studies for run in study.runs.values()}
    columns = {
        "pflop": "train_pflop",
        "minutes": "train_seconds",
        "val_accuracy": "kept_val_accuracy",
        "test_accuracy": "test_accuracy",
    }
    rows = [
        {
            "name": run.name,
            **{column: run.metrics.get(metric, math.nan) for column, metric in columns.items()},
            "in_grid": run.run_id in in_grid,
            "reported": run.run_id in reported,
        }
        for run in report.trials
    ]
    table = pd.DataFrame(rows, columns=["name", *columns, "in_grid", "reported"])
    table["minutes"] /= 60
    return table.sort_values("in_grid", ascending=False, kind="stable", ignore_index=True)


def front(trials: pd.DataFrame) -> pd.DataFrame:
    """The Pareto front, the cheapest first: each more accurate than all that took as much or less.

    Of trials that are alike in both, it has the first.
    """
    ordered = trials.sort_values(["pflop", "test_accuracy"], ascending=[True, False], kind="stable")
    before = ordered["test_accuracy"].cummax().shift(fill_value=-math.inf)
    return ordered[ordered["test_accuracy"] > before]


def _pflop_of(grid: Study | None) -> float:
    """What all trials of the grid took together; NaN unless all finished and have it."""
    runs = [grid.runs.get(trial.key) for trial in grid.trials] if grid else []
    taken = [
        run.metrics.get("train_pflop", math.nan)
        if run and run.status == Status.FINISHED
        else math.nan
        for run in runs
    ]
    return sum(taken) if taken else math.nan


def _figure(trials: pd.DataFrame, best: pd.DataFrame, official: bool) -> ReportFigure:
    points = "; ".join(
        f"{name}, {significant(pflop)} PFLOP, {number(accuracy)}"
        for name, pflop, accuracy in zip(best["name"], best["pflop"], best["test_accuracy"])
    )
    alt_text = (
        f"Scatter chart of test accuracy against compute on a logarithmic axis, "
        f"{counted(len(trials), 'trial')}. On the front: {points}."
    )
    if official:
        alt_text += f" A horizontal line marks the best published test accuracy, {number(BEST, 2)}."
    return vector_figure(
        figures.accuracy_by_compute(trials, best, BEST if official else None),
        "figure-c",
        "Figure C",
        "Test accuracy against the compute of training. The grey line is the front: no trial above or "
        "to the left of it. Its numbers are those of table E.",
        alt_text,
    )
