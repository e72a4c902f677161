"""The paper's conclusions, checked against the results.

A verdict never exceeds its data: fewer than three seeds do not decide which network is the best, or
whether the published accuracy is reached. What the test images show of these models is then an aside.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cifar_mlflow.analysis import statistics
from cifar_mlflow.analysis.effects import (
    Effect,
    interactions,
    lead,
    main_effects,
    responses_by_level,
)
from cifar_mlflow.analysis.metrics import f1_scores
from cifar_mlflow.analysis.statistics import (
    CONFIDENCE,
    INTERVAL,
    MIN_VALUES,
    Estimate,
    estimate,
    resampled_counts,
)
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.formatting import counted, number, percent, signed, significant
from cifar_mlflow.paper import BEST, CONCLUSIONS, CONFUSION, PER_CLASS

# The standard error of an accuracy of 0.5 on 10,000 images: a smaller change counts as none.
NOTICEABLE = 0.005
# An accuracy this close to the published one counts as reproduced.
TOLERANCE = 0.02


class Verdict(StrEnum):
    """What the results say of a claim."""

    AGREES = "agrees"
    IN_PART = "agrees in part"
    DISAGREES = "disagrees"
    INCONCLUSIVE = "inconclusive"


class Evidence(NamedTuple):
    """A sentence with its numbers, and whether its part of the claim holds.

    None: that is inconclusive, or the sentence is about no part of the claim (``aside``).
    """

    text: str
    holds: bool | None = None
    aside: bool = False


@dataclass(frozen=True)
class Conclusion:
    claim: str
    verdict: Verdict
    evidence: tuple[Evidence, ...]


def conclude(claim: str, *evidence: Evidence) -> Conclusion:
    """The verdict on a claim: the results agree only if every part of it is shown to hold."""
    holds = {each.holds for each in evidence if not each.aside}
    if holds <= {None}:
        verdict = Verdict.INCONCLUSIVE
    elif holds == {True}:
        verdict = Verdict.AGREES
    else:
        verdict = Verdict.IN_PART if True in holds else Verdict.DISAGREES
    return Conclusion(claim, verdict, evidence)


def on_architectures(
    table: pd.DataFrame | None,
    predictions: Mapping[str, pd.DataFrame],
    factors: Sequence[str] = ("architecture",),
) -> Conclusion:
    """Whether the deepest network is the best, over the seeds and settings that all three have.

    Args:
        table: results of the three networks; None if there are none.
        predictions: a prediction table of the test set for each network, of one model, for an aside if
            there are too few seeds.
        factors: what was varied, except the seed.
    """
    claim = CONCLUSIONS[0]
    if table is None:
        return conclude(claim, Evidence("No finished study of the architectures on CIFAR-10."))
    measured = table.dropna(subset=["test_accuracy"])
    if missing := sorted({"small", "wide", "deep"} - set(measured["architecture"])):
        return conclude(claim, Evidence(f"Not finished: {', '.join(missing)}."))
    alike = responses_by_level(measured, factors, ["architecture"], "test_accuracy").dropna()
    if alike.empty:
        return conclude(claim, Evidence("No seed and settings in which all three finished."))
    seeds = alike.groupby(level="seed").mean()
    means = seeds.mean().sort_values(ascending=False)
    rival = str(means.drop("deep").index[0])
    ahead = estimate(seeds["deep"] - seeds[rival])
    text = (
        f"Test accuracy: {', '.join(f'{name} {number(value)}' for name, value in means.items())}; "
        f"deep less {rival} is {ahead}."
    )
    if ahead.n >= MIN_VALUES:
        return conclude(claim, Evidence(text, ahead.value > 0 if ahead.certain else None))
    evidence = [Evidence(f"{text} {_too_few(ahead.n)}")]
    if {"deep", rival} <= predictions.keys():
        comparison = statistics.compare(predictions["deep"], predictions[rival])
        aside = f"One model of each, on the same test images, deep less {rival}: {comparison}."
        evidence.append(Evidence(aside, aside=True))
    return conclude(claim, *evidence)


def _too_few(seeds: int) -> str:
    return f"With {counted(seeds, 'seed')}, this may be chance."


def on_epochs(gains: pd.DataFrame) -> Conclusion:
    """Whether more epochs help in most cases; ``gains`` is a table of `effects.late_gains`."""
    if gains.empty:
        return conclude(CONCLUSIONS[1], Evidence("No trial has two epochs to compare."))
    evidence = []
    for part, name in (("train", "training"), ("val", "validation")):
        gain = gains[f"{part}_gain"].dropna()
        if gain.empty:
            evidence.append(Evidence(f"No trial has a {name} accuracy."))
            continue
        rose = int((gain >= NOTICEABLE).sum())
        evidence.append(
            Evidence(
                f"The last quarter of the epochs raised {name} accuracy in {rose} of {len(gain)} "
                f"trials (median gain {signed(float(gain.median()))}).",
                rose > len(gain) / 2,
            )
        )
    rise = gains["loss_rise"].dropna()
    if len(rise):
        text = (
            f"In {int((rise >= 0.05).sum())} of {len(rise)} trials the validation loss ended 0.05 nats or "
            "more above its minimum: there, more epochs made the probabilities worse."
        )
        evidence.append(Evidence(text, aside=True))
    return conclude(CONCLUSIONS[1], *evidence)


def on_factors(
    table: pd.DataFrame, factors: Sequence[str], response: str = "test_accuracy"
) -> Conclusion:
    """Whether the activation matters most, then the optimizer, and the batch size little."""
    effects = {effect.factor: effect for effect in main_effects(table, factors, response)}
    if missing := [
        name for name in ("activation", "optimizer", "batch_size") if name not in effects
    ]:
        names = ", ".join(name.replace("_", " ") for name in missing)
        return conclude(CONCLUSIONS[2], Evidence(f"Too few finished trials to compare: {names}."))
    activation, optimizer, batch = (effects[n] for n in ("activation", "optimizer", "batch_size"))
    ahead = lead(table, factors, activation, optimizer, response)
    larger = [lead(table, factors, other, batch, response) for other in (activation, optimizer)]
    least = _least(larger)
    evidence = [
        _direction(activation, "relu", "sigmoid"),
        _direction(optimizer, "adam", "sgd"),
        Evidence(
            f"The effect of the activation is larger than that of the optimizer by {ahead}."
            + ("" if ahead.certain else " Which of the two matters more is not certain."),
            ahead.value > 0 if ahead.certain else None,
        ),
        Evidence(
            f"The effect of the batch size is {batch.difference}, from {batch.worse} to {batch.better}; "
            f"that of the activation is larger by {larger[0]}, that of the optimizer by {larger[1]}."
            + (" Whether the batch size matters least is not certain." if least is None else ""),
            least,
        ),
    ]
    for interaction in interactions(table, factors, list(effects.values()), response):
        simple = ", ".join(f"{value} with {level}" for level, value in interaction.simple.items())
        evidence.append(
            Evidence(
                f"Interaction: the effect of the {interaction.effect.factor.replace('_', ' ')} "
                f"({interaction.effect.better} less {interaction.effect.worse}) by "
                f"{interaction.by.replace('_', ' ')}: {simple}; a change of {interaction.change}"
                + ("." if interaction.change.certain else ", which may be chance."),
                aside=True,
            )
        )
    return conclude(CONCLUSIONS[2], *evidence)


def _direction(effect: Effect, better: str, worse: str) -> Evidence:
    levels = {effect.better, effect.worse} == {better, worse}
    holds = effect.better == better if levels and effect.difference.certain else None
    return Evidence(
        f"{effect.factor.capitalize()}: {effect.better} is better than {effect.worse} by "
        f"{effect.difference} in test accuracy, on average"
        + ("." if effect.difference.certain else ", which may be chance."),
        holds,
    )


def _least(larger: Sequence[Estimate]) -> bool | None:
    """Whether an effect is the smallest, from how much larger each of the others is."""
    if any(other.certain and other.value < 0 for other in larger):
        return False
    return True if all(other.certain for other in larger) else None


def on_classes(confusion: pd.DataFrame) -> Conclusion:
    """Whether cat and dog, bird and deer are confused most, and automobile and truck least.

    Each part is decided by the share of bootstrap resamples of the test images in which it holds.
    """
    counts = confusion.to_numpy()
    resamples = resampled_counts(counts)
    f1, resampled_f1 = f1_scores(counts), f1_scores(resamples)
    best = np.argsort(-f1, kind="stable")
    known = [CLASSES.index("automobile"), CLASSES.index("truck")]
    others = np.delete(resampled_f1, known, axis=1)
    share = float((resampled_f1[:, known].min(axis=1) > others.max(axis=1)).mean())
    ranked = [f"{CLASSES[index]} {number(f1[index], 2)}" for index in best]
    return conclude(
        CONCLUSIONS[3],
        _confused(counts, resamples, ("cat", "dog"), 1),
        _confused(counts, resamples, ("bird", "deer"), 2),
        Evidence(
            f"Best known, by F1: {', '.join(ranked[:3])}; worst: {', '.join(ranked[:-4:-1])}. "
            f"Automobile and truck are the two best in {percent(share, 0)} of resamples of the test images.",
            _shown(share),
        ),
        Evidence(f"In the published tables: {_published_classes()}.", aside=True),
    )


def _confused(
    counts: npt.NDArray[np.int64],
    resamples: npt.NDArray[np.int64],
    names: tuple[str, str],
    claimed: int,
) -> Evidence:
    """Whether a pair is among the ``claimed`` most confused ones, counting both ways."""
    one, other = (CLASSES.index(name) for name in names)
    times, rank = _mutual(counts)[one, other], _rank(_mutual(counts), one, other)
    share = float((_rank(_mutual(resamples), one, other) <= claimed).mean())
    place = "the most confused pair" if claimed == 1 else f"among the {claimed} most confused pairs"
    return Evidence(
        f"{names[0].capitalize()} and {names[1]} are mistaken for each other {number(times, 0)} times, "
        f"rank {rank}; "
        f"they are {place} in {percent(share, 0)} of resamples of the test images.",
        _shown(share),
    )


def _published_classes() -> str:
    counts = np.array(CONFUSION)
    pairs = [
        f"{one} and {other} {_mutual(counts)[CLASSES.index(one), CLASSES.index(other)]} times"
        for one, other in (("cat", "dog"), ("bird", "deer"))
    ]
    f1 = [row[2] for row in PER_CLASS]
    best = [f"{CLASSES[index]} {number(f1[index], 2)}" for index in np.argsort(f1)[:-4:-1]]
    return f"{', '.join(pairs)}; best F1 {', '.join(best)}"


def _shown(share: float) -> bool | None:
    """True if a claim holds in nearly all resamples, False if in nearly none, else None."""
    return share > 0.5 if share >= CONFIDENCE or share <= 1 - CONFIDENCE else None


def _mutual(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Mistakes of each pair of classes, both ways added, above the diagonal (…, 10, 10)."""
    return np.triu(counts + np.swapaxes(counts, -1, -2), k=1)


