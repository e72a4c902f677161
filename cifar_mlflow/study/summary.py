"""What ends a study: results, figures and the best model, from the runs in the tracking store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from cifar_mlflow import console
from cifar_mlflow.analysis import figures
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import Lines
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.formatting import markdown_table, number
from cifar_mlflow.parameters import AUTO, GridParameters, StudyOptions
from cifar_mlflow.store import card, query, registry, tracking
from cifar_mlflow.store.runs import Parent, Status, TrackedRun
from cifar_mlflow.study import results

# Reading a history takes two calls of the store, so curves show at most this many seeds.
SEEDS_DRAWN = 20
DRAWN = ("train_accuracy", "val_accuracy")
FAILURES_LISTED = 5
REASON_LENGTH = 200  # characters


@dataclass(frozen=True)
class Finished:
    """A trial that finished, and its run."""

    trial: TrialConfig
    run: TrackedRun


@dataclass(frozen=True)
class Summary:
    """What a study's trials came to."""

    complete: bool  # all trials finished
    best: Finished | None  # None if no trial finished
    text: str  # the results as Markdown
    sections: list[str]  # what else its description says, as Markdown


def summarise_study(
    trials: Sequence[TrialConfig], data: DataSet, options: StudyOptions, parent: Parent
) -> Summary:
    """Choose the best trial; log it, the results and the figures on the active run, and say them.

    A comparison of networks names the best one and logs their layers.
    """
    runs = query.latest(query.children(parent))
    table = results.tabulate(trials, runs, options.select_by, data.official)
    summary = results.summarise(table, options.select_by)
    tables = {"results.csv": table, "summary.csv": summary}
    layers = read_layers(trials, runs) if options.compares_networks else {}
    if layers:
        by_name = pd.concat(layers, names=["architecture"])
        tables["layers.csv"] = by_name.reset_index("architecture")
    tracking.log_files(draw(trials, runs, summary, options), tables)

    headings, rows = results.cells(summary)
    show(headings, rows)
    account = failures(table) + results.reading(summary, options.select_by)
    best = None
    if table["best"].any():
        trial = trials[int(table["best"].argmax())]
        best = Finished(trial, runs[trial.key])
        tracking.tag_best(best.run, trial)
    account.append(("Best", explain_choice(best, summary, options)))
    console.say_lines(account)
    text = f"{markdown_table(headings, rows)}\n\n{console.lines_markdown(account)}"
    tracking.describe(text)
    complete = bool(table["status"].eq(Status.FINISHED).all())
    return Summary(complete, best, text, results.layer_markdown(layers))


def draw(
    trials: Sequence[TrialConfig],
    runs: Mapping[str, TrackedRun],
    summary: pd.DataFrame,
    options: StudyOptions,
) -> dict[str, Figure]:
    """The figures of a study that have something to show, by file name."""
    drawn = {}
    if histories := read_histories(trials, runs, summary):
        drawn["curves.png"] = figures.small_multiples(histories)
    if summary["n"].gt(1).sum() > 1:
        drawn["ranking.png"] = figures.ranking(*results.ranking(summary, options.select_by))
    if isinstance(options, GridParameters):
        images = "validation" if summary["validation_fraction"].all() else "test"
        measure = results.ACCURACIES[images]
        grid = results.accuracy_grid(summary, f"{measure}_mean")
        means = results.best_part(grid)
        deviations = results.accuracy_grid(summary, f"{measure}_sd").reindex_like(means)
        title = f"{images} accuracy"
        if means.size < grid.size:
            title += f"\nthe best {len(means)} of {len(grid):,} rows"
        drawn["grid.png"] = figures.grid_heatmap(means, title, deviations)
    return drawn


def read_histories(
    trials: Sequence[TrialConfig],
    runs: Mapping[str, TrackedRun],
    summary: pd.DataFrame,
) -> dict[str, pd.DataFrame]:
    """The accuracies by epoch of the configurations shown, by label, all seeds in one table.

    If a seed finished, those that did not are left out.
    """
    replicates: dict[str, list[TrackedRun]] = {}
    for trial in trials:
        if trial.key in runs:
            replicates.setdefault(trial.configuration.name, []).append(runs[trial.key])
    histories = {}
    for name, label in results.labels(summary)[results.top(summary).index].items():
        finished = [run for run in replicates.get(str(name), []) if run.status == Status.FINISHED]
        drawn = (finished or replicates.get(str(name), []))[:SEEDS_DRAWN]
        history = [query.metric_histories(run.run_id, DRAWN) for run in drawn]
        if len(finished) > SEEDS_DRAWN:
            label += f", {SEEDS_DRAWN} of {len(finished)} seeds"
        if any(len(epochs) for epochs in history):
            histories[label] = pd.concat(history)
    return histories


