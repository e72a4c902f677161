"""Effects of a study's factors, and what more epochs bring.

``table`` is always that of `results.tabulate`, one row for each trial. Effects are mean differences
between trials that are alike in every other factor (main effects and interactions of a factorial design:
Montgomery, "Design and Analysis of Experiments", chapter 5), with a 95 % interval by Student's t.

With one seed there is one difference per setting of the other factors. The interval then covers how the
effect varies with them, and the chance in single trials, but not what the seed does to all of them
alike. With several seeds each seed gives one mean difference over all settings, and the interval covers
how these vary by chance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
import numpy.typing as npt
import pandas as pd

from cifar_mlflow.analysis.statistics import Estimate, estimate

# Effects --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """The mean difference that a factor makes: from its level ``worse`` to ``better``."""

    factor: str
    better: str
    worse: str
    difference: Estimate


@dataclass(frozen=True)
class Interaction:
    """How the effect of one factor changes with the level of another.

    simple: the effect at each level of ``by``. change: the largest of them less the smallest.
    """

    effect: Effect
    by: str
    simple: dict[str, Estimate]
    change: Estimate


def main_effects(
    table: pd.DataFrame, factors: Sequence[str], response: str = "test_accuracy"
) -> list[Effect]:
    """The largest effect of each factor that has two levels to compare, the largest first."""
    effects = []
    for factor in factors:
        levels = table[factor].astype(str).unique()
        contrasts = [
            effect(table, factors, factor, better, worse, response)
            for better, worse in permutations(levels, 2)
        ]
        comparable = [contrast for contrast in contrasts if contrast.difference.n]
        if comparable:
            effects.append(max(comparable, key=lambda contrast: contrast.difference.value))
    return sorted(effects, key=lambda effect: -effect.difference.value)


def effect(
    table: pd.DataFrame,
    factors: Sequence[str],
    factor: str,
    better: str,
    worse: str,
    response: str = "test_accuracy",
) -> Effect:
    """The mean difference between two levels of a factor, the other factors being equal."""
    blocks = responses_by_level(table, factors, [factor], response)
    return Effect(factor, better, worse, _over_blocks(blocks[better] - blocks[worse]))


def interactions(
    table: pd.DataFrame,
    factors: Sequence[str],
    effects: Sequence[Effect],
    response: str = "test_accuracy",
) -> list[Interaction]:
    """For each two factors, how the stronger one's effect changes with the other; largest first."""
    changes = []
    for effect, other in combinations(effects, 2):
        blocks = responses_by_level(table, factors, [effect.factor, other.factor], response)
        better, worse = blocks[effect.better], blocks[effect.worse]
        levels = [level for level in better.columns if level in worse.columns]
        differences = {level: better[level] - worse[level] for level in levels}
        simple = {level: _over_blocks(differences[level]) for level in levels}
        simple = {level: value for level, value in simple.items() if value.n}
        if len(simple) > 1:
            most = max(simple, key=lambda level: simple[level].value)
            least = min(simple, key=lambda level: simple[level].value)
            change = _over_blocks(differences[most] - differences[least])
            if change.n:
                changes.append(Interaction(effect, other.factor, simple, change))
    return sorted(changes, key=lambda interaction: -interaction.change.value)


def lead(
    table: pd.DataFrame,
    factors: Sequence[str],
    effect: Effect,
    other: Effect,
    response: str = "test_accuracy",
) -> Estimate:
    """How much larger one factor's effect is than another's."""
    blocks = responses_by_level(table, factors, [effect.factor, other.factor], response)
    swapped = blocks.swaplevel(axis=1)
    differences = (
        blocks[effect.better] - blocks[effect.worse],
        swapped[other.better] - swapped[other.worse],
    )
    one, two = (pd.DataFrame(each).mean(axis=1, skipna=False) for each in differences)
    return _over_blocks(one - two)


def responses_by_level(
    table: pd.DataFrame, factors: Sequence[str], across: Sequence[str], response: str
) -> pd.DataFrame:
    """The response with the levels of ``across`` as columns, one row for each setting of the rest."""
    rest = [factor for factor in factors if factor not in across]
    text = table.astype(dict.fromkeys(factors, str))
    known = text.dropna(subset=[response])
    wide = known.pivot_table(index=[*rest, "seed"], columns=list(across), values=response)
    order = [text[factor].unique() for factor in across]
    columns = pd.MultiIndex.from_product(order) if len(across) > 1 else order[0]
    return wide.reindex(columns=columns)


def _over_blocks(differences: "pd.Series[float]") -> Estimate:
    """The estimate from one value for each seed if there are several, else from one for each setting."""
    known = differences.dropna()
    seeds = known.groupby(level="seed").mean()
    return estimate(seeds if len(seeds) > 1 else known)


def variance_shares(
    table: pd.DataFrame, factors: Sequence[str], response: str = "test_accuracy"
) -> dict[tuple[str, ...], float] | None:
    """The analysis of variance: the share due to each factor, and to each two factors together.

    The key () has the rest: interactions of more factors, and chance. None if the design is not complete
    and balanced, because the shares would then overlap, or if nothing varies.
    """
    known = table.dropna(subset=[response])
    cells = known.groupby(list(factors))[response].size()
    wanted = math.prod(table[factor].nunique() for factor in factors)
    if len(cells) != wanted or cells.nunique() != 1 or known[response].nunique() < 2:
        return None
    centred = known[response] - known[response].mean()
    total = float((centred**2).sum())
    parts: dict[tuple[str, ...], npt.NDArray[np.float64]] = {}
    for size in (1, 2):
        for subset in combinations(factors, size):
            means = centred.groupby([known[factor] for factor in subset]).transform("mean")
            inside = [part for names, part in parts.items() if set(names) < set(subset)]
            parts[subset] = means.to_numpy() - sum(inside)
    shares = {names: float((part**2).sum()) / total for names, part in parts.items()}
    return {**shares, (): max(0.0, 1 - sum(shares.values()))}


# Epochs ---------------------------------------------------------------------------------------


def late_gains(histories: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What the last quarter of the epochs gained each trial; trials with one epoch are left out.

    Args:
        histories: by trial, one row for each epoch: epoch, train_accuracy, val_accuracy, val_loss.

    Returns:
        One row for each trial. Columns: train_gain and val_gain, the mean accuracy of the last quarter
        of the epochs less that of as many epochs before; best_epoch, with the best validation accuracy;
        epochs; loss_rise, how far the validation loss ended above its minimum, in nats. What needs
        validation is NaN for a trial without it.
    """
    rows = {}
    for name, history in histories.items():
        quarter = max(1, len(history) // 4)
        if len(history) < 2 * quarter:
            continue
        gains = {
            f"{part}_gain": history[f"{part}_accuracy"].iloc[-quarter:].mean()
            - history[f"{part}_accuracy"].iloc[-2 * quarter : -quarter].mean()
            for part in ("train", "val")
        }
        validated = history.dropna(subset="val_accuracy")
        best = validated.nlargest(1, "val_accuracy")["epoch"]
        rows[name] = {
            **gains,
            "best_epoch": float(best.iloc[0]) if len(best) else math.nan,
            "epochs": len(history),
            "loss_rise": history["val_loss"].iloc[-1] - history["val_loss"].min(),
        }
    columns = ["train_gain", "val_gain", "best_epoch", "epochs", "loss_rise"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)