def _rank(mutual: npt.NDArray[np.int64], one: int, other: int) -> npt.NDArray[np.int64]:
    """The rank of a pair, 1 for the most confused; tied pairs get the lower rank."""
    pairs = mutual[..., *np.triu_indices(len(CLASSES), k=1)]
    rank: npt.NDArray[np.int64] = np.sum(pairs >= mutual[..., one, other, None], axis=-1)
    return rank


def on_compute(trials: pd.DataFrame, grid_pflop: float, official: bool) -> str:
    """What compute bought in test accuracy, in a few sentences; the paper has no claim on it.

    Args:
        trials: at least one, with the columns name, pflop and test_accuracy.
        grid_pflop: what all trials of the grid took together; NaN if that is not known.
        official: the data is CIFAR-10, so that the published accuracy is comparable.
    """
    ordered = trials.sort_values(["test_accuracy", "pflop"], ascending=[False, True])
    name, accuracy, pflop = ordered[["name", "test_accuracy", "pflop"]].iloc[0]
    text = (
        f"Of {counted(len(trials), 'trial')}, {name} has the highest test accuracy, "
        f"{number(accuracy)}, and took {significant(pflop)} PFLOP"
    )
    if not math.isnan(grid_pflop):
        text += f", {significant(pflop / grid_pflop)} times what the whole grid took"
    if not official:
        return f"{text}."
    text += f". That is {signed(accuracy - BEST)} from the paper’s best, {number(BEST, 2)}"
    above = trials[trials["test_accuracy"] > BEST]
    if above.empty:
        return f"{text}: no trial exceeds it."
    least = significant(above["pflop"].min())
    many = f"{len(above):,} trials exceed it, the cheapest"
    return f"{text}; {many if len(above) > 1 else '1 trial exceeds it,'} with {least} PFLOP."