def read_layers(
    trials: Sequence[TrialConfig], runs: Mapping[str, TrackedRun]
) -> dict[str, pd.DataFrame]:
    """The layers of each network, as logged by the first of its trials that finished."""
    first = results.first_finished(trials, runs)
    return {name: query.read_table(run.run_id, "layers.csv") for name, run in first.items()}


def show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the results.

    In a narrow terminal, intervals go below their means and columns on the right are left out. Output
    to a file or a pipe is as wide as the table.
    """
    unlimited = console.terminal.options.update(width=999)
    width = console.terminal.width if console.terminal.is_terminal else unlimited.max_width
    columns = [list(column) for column in zip(headings, *rows, strict=True)]
    while (size := console.terminal.measure(_table(columns), options=unlimited)).minimum > width:
        columns.pop()
    printed = _table(columns)
    printed.width = min(size.maximum, width)
    console.terminal.print(printed, crop=False)


def _table(columns: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading, *cells in columns:
        breakable = any("(" in cell for cell in cells)  # before an interval
        table.add_column(heading.replace(" ", "\n"), no_wrap=not breakable)
    for row in list(zip(*columns, strict=True))[1:]:
        table.add_row(*row)
    return table


def failures(table: pd.DataFrame) -> Lines:
    """The first trials that did not finish, and why; results.csv has all."""
    failed = table[table["status"] != Status.FINISHED]
    account = []
    for record in failed.head(FAILURES_LISTED).to_dict("records"):
        reason = record["end_reason"] or record["status"].lower()
        account.append(("Failed", f"{record['name']}: {reason[:REASON_LENGTH]}"))
    if len(failed) > FAILURES_LISTED:
        account.append(("Failed", f"{len(failed) - FAILURES_LISTED:,} more; results.csv has all"))
    return account


def explain_choice(best: Finished | None, summary: pd.DataFrame, options: StudyOptions) -> str:
    """Which trial is the best, and what it was chosen by."""
    if best is None:
        return "none, because no trial finished"
    trial = best.trial
    seeds = summary["n"].to_dict()[trial.configuration.name]
    text = f"{best.run.name}, chosen by {options.select_by} accuracy"
    if seeds > 1:
        text = (
            f"{trial.configuration.name}, chosen by the mean {options.select_by} accuracy of its {seeds} "
            f"seeds; the best of these is seed {trial.seed}"
        )
    if options.compares_networks:
        text = f"the {trial.architecture} network: {text}"
    if options.select_by == "test":
        text += ", which leaks the test set into the choice"
    return text


def end_study(
    summary: Summary,
    model: Finished | None,
    data: DataSet,
    options: StudyOptions,
    tracking_uri: str,
) -> None:
    """Register the model that a study came to, and say how to look at its results and use the model.

    Args:
        model: the best trial, or its refit; None if there is none, so that nothing is registered.
    """
    look = ("Look", f"mlflow ui --backend-store-uri {tracking_uri}")
    lines = [look] if summary.best else []
    if model and summary.best and (name := options.registers_as):
        twin = None if model is summary.best else summary.best.run
        name = data.model_name if name == AUTO else name
        promoted, use = promote(model, twin, data, name)
        tracking.tag_registered(name)
        lines = [promoted, look, use]
        if twin:
            accuracy = number(model.run.metrics["test_accuracy"], 4)
            lines.insert(0, ("Refit", f"run {model.run.run_id}, test accuracy {accuracy}"))
    console.say_lines(lines)
    text = [summary.text, console.lines_markdown(lines), *summary.sections]
    tracking.describe("\n\n".join(text))


def promote(model: Finished, twin: TrackedRun | None, data: DataSet, name: str) -> Lines:
    """Register a model and write its card; gives its version and alias, and how to load it.

    Args:
        twin: of a refit the trial that it trained again, by which it is judged.
    """
    before = registry.champion(name)
    promotion = registry.register(name, model.run, model.trial, data, twin)
    card.publish(name, promotion.version)
    replaced = ""
    if before and promotion.alias == registry.CHAMPION and str(before.version) != promotion.version:
        replaced = f"; the champion before was version {before.version}"
    return [
        (
            promotion.alias.capitalize(),
            f"{name} version {promotion.version}: {promotion.reason}{replaced}",
        ),
        ("Use", f'mlflow.pyfunc.load_model("models:/{name}@{promotion.alias}")'),
    ]
