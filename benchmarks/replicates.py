"""The paper's grid beside several seeds of it, from all finished trials of the experiment.

    for seed in 0 1 2 3 4; do mlflow run . -e grid -P seed=$seed --env-manager local; done
    python -m benchmarks.replicates sqlite:///mlflow.db docs/images/ranking.png

A study says the same of its own trials, but not of those that another study has trained. Reads the
trials on CIFAR-10 of the experiment that `mlflow run` would use, whose configuration is in the paper's
grid. Prints a table of them as Markdown. Then it leaves out the seeds that only some configurations
have, prints what the others show and the effects on the test accuracy, and draws the ranking by
validation accuracy.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmarks import machine
from benchmarks.stores import reading
from cifar_mlflow.analysis import effects, figures
from cifar_mlflow.analysis.statistics import CONFIDENCE
from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import markdown_table, number, percent
from cifar_mlflow.paper import FACTORS, published
from cifar_mlflow.store import query
from cifar_mlflow.store.runs import DATA_DIGEST
from cifar_mlflow.study import results

SELECT_BY = "validation"


def trials_of_the_grid() -> pd.DataFrame:
    """The newest trial of each configuration and seed, as `results.tabulate` gives them, in order.

    Raises:
        UsageError: there is none.
    """
    runs = {
        run.key: run
        for run in reversed(query.newest_trials())
        if run.tags.get(DATA_DIGEST) == CIFAR10_DIGEST
        and run.config.architecture == "deep"
        and published(run.config)
    }
    if not runs:
        raise UsageError("no finished trial of the paper's grid")
    configurations = [run.config for run in runs.values()]
    table = results.tabulate(configurations, runs, SELECT_BY, official=True)
    order = ["activation", "batch_size", "optimizer", "seed"]
    return table.sort_values(order, ascending=[True, True, False, True])


def complete_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """The trials of the seeds that most configurations were trained with: effects compare like with like."""
    configurations = table.groupby("seed")["configuration"].transform("nunique")
    complete: pd.DataFrame = table[configurations == configurations.max()]
    return complete


def cells(record: Mapping[Any, Any]) -> list[str]:
    """A row: factors, n, and of test accuracy and loss mean, deviation, intervals and published."""
    row = [str(record[name]) for name in (*FACTORS["grid"], "n")]
    for measure, paper in (
        ("test_accuracy", number(record["published_accuracy"], 2)),
        ("test_loss", number(record["published_loss"])),
    ):
        value = {name: number(record[f"{measure}_{name}"]) for name in results.ESTIMATED}
        row += [
            f"{value['mean']} ± {value['sd']}",
            f"{value['low']} to {value['high']}",
            f"{value['single_low']} to {value['single_high']}",
            paper,
        ]
    return row


def print_table(table: pd.DataFrame) -> None:
    """A row for each configuration, of all its seeds."""
    intervals = [
        f"{percent(CONFIDENCE, 0)} CI of the mean",
        f"{percent(CONFIDENCE, 0)} PI of a trial",
    ]
    headings = [*FACTORS["grid"], "n"]
    for measure in ("test accuracy", "test loss"):
        headings += [measure, *intervals, "published"]
    summary = results.summarise(table, SELECT_BY)
    shown = markdown_table(headings, [cells(record) for record in summary.to_dict("records")])
    print(shown.replace("&ensp;", ""))  # which only MLflow's UI needs


def print_effects(grid: pd.DataFrame) -> None:
    """Main effects, how much larger each is than the next, interactions, and the best of each seed."""
    factors = FACTORS["grid"]
    main_effects = effects.main_effects(grid, factors)
    for effect in main_effects:
        print(f"{effect.factor}: {effect.better} over {effect.worse} {effect.difference}")
    for first, second in itertools.pairwise(main_effects):
        lead = effects.lead(grid, factors, first, second)
        print(f"{first.factor} over {second.factor} {lead}")
    for interaction in effects.interactions(grid, factors, main_effects):
        simple = ", ".join(f"{level} {value}" for level, value in interaction.simple.items())
        print(f"{interaction.effect.factor} by {interaction.by}: {simple}; {interaction.change}")
    for seed, trials in grid.groupby("seed"):
        best = {
            images: trials.set_index("configuration")[measure].idxmax()
            for images, measure in results.ACCURACIES.items()
        }
        print(f"seed {seed}: best by validation {best['validation']}, by test {best['test']}")


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("uri", help="of the tracking store")
    parser.add_argument("target", help="the figure to write")
    options = parser.parse_args()
    with reading(parser, options.uri):
        table = trials_of_the_grid()
        grid = complete_seeds(table)
        summary = results.summarise(grid, SELECT_BY)
        figures.ranking(*results.ranking(summary, SELECT_BY)).savefig(options.target, dpi=120)
    print_table(table)
    for topic, text in results.reading(summary, SELECT_BY):
        print(f"{topic}: {text}")
    print_effects(grid)


if __name__ == "__main__":
    main()