def on_level(best: Estimate, images: Sequence[float]) -> Conclusion:
    """Whether the best accuracy is as published, and whether the resolution limits it.

    Args:
        best: test accuracy of the best configuration, over its seeds.
        images: test accuracy of its best model, with its interval over the test images.
    """
    away = Estimate(best.value - BEST, best.low - BEST, best.high - BEST, best.n)
    low, high = round(away.low, 9), round(away.high, 9)  # 0.72 is within 0.02 of 0.70
    if best.n < MIN_VALUES:
        holds, text = None, _too_few(best.n)
    elif -TOLERANCE <= low and high <= TOLERANCE:
        holds, text = True, f"That is within {TOLERANCE}."
    elif high < -TOLERANCE or low > TOLERANCE:
        holds, text = False, f"That is farther away than {TOLERANCE}."
    else:
        holds, text = None, f"Whether that is within {TOLERANCE} is not certain."
    return conclude(
        CONCLUSIONS[4],
        Evidence(
            f"The best configuration's test accuracy is {number(best.value)}, {away} from the published "
            f"{number(BEST, 2)}, which is of one trial. {text}",
            holds,
        ),
        Evidence(
            f"Its best model reaches {number(images[0])}; the choice of test images alone makes that "
            f"{number(images[1])} to {number(images[2])} ({INTERVAL}).",
            aside=True,
        ),
        Evidence(
            "These runs cannot show whether the low resolution is why: all of them saw 32 × 32 pixels."
        ),
        Evidence(
            "Elsewhere small networks reach 94 % on these 32 × 32 images (Jordan, 2024, "
            f"arXiv:2404.00498), so the resolution allows far more than {number(BEST, 2)}.",
            aside=True,
        ),
    )
