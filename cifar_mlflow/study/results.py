"""A study's results as tables: a row for each trial, a row for each configuration, text for a person.

A configuration is all of a trial but its seed; trials of one configuration are its replicates.
"""

from collections.abc import Hashable, Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
import pandas as pd

from cifar_mlflow.analysis import statistics
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.formatting import counted
from cifar_mlflow.paper import FACTORS as PAPER_FACTORS
from cifar_mlflow.paper import Published, published
from cifar_mlflow.store.runs import TrackedRun

FACTORS = [name for name in TrialConfig.model_fields if name != "seed"]
# The measures, and the largest value that each can have; the least is 0.
MEASURES = {"kept_val_accuracy": 1.0, "kept_val_loss": inf, "test_accuracy": 1.0, "test_loss": inf}
# The column of the accuracy on the images that the best is chosen by.
ACCURACIES = {"validation": "kept_val_accuracy", "test": "test_accuracy"}
# The factors that every table shows; others only where they vary.
SHOWN = PAPER_FACTORS["grid"]
# Of more configurations than these, or rows of a grid, tables and pictures show the best.
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
# How a configuration compares with the best one, and its sign; it has none where no seed finished.
MARKS = {
    "best": "★",
    "within noise": "≈",
    "worse": "",
    "cannot be told": "?",
    "lacks a seed": "†",
    "": "",
}
OUTDATED = "‡"  # has a trial of another network or other versions
SPACE = "&ensp; | "
NOTHING = Published(float("nan"), float("nan"))


def tabulate(
    trials: Sequence[TrialConfig], runs: Mapping[str, TrackedRun], select_by: str, official: bool
) -> pd.DataFrame:
    """A row for each trial in the order of the plan, with all its factors; the best one marked.

    The best trial is the one with the best ``select_by`` among those of the best configuration.
    Columns: name, configuration (its name), the factors, status, end_reason, outdated (how its network
    or versions differ from those the study was resumed with), parameters (of the network), the measures, published_accuracy and published_loss (NaN where the study has none, or the
    data is not ``official``), minutes, best, run_id.
    """
    rows = []
    for trial in trials:
        run = runs.get(trial.key)
        metrics = run.metrics if run and run.status == "FINISHED" else {}
        theirs = (published(trial) if official else None) or NOTHING
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
                "published_accuracy": theirs.accuracy,
                "published_loss": theirs.loss,
                "minutes": metrics.get("train_seconds", float("nan")) / 60,
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


