"""What ends a study: results, figures and the best model, from the runs in the tracking store."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from cifar_mlflow import console
from cifar_mlflow.analysis import figures
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import Lines
from cifar_mlflow.data.cifar10 import Cifar10
from cifar_mlflow.formatting import markdown_table
from cifar_mlflow.parameters import StudyOptions
from cifar_mlflow.store import query, registry, tracking
from cifar_mlflow.store.runs import Parent, Status, TrackedRun
from cifar_mlflow.study import results

# Reading a history takes two calls of the store, so curves show at most this many seeds.
SEEDS_DRAWN = 20
DRAWN = ("train_accuracy", "val_accuracy")
FAILURES_LISTED = 5
REASON_LENGTH = 200  # characters


def summarise_study(
    trials: Sequence[TrialConfig], data: Cifar10, options: StudyOptions, parent: Parent
) -> bool:
    """Log the results, figures and the best trial on the active run, and say them.

    A grid registers its best model. A comparison of networks names the best one and logs their layers.

    Returns:
        Whether all trials finished.
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
    if table["best"].any():
        trial = trials[int(table["best"].argmax())]
        account += choose(trial, runs[trial.key], summary, data, options, parent.tracking_uri)
    else:
        account += [("Best", "none, because no trial finished")]
    console.say_lines(account)
    tracking.describe(
        "\n\n".join(
            [
                markdown_table(headings, rows),
                console.lines_markdown(account),
                *results.layer_markdown(layers),
            ]
        )
    )
    return bool(table["status"].eq(Status.FINISHED).all())


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
    if not options.compares_networks:
        images = "validation" if summary["validation_fraction"].any() else "test"
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


def choose(
    trial: TrialConfig,
    run: TrackedRun,
    summary: pd.DataFrame,
    data: Cifar10,
    options: StudyOptions,
    tracking_uri: str,
) -> Lines:
    """Tag the best trial and, for a grid, register its model; gives the lines that say so."""
    tracking.tag_best(run, trial)
    seeds = summary["n"].to_dict()[trial.configuration.name]
    text = f"{run.name}, chosen by {options.select_by} accuracy"
    if seeds > 1:
        text = (
            f"{trial.configuration.name}, chosen by the mean {options.select_by} accuracy of its {seeds} "
            f"seeds; the best of these is seed {trial.seed}"
        )
    if options.compares_networks:
        text = f"the {trial.architecture} network: {text}"
    if options.select_by == "test":
        text += ", which leaks the test set into the choice"
    look = ("Look", f"mlflow ui --backend-store-uri {tracking_uri}")
    if options.registers_as is None:
        return [("Best", text), look]
    promoted, use = promote(trial, run, data, options.registers_as)
    return [("Best", text), promoted, look, use]


def promote(trial: TrialConfig, run: TrackedRun, data: Cifar10, name: str) -> Lines:
    """Register the best trial's model; gives its version and alias, and how to load it."""
    before = registry.champion(name)
    promotion = registry.register(name, run, trial, data)
    was = f"; before it was version {before.version}" if before else ""
    return [
        (
            promotion.alias.capitalize(),
            f"{name} version {promotion.version}: {promotion.reason}{was}",
        ),
        ("Use", f'mlflow.pyfunc.load_model("models:/{name}@{promotion.alias}")'),
    ]
