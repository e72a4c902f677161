"""What a study amounts to, from what the tracking store holds: results, pictures, the champion."""

from collections.abc import Mapping, Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table

from cifar_mlflow import figures, registry, results, tracking
from cifar_mlflow.config import StudyOptions, TrialConfig
from cifar_mlflow.data import Cifar10
from cifar_mlflow.terminal import say


def conclude(
    trials: Sequence[TrialConfig],
    data: Cifar10,
    options: StudyOptions,
    parent: tracking.Parent,
    console: Console,
) -> bool:
    """Results, pictures and champion, from what the store holds; tells whether all trials finished."""
    runs = tracking.latest(tracking.children(parent))
    table = results.tabulate(trials, runs, options.select_by, data.official)
    tracking.log_files(
        figures={
            "grid.png": figures.grid_heatmap(results.accuracy_grid(table), "validation accuracy"),
            "curves.png": figures.small_multiples(
                {run.name: tracking.history(parent, run) for run in runs.values()}
            ),
        },
        tables={"results.csv": table},
    )
    headings, rows = results.cells(table)
    printed = Table(box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        printed.add_column(heading, no_wrap=" " not in heading)
    for row in rows:
        printed.add_row(*row)
    console.print(printed)

    account = [
        ("Failed", f"{run.name}: {run.end_reason}")
        for run in runs.values()
        if run.status != "FINISHED"
    ]
    all_finished = not account
    if table["best"].any():
        account += promote(trials, runs, table, data, options)
    else:
        account += [("Model", "no trial finished, so none is registered")]
    for topic, text in account:
        say(console, topic, text)
    tracking.describe(results.markdown(table) + "".join(f"\n\n**{a}** {b}" for a, b in account))
    return all_finished


def promote(
    trials: Sequence[TrialConfig],
    runs: Mapping[str, tracking.TrialRun],
    table: pd.DataFrame,
    data: Cifar10,
    options: StudyOptions,
) -> list[tuple[str, str]]:
    """Register the best trial's model, and tell what became of it, as topics and texts."""
    name = options.model_name
    trial = trials[int(table["best"].argmax())]
    best = runs[trial.key]
    before = registry.champion(name)
    promotion = registry.register(name, best, trial, data)
    tracking.tag_best(best)
    leak = (
        ", which leaks the test set into the choice" if options.select_by == "test_accuracy" else ""
    )
    was = f"; before it was version {before.version}" if before else ""
    return [
        ("Best", f"{best.name}, chosen by {options.select_by}{leak}"),
        (
            promotion.alias.capitalize(),
            f"{name} version {promotion.version}: {promotion.reason}{was}",
        ),
        ("Look", f"mlflow ui --backend-store-uri {tracking.uri()}"),
        ("Use", f'mlflow.pyfunc.load_model("models:/{name}@{promotion.alias}")'),
    ]