def summarise(table: pd.DataFrame, select_by: str) -> pd.DataFrame:
    """A row for each configuration, by name, in the order of the plan.

    Columns: the factors; parameters; planned, the number of its trials, and n, of those that finished;
    status, which is that of the first trial that did not finish, if any; outdated, the number of trials
    that are; of each measure the mean,
    sd, low and high (see `replicates.estimates`); published_accuracy, published_loss and difference,
    test_accuracy_mean less the former; minutes of a trial, the mean; and of the mean of ``select_by``
    its rank, its difference_to_best, the p_value of that (see `replicates.against_best`), the verdict
    (a key of `MARKS`), and best.

    Configurations of which a trial is missing rank after those that have all, and are not compared
    with the best: what is missing may be what failed.
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
    unfinished = table[table["status"] != "FINISHED"].groupby("configuration")["status"].first()
    summary["status"] = unfinished.reindex(summary.index).fillna("FINISHED")
    summary["outdated"] = table["outdated"].ne("").groupby(table["configuration"]).sum()
    for name, estimate in measured.items():
        summary[[f"{name}_{column}" for column in ("mean", "sd", "low", "high")]] = estimate[
            ["mean", "sd", "low", "high"]
        ]
    summary[["published_accuracy", "published_loss"]] = groups[
        ["published_accuracy", "published_loss"]
    ].first()
    summary["difference"] = summary["test_accuracy_mean"].sub(summary["published_accuracy"])
    summary["minutes"] = groups["minutes"].mean()

    complete = summary["n"] == summary["n"].max()
    order = chosen.assign(complete=complete).dropna(subset="mean")
    order = order.sort_values(["complete", "mean"], ascending=False, kind="stable")
    summary["rank"] = pd.Series(range(1, len(order) + 1), order.index, "Int64")
    summary["best"] = summary["rank"].eq(1).fillna(False).astype(bool)
    summary["difference_to_best"] = float("nan")
    summary["p_value"] = float("nan")
    if summary["best"].any():
        best = str(order.index[0])
        summary["difference_to_best"] = chosen["mean"] - order["mean"].iloc[0]
        summary["p_value"] = statistics.against_best(chosen[complete], best)
    cases = {
        "": summary["n"] == 0,
        "best": summary["best"],
        "lacks a seed": ~complete,
        "cannot be told": summary["p_value"].isna(),
        "within noise": summary["p_value"] > statistics.SIGNIFICANCE,
    }
    summary["verdict"] = np.select(list(cases.values()), list(cases), "worse")
    return summary


def shown_factors(summary: pd.DataFrame) -> list[str]:
    """The factors that a reader needs to tell the configurations apart."""
    alike = summary.groupby(list(SHOWN))
    return [name for name in FACTORS if name in SHOWN or (alike[name].nunique() > 1).any()]


def labels(summary: pd.DataFrame, leave_out: str = "") -> "pd.Series[str]":
    """A short name of each configuration, such as ``relu 128 adam``, of the factors shown."""
    texts = [
        summary[name].astype(str)
        if name in TrialConfig.VARIED
        else name + "=" + summary[name].astype(str)
        for name in shown_factors(summary)
        if name != leave_out
    ]
    return pd.concat(texts, axis=1).agg(" ".join, axis=1)


def top(summary: pd.DataFrame) -> pd.DataFrame:
    """What is shown to a person: all configurations in the plan's order, or the best of many."""
    return summary if len(summary) <= MOST else summary.sort_values("rank").head(MOST)


def cells(summary: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text for a person, what matters least on the right."""
    factors = shown_factors(summary)
    networks = summary["parameters"].nunique() > 1
    replicated = bool(summary["planned"].gt(1).any())
    rows = []
    for record in top(summary).to_dict("records"):
        row = {name: str(record[name]) for name in factors}
        if networks:
            row["parameters"] = _number(record["parameters"], ",.0f")
        row["best"] = mark(record) if record["n"] else str(record["status"]).lower()
        if replicated:
            row["n"] = str(record["n"])
        row["kept_val_accuracy"] = _estimate(record, "kept_val_accuracy")
        row["test_accuracy"] = _estimate(record, "test_accuracy")
        row["published_accuracy"] = _number(record["published_accuracy"], ".2f")
        row["test_loss"] = _estimate(record, "test_loss")
        row["published_loss"] = _number(record["published_loss"], ".3f")
        row["minutes"] = _number(record["minutes"], ".1f")
        if replicated:
            row["rank"] = _number(record["rank"], "d")
        rows.append(row)
    filled = [
        name for name in rows[0] if any(row[name] for row in rows)
    ]  # some have published none
    headings = [HEADINGS.get(name, name.replace("_", " ")) for name in filled]
    return headings, [[row[name] for name in filled] for row in rows]


def mark(record: Mapping[Hashable, Any]) -> str:
    """The signs of a configuration: its verdict, of single trainings only that of the best; outdated."""
    verdict = MARKS[record["verdict"]] if record["best"] or record["planned"] > 1 else ""
    return verdict + (OUTDATED if record["outdated"] else "")


def _number(value: Any, form: str) -> str:
    return "" if pd.isna(value) else format(value, form)


def _estimate(record: Mapping[Hashable, Any], measure: str) -> str:
    mean, sd, low, high = (record[f"{measure}_{name}"] for name in ("mean", "sd", "low", "high"))
    spread = "" if pd.isna(sd) else f" ± {sd:.3f}"
    interval = "" if pd.isna(low) else f" ({low:.3f}–{high:.3f})"
    return _number(mean, ".3f") + spread + interval


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a run's description.

    The UI puts nothing between columns and breaks cells anywhere, so there are spaces after each, and
    a mean with its deviation, and an interval, are not broken.
    """
    lines = [SPACE.join(headings), " | ".join(["---"] * len(headings)), *map(SPACE.join, rows)]
    table = "\n".join(f"| {line} |" for line in lines)
    return table.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}").replace(
        "–", "–\N{WORD JOINER}"
    )


