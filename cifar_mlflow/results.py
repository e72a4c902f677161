"""A study's results as a table: a row for each trial, measured beside published, the best marked."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.published import Published, published
from cifar_mlflow.tracking import TrialRun

# The factors that every table shows; others only where they vary.
SHOWN = ("activation", "batch_size", "optimizer")
HEADINGS = {
    "batch_size": "batch",
    "val_accuracy": "val acc.",
    "test_accuracy": "test acc.",
    "test_loss": "test loss",
    "published_accuracy": "publ. acc.",
    "published_loss": "publ. loss",
    "minutes": "min",
}
NOTHING = Published(float("nan"), float("nan"))


def tabulate(
    trials: Sequence[TrialConfig], runs: Mapping[str, TrialRun], select_by: str, official: bool
) -> pd.DataFrame:
    """A row for each trial in the order of the plan, with all its factors.

    Columns: name, the factors, status, val_accuracy, test_accuracy, test_loss, published_accuracy and
    published_loss (NaN where the study has none, or the data is not ``official``), minutes, best, run_id.
    """
    rows = []
    for trial in trials:
        run = runs.get(trial.key)
        metrics = run.metrics if run and run.status == "FINISHED" else {}
        theirs = (published(trial) if official else None) or NOTHING
        rows.append(
            {
                "name": trial.name,
                **trial.model_dump(),
                "status": run.status if run else "NOT RUN",
                "val_accuracy": metrics.get("kept_val_accuracy"),
                "test_accuracy": metrics.get("test_accuracy"),
                "test_loss": metrics.get("test_loss"),
                "published_accuracy": theirs.accuracy,
                "published_loss": theirs.loss,
                "minutes": metrics.get("train_seconds", float("nan")) / 60,
                "best": False,
                "run_id": run.run_id if run else None,
            }
        )
    table = pd.DataFrame(rows)
    numbers = ["val_accuracy", "test_accuracy", "test_loss"]
    table[numbers] = table[numbers].astype(float)
    if table[select_by].notna().any():
        table.loc[table[select_by].idxmax(), "best"] = True
    return table


def shown_factors(table: pd.DataFrame) -> list[str]:
    """The factors that a reader needs to tell the rows apart."""
    alike = table.groupby(list(SHOWN))
    return [
        name
        for name in TrialConfig.model_fields
        if name in SHOWN or (alike[name].nunique() > 1).any()
    ]


def cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text for a person, the same in the terminal and in Markdown."""
    factors = shown_factors(table)
    measures = ["val_accuracy", "test_accuracy", "test_loss"]
    if table["published_accuracy"].notna().any():
        measures += ["published_accuracy", "published_loss"]
    headings = [*factors, "best", *measures, "minutes"]
    formats = {name: "{:.3f}" for name in measures} | {
        "minutes": "{:.1f}",
        "published_accuracy": "{:.2f}",
    }
    rows = []
    for record in table.to_dict("records"):
        row = [str(record[name]) for name in factors]
        row.append("★" if record["best"] else "")
        for name in [*measures, "minutes"]:
            row.append("" if pd.isna(record[name]) else formats[name].format(record[name]))
        if record["status"] != "FINISHED":
            row[len(factors)] = record["status"].lower()
        rows.append(row)
    return [HEADINGS.get(name, name.replace("_", " ")) for name in headings], rows


def markdown(table: pd.DataFrame) -> str:
    headings, rows = cells(table)
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy_grid(table: pd.DataFrame, measure: str = "val_accuracy") -> pd.DataFrame:
    """One accuracy as a grid: batch sizes across, the other factors that vary down."""
    down = [name for name in shown_factors(table) if name != "batch_size"]
    labels = table[down].astype(str).agg(" ".join, axis=1)
    grid = table.assign(row=labels).pivot(index="row", columns="batch_size", values=measure)
    return grid.reindex(labels.unique()).rename_axis(index=", ".join(down))
