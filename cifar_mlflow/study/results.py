"""A study's results as tables: a row for each trial, a row for each configuration, and text.

A configuration is all of a trial but its seed; the trials of one configuration are its replicates.
"""

from collections.abc import Hashable, Mapping, Sequence
from math import inf, nan
from typing import Any

import numpy as np
import pandas as pd

from cifar_mlflow.analysis import statistics
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import Lines
from cifar_mlflow.formatting import (
    UNKNOWN,
    counted,
    markdown_table,
    number,
    percent,
)
from cifar_mlflow.paper import FACTORS as PAPER_FACTORS
from cifar_mlflow.paper import ROUNDING, Published, published
from cifar_mlflow.store.runs import Status, TrackedRun

FACTORS = [name for name in TrialConfig.model_fields if name != "seed"]
# The measures, each with its largest possible value; the smallest is 0.
MEASURES = {"kept_val_accuracy": 1.0, "kept_val_loss": inf, "test_accuracy": 1.0, "test_loss": inf}
ESTIMATED = ("mean", "sd", "low", "high", "single_low", "single_high")  # of each measure
# The column of the accuracy on the images that the best is chosen by.
ACCURACIES = {"validation": "kept_val_accuracy", "test": "test_accuracy"}
# The factors that every table shows; others only where they vary.
SHOWN = PAPER_FACTORS["grid"]
# Tables and figures show at most this many configurations, or rows of a grid: the best.
MOST = 24
HEADINGS = {
    "batch_size": "batch",
    "kept_val_accuracy": "val acc.",
    "test_accuracy": "test acc.",
    "test_loss": "test loss",
    "published_accuracy": "publ. acc.",
    "published_loss": "publ. loss",
    "minutes": "min",
}
# How a configuration compares with the best one, and the mark of that; "": no seed finished.
MARKS = {
    "best": "★",
    "within noise": "≈",
    "worse": "",
    "untested": "?",
    "lacks a seed": "†",
    "": "",
}
OUTDATED = "‡"  # has a trial of another network or of other versions
UNPUBLISHED = Published(nan, nan)


def tabulate(
    trials: Sequence[TrialConfig], runs: Mapping[str, TrackedRun], select_by: str, official: bool
) -> pd.DataFrame:
    """One row for each trial, in the order of the plan, with all its factors; the best one marked.

    The best trial has the best accuracy of those of the best configuration. Columns: name,
    configuration (its name), the factors, status, end_reason, outdated (how its network or versions
    differ from those the study was resumed with), parameters (of the network), the measures,
    published_accuracy and published_loss, minutes (of training), best, run_id.

    Args:
        runs: by trial key; a trial without one has the status NOT RUN.
        select_by: the images whose accuracy counts, validation or test.
        official: the data is CIFAR-10, so that the paper's numbers are comparable; else they are NaN.
    """
    rows = []
    for trial in trials:
        run = runs.get(trial.key)
        metrics = run.metrics if run and run.status == Status.FINISHED else {}
        paper = (published(trial) if official else None) or UNPUBLISHED
        rows.append(
            {
                "name": trial.name,
                "configuration": trial.configuration.name,
                **trial.model_dump(),
                "status": run.status if run else "NOT RUN",
                "end_reason": run.end_reason if run else "",
                "outdated": run.outdated if run else "",
                "parameters": metrics.get("parameters"),
                **{measure: metrics.get(measure) for measure in MEASURES},
                "published_accuracy": paper.accuracy,
                "published_loss": paper.loss,
                "minutes": metrics.get("train_seconds", nan) / 60,
                "best": False,
                "run_id": run.run_id if run else None,
            }
        )
    table = pd.DataFrame(rows).astype(dict.fromkeys(("parameters", *MEASURES), float))
    summary = summarise(table, select_by)
    of_best = table["configuration"].isin(summary.index[summary["best"]])
    if of_best.any():
        table.loc[table[ACCURACIES[select_by]].where(of_best).idxmax(), "best"] = True
    return table


def first_finished(
    trials: Sequence[TrialConfig], runs: Mapping[str, TrackedRun]
) -> dict[str, TrackedRun]:
    """The first trial of each network that finished, in the order of the plan, by architecture."""
    first: dict[str, TrackedRun] = {}
    for trial in trials:
        run = runs.get(trial.key)
        if run and run.status == Status.FINISHED:
            first.setdefault(trial.architecture, run)
    return first