def reading(summary: pd.DataFrame, select_by: str) -> list[tuple[str, str]]:
    """How far the results can be trusted, and which are within noise, as topics and texts."""
    account = []
    if len(summary) > MOST:
        account.append(
            ("Shown", f"the best {MOST} of {len(summary):,} configurations; summary.csv has all")
        )
    if outdated := int(summary["outdated"].sum()):
        text = (
            f"{counted(outdated, 'trial')} ({OUTDATED}) of another network, TensorFlow or Keras than the study "
            "was resumed with; results.csv says what differs"
        )
        account.append(("Outdated", text))
    seeds = int(summary["planned"].max())
    if seeds < statistics.FEWEST:
        few = "one, which" if seeds == 1 else "two, which make no interval and"
        text = f"{few} cannot show what is more than chance; -P seed=0,1,2 runs three"
        account.append(("Seeds", text))
    if seeds == 1:
        return account
    interval = "95 % interval of the mean, from three seeds on"
    account.append(("Cells", f"mean ± standard deviation over seeds ({interval})"))
    if summary["best"].any() and len(summary) > 1:
        account.append(("Ranking", _ranking(summary, select_by)))
    return account


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
        ("cannot be told", "where it cannot be told (?)", False),
        ("lacks a seed", "with a seed missing, not compared (†)", True),
    ):
        if found := names.get(verdict):
            counts.append(f"{len(found):,} {text}" + (f": {_few(found)}" if named else ""))
    if summary["p_value"].notna().any():
        level = f"{100 * statistics.SIGNIFICANCE:.0f} %"
        counts.append(f"by Welch's t-tests, Holm-adjusted, at {level}")
    return "; ".join(counts)


def _few(names: Sequence[str], most: int = 5) -> str:
    rest = [f"{len(names) - most:,} more"] if len(names) > most else []
    return ", ".join([*names[:most], *rest])


def ranking(summary: pd.DataFrame, select_by: str) -> tuple[pd.DataFrame, str]:
    """The means of ``select_by`` for a picture, the best first, and what they are.

    By label; columns mean, low, high, n and verdict.
    """
    shown = top(summary.sort_values("rank").dropna(subset="rank"))
    columns = {f"{ACCURACIES[select_by]}_{name}": name for name in ("mean", "low", "high")}
    table = shown[[*columns, "n", "verdict"]].rename(columns=columns)
    return table.set_axis(labels(summary)[shown.index]), f"{select_by} accuracy"


def layer_markdown(layers: Mapping[str, pd.DataFrame]) -> list[str]:
    """A heading and a table for each network, by name; `network.layer_table` has the columns."""
    sections = []
    for name, table in layers.items():
        rows = [
            [record["layer"], record["output_shape"], f"{record['parameters']:,}"]
            for record in table.to_dict("records")
        ]
        rows.append(["total", "", f"{table['parameters'].sum():,}"])
        headings = ["layer", "output shape", "parameters"]
        sections += [f"### {name}", markdown(headings, rows)]
    return sections


def accuracy_grid(summary: pd.DataFrame, measure: str = "kept_val_accuracy_mean") -> pd.DataFrame:
    """One number of each configuration: batch sizes across, the other factors that vary down."""
    down = [name for name in shown_factors(summary) if name != "batch_size"]
    rows = labels(summary, leave_out="batch_size")
    grid = summary.assign(row=rows).pivot(index="row", columns="batch_size", values=measure)
    return grid.reindex(rows.unique()).rename_axis(index=", ".join(down))


def best_part(grid: pd.DataFrame) -> pd.DataFrame:
    """The grid, or of a larger one the rows and columns with the best values, in their order."""
    rows = grid.max(axis="columns").nlargest(MOST).index
    columns = grid.max(axis="index").nlargest(MOST).index
    return grid.loc[grid.index.isin(rows), grid.columns.isin(columns)]
