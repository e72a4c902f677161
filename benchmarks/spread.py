"""What makes trainings of one configuration differ: their initial weights, or the order of their images?

    mlflow run . -e grid -P activation=relu -P batch_size=64 -P optimizer=adam -P seed=0,1,2,3 \\
      -P order_seed=0,1,2,3 --env-manager local
    python -m benchmarks.spread sqlite:///mlflow.db RUN_ID

Reads a finished study whose configurations differ by ``order_seed`` alone. The variance components are
those of two random factors without replicates (Montgomery, Design and Analysis of Experiments, chapter
13). No trial has a replicate, because the two seeds make it the same to the last bit: what they do
together and neither does alone is a component of its own, and the noise that the other two are tested
against.
"""

import math
from collections.abc import Sequence

import pandas as pd
from scipy import stats

from benchmarks import machine
from benchmarks.stores import finished_trials, reading
from cifar_mlflow.analysis.effects import variance_shares
from cifar_mlflow.errors import UsageError
from cifar_mlflow.store.runs import TrackedRun

SEEDS = ("seed", "order_seed")
MEASURES = ("kept_val_accuracy", "test_accuracy", "test_loss")


def tabulate(trials: Sequence[TrackedRun]) -> pd.DataFrame:
    """The seeds and metrics of trials, a row for each."""
    return pd.DataFrame(
        [{**{seed: getattr(run.config, seed) for seed in SEEDS}, **run.metrics} for run in trials]
    )


def components(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The standard deviation due to each seed and to both together, with the p-values of the first two.

    Args:
        table: a row for each trial, with the columns seed, order_seed and ``measure``.

    Raises:
        UsageError: a seed lacks a trial with an order_seed, or there are fewer than two of either.
    """
    shares = variance_shares(table, SEEDS, measure)
    levels = [table[seed].nunique() for seed in SEEDS]
    if shares is None or min(levels) < 2:
        raise UsageError("needs a trial of every seed with every order_seed, two of each at least")
    squares = table[measure].var() * (len(table) - 1)
    together = math.prod(count - 1 for count in levels)  # degrees of freedom
    noise = shares[SEEDS] * squares / together
    rows = {"both": {"deviation": math.sqrt(noise)}}
    for seed, count in zip(SEEDS, levels):
        mean_square = shares[(seed,)] * squares / (count - 1)
        trials = len(table) / count  # with the same value of this seed
        rows[seed] = {
            "deviation": math.sqrt(max(0, mean_square - noise) / trials),
            "p": float(stats.f.sf(mean_square / noise, count - 1, together)),
        }
    return pd.DataFrame(rows).T


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("uri", help="of the tracking store")
    parser.add_argument("run_id", help="of a grid with several seeds and order_seeds")
    options = parser.parse_args()
    with reading(parser, options.uri):
        trials = tabulate(finished_trials(options.run_id))
        found = {name: components(trials, name) for name in MEASURES if name in trials}
    for measure, shares in found.items():
        values = trials[measure]
        print(
            f"{measure}: mean {values.mean():.4f}, deviation {values.std():.4f}, n = {len(values)}"
        )
        print(shares.round(4).to_string())


if __name__ == "__main__":
    main()