def summarise(table: pd.DataFrame, select_by: str) -> pd.DataFrame:
    """One row for each configuration, by name, in the order of the plan.

    Columns: the factors; parameters; planned, the number of its trials, and n, of the finished ones;
    status, of the first trial that did not finish, if any; outdated, the number of outdated trials; of
    each measure the columns ESTIMATED (see `statistics.estimates`); published_accuracy,
    published_loss, and difference, test_accuracy_mean less published_accuracy; minutes, the mean of a
    trial; and by the mean accuracy on the images ``select_by``: rank, difference_to_best, its p_value
    (see `statistics.against_best`), verdict (a key of `MARKS`) and best.

    A configuration that lacks a trial ranks after those that have all, and is not compared with the
    best: the missing trial may be missing because it failed.

    Args:
        table: of `tabulate`.
    """
    groups = table.groupby("configuration", sort=False)
    summary = groups[[*FACTORS, "parameters"]].first()
    summary["planned"] = groups.size()
    measured = {
        name: statistics.estimates(table[name], table["configuration"], highest)
        for name, highest in MEASURES.items()
    }
    chosen = measured[ACCURACIES[select_by]]
    summary["n"] = chosen["n"]
    unfinished = (
        table[table["status"] != Status.FINISHED].groupby("configuration")["status"].first()
    )
    summary["status"] = unfinished.reindex(summary.index).fillna(Status.FINISHED)
    summary["outdated"] = table["outdated"].ne("").groupby(table["configuration"]).sum()
    for name, estimate in measured.items():
        summary[[f"{name}_{column}" for column in ESTIMATED]] = estimate[list(ESTIMATED)]
    summary[["published_accuracy", "published_loss"]] = groups[
        ["published_accuracy", "published_loss"]
    ].first()
    summary["difference"] = summary["test_accuracy_mean"].sub(summary["published_accuracy"])
    summary["minutes"] = groups["minutes"].mean()

    return summary.join(_compare(chosen))


def _compare(chosen: pd.DataFrame) -> pd.DataFrame:
    """The columns rank, best, difference_to_best, p_value and verdict of `summarise`.

    Args:
        chosen: `statistics.estimates` of the accuracy that chooses.
    """
    complete = chosen["n"] == chosen["n"].max()
    order = chosen.assign(complete=complete).dropna(subset="mean")
    order = order.sort_values(["complete", "mean"], ascending=False, kind="stable")
    rank = pd.Series(range(1, len(order) + 1), order.index, "Int64").reindex(chosen.index)
    is_best = rank.eq(1).fillna(False).astype(bool)
    compared = pd.DataFrame(
        {"rank": rank, "best": is_best, "difference_to_best": nan, "p_value": nan}
    )
    if len(order):
        best = str(order.index[0])
        compared["difference_to_best"] = chosen["mean"] - order["mean"].iloc[0]
        compared["p_value"] = statistics.against_best(chosen[complete], best)
    cases = {
        "": chosen["n"] == 0,
        "best": compared["best"],
        "lacks a seed": ~complete,
        "untested": compared["p_value"].isna(),
        "within noise": compared["p_value"] > statistics.SIGNIFICANCE,
    }
    compared["verdict"] = np.select(list(cases.values()), list(cases), "worse")
    return compared


def shown_factors(summary: pd.DataFrame) -> list[str]:
    """The factors that distinguish the configurations, and those that every table shows."""
    return [name for name in FACTORS if name in SHOWN or summary[name].nunique() > 1]


def labels(summary: pd.DataFrame, leave_out: str = "") -> "pd.Series[str]":
    """A short name for each configuration, such as ``relu 128 adam``, from the factors shown."""
    texts = [
        summary[name].astype(str)
        if name in TrialConfig.VARIED
        else name + "=" + summary[name].astype(str)
        for name in shown_factors(summary)
        if name != leave_out
    ]
    return pd.concat(texts, axis=1).agg(" ".join, axis=1)


