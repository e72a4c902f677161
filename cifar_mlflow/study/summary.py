"""What a study amounts to, from what the tracking store holds: results, pictures, the best model."""

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
from cifar_mlflow.parameters import ArchitecturesOptions, GridOptions, StudyOptions
from cifar_mlflow.store import registry, tracking
from cifar_mlflow.store.tracking import TrackedRun
from cifar_mlflow.study import results

# A history takes two calls of the store, so curves are drawn from this many seeds at most.
SEEDS_DRAWN = 20
DRAWN = ("train_accuracy", "val_accuracy")
FAILURES_TOLD = 5
REASON_LENGTH = 200  # characters


def conclude(
    trials: Sequence[TrialConfig],
    data: Cifar10,
    options: StudyOptions,
    parent: tracking.Parent,
) -> bool:
    """Results, pictures and the best, from what the store holds; tells whether all trials finished.

    A grid registers its best model; a comparison of networks names the best, and adds their layers.
    """
    runs = tracking.latest(tracking.children(parent))
    table = results.tabulate(trials, runs, options.select_by, data.official)
    summary = results.summarise(table, options.select_by)
    tables = {"results.csv": table, "summary.csv": summary}
    layers = read_layers(trials, runs) if isinstance(options, ArchitecturesOptions) else {}
    if layers:
        by_name = pd.concat(layers, names=["architecture"])
        tables["layers.csv"] = by_name.reset_index("architecture")
    tracking.log_files(pictures(trials, runs, summary, options), tables)

    headings, rows = results.cells(summary)
    show(headings, rows)
    account = failures(table) + results.reading(summary, options.select_by)
    if table["best"].any():
        trial = trials[int(table["best"].argmax())]
        account += choose(trial, runs[trial.key], summary, data, options)
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
    return bool(table["status"].eq("FINISHED").all())


def pictures(
    trials: Sequence[TrialConfig],
    runs: Mapping[str, TrackedRun],
    summary: pd.DataFrame,
    options: StudyOptions,
) -> dict[str, Figure]:
    """Those of a study that have something to show, by file name."""
    made = {}
    if histories := read_histories(trials, runs, summary):
        made["curves.png"] = figures.small_multiples(histories)
    if summary["n"].gt(1).sum() > 1:
        made["ranking.png"] = figures.ranking(*results.ranking(summary, options.select_by))
    if isinstance(options, GridOptions):
        grid = results.accuracy_grid(summary, "kept_val_accuracy_mean")
        means = results.best_part(grid)
        deviations = results.accuracy_grid(summary, "kept_val_accuracy_sd").reindex_like(means)
        title = "validation accuracy"
        if means.size < grid.size:
            title += f"\nthe best {len(means)} of {len(grid):,} rows"
        made["grid.png"] = figures.grid_heatmap(means, title, deviations)
    return made


def read_histories(
    trials: Sequence[TrialConfig],
    runs: Mapping[str, TrackedRun],
    summary: pd.DataFrame,
) -> dict[str, pd.DataFrame]:
    """The accuracies by epoch of the configurations shown, by label: those of their seeds in one table.

    Where a seed finished, those that did not are left out.
    """
    replicates: dict[str, list[TrackedRun]] = {}
    for trial in trials:
        if trial.key in runs:
            replicates.setdefault(trial.configuration.name, []).append(runs[trial.key])
    histories = {}
    for name, label in results.labels(summary)[results.top(summary).index].items():
        finished = [run for run in replicates.get(str(name), []) if run.status == "FINISHED"]
        drawn = (finished or replicates.get(str(name), []))[:SEEDS_DRAWN]
        history = [tracking.metric_histories(run.run_id, DRAWN) for run in drawn]
        if len(finished) > SEEDS_DRAWN:
            label += f", {SEEDS_DRAWN} of {len(finished)} seeds"
        if any(len(epochs) for epochs in history):
            histories[label] = pd.concat(history)
    return histories


def read_layers(
    trials: Sequence[TrialConfig], runs: Mapping[str, TrackedRun]
) -> dict[str, pd.DataFrame]:
    """The layers of each network, as the first of its trials that finished has logged them."""
    first = results.first_finished(trials, runs)
    return {name: tracking.read_table(run.run_id, "layers.csv") for name, run in first.items()}


def show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The results in the terminal: where it is narrow, intervals go below their means and columns on
    the right are left out; what goes to a file or a pipe is as wide as it is."""
    anything = console.terminal.options.update(width=999)
    width = console.terminal.width if console.terminal.is_terminal else anything.max_width
    columns = [list(column) for column in zip(headings, *rows, strict=True)]
    while (size := console.terminal.measure(_table(columns), options=anything)).minimum > width:
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
    failed = table[table["status"] != "FINISHED"]
    account = []
    for record in failed.head(FAILURES_TOLD).to_dict("records"):
        reason = record["end_reason"] or record["status"].lower()
        account.append(("Failed", f"{record['name']}: {reason[:REASON_LENGTH]}"))
    if len(failed) > FAILURES_TOLD:
        account.append(("Failed", f"{len(failed) - FAILURES_TOLD:,} more; results.csv has all"))
    return account


def choose(
    trial: TrialConfig,
    run: TrackedRun,
    summary: pd.DataFrame,
    data: Cifar10,
    options: StudyOptions,
) -> Lines:
    """Mark the best trial, register its model if it is a grid's, and tell what was done."""
    tracking.tag_best(run, trial)
    seeds = summary["n"].to_dict()[trial.configuration.name]
    text = f"{run.name}, chosen by {options.select_by} accuracy"
    if seeds > 1:
        text = (
            f"{trial.configuration.name}, chosen by the mean {options.select_by} accuracy of its {seeds} "
            f"seeds; the best of these is seed {trial.seed}"
        )
    if isinstance(options, ArchitecturesOptions):
        text = f"the {trial.architecture} network: {text}"
    if options.select_by == "test":
        text += ", which leaks the test set into the choice"
    look = ("Look", f"mlflow ui --backend-store-uri {tracking.uri()}")
    if not isinstance(options, GridOptions):
        return [("Best", text), look]
    promoted, use = promote(trial, run, data, options.model_name)
    return [("Best", text), promoted, look, use]


def promote(trial: TrialConfig, run: TrackedRun, data: Cifar10, name: str) -> Lines:
    """Register the best trial's model; what became of it, and how to load it."""
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