def top(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows to show: all configurations in the order of the plan, or the best of many."""
    return summary if len(summary) <= MOST else summary.sort_values("rank").head(MOST)


def cells(summary: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table that is shown, the least important columns on the right."""
    factors = shown_factors(summary)
    networks = summary["parameters"].nunique() > 1
    replicated = bool(summary["planned"].gt(1).any())
    rows = []
    for record in top(summary).to_dict("records"):
        row = {name: str(record[name]) for name in factors}
        if networks:
            row["parameters"] = number(record["parameters"], 0)
        row["best"] = mark(record) if record["n"] else str(record["status"]).lower()
        if replicated:
            row["n"] = str(record["n"])
        row["kept_val_accuracy"] = _with_interval(record, "kept_val_accuracy")
        row["test_accuracy"] = _with_interval(record, "test_accuracy")
        row["published_accuracy"] = number(record["published_accuracy"], 2)
        row["test_loss"] = _with_interval(record, "test_loss")
        row["published_loss"] = number(record["published_loss"])
        row["minutes"] = number(record["minutes"], 1)
        if replicated:
            row["rank"] = str(record["rank"]) if record["n"] else UNKNOWN
        rows.append(row)
    # Without published numbers there is no column for them.
    filled = [name for name in rows[0] if any(row[name] not in ("", UNKNOWN) for row in rows)]
    headings = [HEADINGS.get(name, name.replace("_", " ")) for name in filled]
    return headings, [[row[name] for name in filled] for row in rows]


def mark(record: Mapping[Hashable, Any]) -> str:
    """A configuration's marks: its verdict (with one seed only that of the best), and outdated."""
    verdict = MARKS[record["verdict"]] if record["best"] or record["planned"] > 1 else ""
    return verdict + (OUTDATED if record["outdated"] else "")


def mean_text(record: Mapping[Hashable, Any], measure: str) -> str:
    """A measure's mean, and its standard deviation with several seeds: ``0.710 ± 0.010``."""
    mean, sd = (record[f"{measure}_{name}"] for name in ("mean", "sd"))
    return number(mean) + ("" if pd.isna(sd) else f" ± {number(sd)}")


def _with_interval(record: Mapping[Hashable, Any], measure: str) -> str:
    """``0.710 ± 0.010 (0.685–0.735)``; the interval only where there are seeds enough."""
    low, high = (record[f"{measure}_{name}"] for name in ("low", "high"))
    interval = "" if pd.isna(low) else f" ({number(low)}–{number(high)})"
    return mean_text(record, measure) + interval


def reading(summary: pd.DataFrame, select_by: str) -> Lines:
    """How to read the table: what is left out, what the seeds can show, which results are noise."""
    lines = []
    if len(summary) > MOST:
        lines.append(
            ("Shown", f"the best {MOST} of {len(summary):,} configurations; summary.csv has all")
        )
    if outdated := int(summary["outdated"].sum()):
        text = (
            f"{counted(outdated, 'trial')} ({OUTDATED}) of another network, TensorFlow or Keras than the "
            "study was resumed with; results.csv says what differs"
        )
        lines.append(("Outdated", text))
    seeds = int(summary["planned"].max())
    if seeds < statistics.MIN_VALUES:
        few = "one, so" if seeds == 1 else "two, so there are no intervals, and"
        text = f"{few} differences may be chance; use three seeds or more"
        lines.append(("Seeds", text))
    if seeds == 1:
        return lines
    interval = f"{statistics.INTERVAL} of the mean, with three seeds or more"
    lines.append(("Cells", f"mean ± standard deviation over seeds ({interval})"))
    if compared := _against_paper(summary):
        lines.append(("Paper", compared))
    if summary["best"].any() and len(summary) > 1:
        accuracies = summary[["n", f"{ACCURACIES[select_by]}_sd"]].set_axis(["n", "sd"], axis=1)
        sd = statistics.pooled_sd(accuracies)
        lines.append(("Power", power(int(summary["n"].max()), sd, "pooled", select_by)))
        lines.append(("Ranking", _ranking(summary, select_by)))
    return lines


def _against_paper(summary: pd.DataFrame) -> str:
    """How many published accuracies lie in the prediction interval of one more trial; names the others.

    Empty unless a published configuration has seeds enough for an interval.
    """
    table = pd.DataFrame(
        {
            "published": summary["published_accuracy"],
            "low": summary["test_accuracy_single_low"],
            "high": summary["test_accuracy_single_high"],
            "name": labels(summary),
        }
    ).dropna()
    if table.empty:
        return ""
    below = table["published"] + ROUNDING < table["low"]
    above = table["published"] - ROUNDING > table["high"]
    unlike = table[below | above]
    outside = [
        f"{row['name']} (published {row['published']:.2f}, "
        f"here {number(row['low'])}–{number(row['high'])})"
        for row in unlike.to_dict("records")
    ]
    text = (
        f"{len(table) - len(unlike)} of {len(table)} published accuracies lie in the "
        f"{percent(statistics.CONFIDENCE, 0)} prediction interval of a single trial"
    )
    return text + (f"; not {_few(outside)}" if outside else "")


def power(seeds: int, sd: float, source: str, select_by: str) -> str:
    """Which difference between two configurations their seeds can show.

    Args:
        sd: of the accuracies of a configuration's trials; NaN if it is not known.
        source: where ``sd`` is from, in a few words.
    """
    if seeds < statistics.MIN_VALUES:
        return (
            f"{counted(seeds, 'seed')} of each configuration show no difference; tests need three"
        )
    difference = statistics.detectable_difference(seeds)
    size, known = f"{number(difference, 1)} standard deviations", ""
    if sd > statistics.ROUNDING:
        size = number(difference * sd, 4)
        known = f"; standard deviation {number(sd, 4)}, {source}"
    share, level = (percent(each, 0) for each in (statistics.POWER, statistics.SIGNIFICANCE))
    return (
        f"{seeds} seeds detect a difference of {size} in {select_by} accuracy in {share} of cases "
        f"(Welch's t-test of one pair at {level}{known})"
    )


def _ranking(summary: pd.DataFrame, select_by: str) -> str:
    ranked = summary.sort_values("rank")
    names = labels(summary)[ranked.index].groupby(ranked["verdict"]).agg(list).to_dict()
    best = f"{names['best'][0]} has the best mean {select_by} accuracy"
    if "lacks a seed" in names:
        most, planned = ranked[["n", "planned"]].iloc[0]
        best += f" of those with {'all their' if most == planned else most} seeds"
    counts = [f"{best} (★)"]
    for verdict, text, named in (
        ("within noise", "within noise of it (≈)", True),
        ("worse", "worse", False),
        ("untested", "untested (?)", False),
        ("lacks a seed", "with a seed missing, not compared (†)", True),
    ):
        if group := names.get(verdict):
            counts.append(f"{len(group):,} {text}" + (f": {_few(group)}" if named else ""))
    if summary["p_value"].notna().any():
        level = percent(statistics.SIGNIFICANCE, 0)
        counts.append(f"by Welch's t-tests, Holm-adjusted, at {level}")
    return "; ".join(counts)


def _few(names: Sequence[str], most: int = 5) -> str:
    rest = [f"{len(names) - most:,} more"] if len(names) > most else []
    return ", ".join([*names[:most], *rest])


def ranking(summary: pd.DataFrame, select_by: str) -> tuple[pd.DataFrame, str]:
    """What `figures.ranking` draws: mean accuracies by label, the best first, and what they measure.

    Columns: mean, low, high, n and verdict.
    """
    shown = top(summary.sort_values("rank").dropna(subset="rank"))
    columns = {f"{ACCURACIES[select_by]}_{name}": name for name in ("mean", "low", "high")}
    table = shown[[*columns, "n", "verdict"]].rename(columns=columns)
    return table.set_axis(labels(summary)[shown.index]), f"{select_by} accuracy"


def layer_markdown(layers: Mapping[str, pd.DataFrame]) -> list[str]:
    """For each network a heading and a Markdown table of its `network.layer_table`."""
    sections = []
    for name, table in layers.items():
        rows = [
            [record["layer"], record["output_shape"], number(record["parameters"], 0)]
            for record in table.to_dict("records")
        ]
        rows.append(["total", "", number(table["parameters"].sum(), 0)])
        headings = ["layer", "output shape", "parameters"]
        sections += [f"### {name}", markdown_table(headings, rows)]
    return sections


def accuracy_grid(summary: pd.DataFrame, measure: str) -> pd.DataFrame:
    """One column of the summary as a grid: batch sizes across, the other varied factors down."""
    down = [name for name in shown_factors(summary) if name != "batch_size"]
    rows = labels(summary, leave_out="batch_size")
    grid = summary.assign(row=rows).pivot(index="row", columns="batch_size", values=measure)
    return grid.reindex(rows.unique()).rename_axis(index=", ".join(down))


def best_part(grid: pd.DataFrame) -> pd.DataFrame:
    """The grid, or of a large one the rows and columns with the best values, in their order."""
    rows = grid.max(axis="columns").nlargest(MOST).index
    columns = grid.max(axis="index").nlargest(MOST).index
    return grid.loc[grid.index.isin(rows), grid.columns.isin(columns)]
