"""The paper's conclusions, held against the results.

A verdict never exceeds its data: which network is the best, and whether the published level is reached, is
not decided by fewer than three seeds. What the test images show of the models at hand is then an aside.
"""

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
from cifar_mlflow.analysis.statistics import CONFIDENCE, FEWEST, Estimate, estimate
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.formatting import counted, fixed, signed
from cifar_mlflow.paper import BEST, CONCLUSIONS, CONFUSION, PER_CLASS

# The standard error of an accuracy of 0.5 on 10,000 images: a smaller change is called none.
NOTICEABLE = 0.005
# An accuracy that is no farther than this from the published one counts as reproduced.
TOLERANCE = 0.02


# The published conclusions ----------------------------------------------------------------------


class Verdict(StrEnum):
    """What the data at hand say of a claim."""

    AGREES = "agrees"
    IN_PART = "agrees in part"
    DISAGREES = "disagrees"
    OPEN = "cannot be told"


class Evidence(NamedTuple):
    """A sentence with its numbers; whether the part of the claim that it is about holds.

    None: it cannot be told, or the sentence is about no part of the claim (``aside``).
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
    """The verdict on a claim: it agrees only where every part of it is shown to hold."""
    holds = {part.holds for part in evidence if not part.aside}
    if holds <= {None}:
        verdict = Verdict.OPEN
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
    """Whether the deepest network is the best, by what is the same for all three: seeds and settings.

    Args:
        table: results of the three networks; None where there are none.
        predictions: prediction tables of the test set by network, of one model each, for an aside
            where there are too few seeds.
        factors: what was varied but the seed.
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
        f"Test accuracy: {', '.join(f'{name} {fixed(value)}' for name, value in means.items())}; "
        f"deep less {rival} is {ahead}."
    )
    if ahead.n >= FEWEST:
        return conclude(claim, Evidence(text, ahead.value > 0 if ahead.certain else None))
    parts = [Evidence(f"{text} {_too_few(ahead.n)}")]
    if {"deep", rival} <= predictions.keys():
        comparison = statistics.compare(predictions["deep"], predictions[rival])
        aside = f"One model of each, on the same test images, deep less {rival}: {comparison}."
        parts.append(Evidence(aside, aside=True))
    return conclude(claim, *parts)


def _too_few(seeds: int) -> str:
    return f"With {counted(seeds, 'seed')}, this cannot be told from chance between trainings."


def on_epochs(gains: pd.DataFrame) -> Conclusion:
    """Whether more epochs help in most cases; ``gains`` as `late_gains` gives them."""
    if gains.empty:
        return conclude(CONCLUSIONS[1], Evidence("No trial has two epochs to compare."))
    parts = []
    for part, name in (("train", "training"), ("val", "validation")):
        gain = gains[f"{part}_gain"]
        rose = int((gain >= NOTICEABLE).sum())
        parts.append(
            Evidence(
                f"The last quarter of the epochs raised {name} accuracy in {rose} of {len(gain)} "
                f"trials (median gain {signed(float(gain.median()))}).",
                rose > len(gain) / 2,
            )
        )
    rising = gains[gains["loss_rise"] >= 0.05]
    return conclude(
        CONCLUSIONS[1],
        *parts,
        Evidence(
            f"In {len(rising)} of {len(gains)} trials the validation loss ended 0.05 nats or more "
            "above its minimum: there, more epochs made the probabilities worse.",
            aside=True,
        ),
    )


def on_factors(
    table: pd.DataFrame, factors: Sequence[str], response: str = "test_accuracy"
) -> Conclusion:
    """Whether activation matters most, then optimizer, and batch size little."""
    effects = {effect.factor: effect for effect in main_effects(table, factors, response)}
    if missing := [
        name for name in ("activation", "optimizer", "batch_size") if name not in effects
    ]:
        names = ", ".join(name.replace("_", " ") for name in missing)
        return conclude(CONCLUSIONS[2], Evidence(f"Too few trials finished to compare: {names}."))
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
    for found in interactions(table, factors, list(effects.values()), response):
        simple = ", ".join(f"{value} with {level}" for level, value in found.simple.items())
        evidence.append(
            Evidence(
                f"Interaction: the effect of the {found.effect.factor.replace('_', ' ')} "
                f"({found.effect.better} less {found.effect.worse}) by "
                f"{found.by.replace('_', ' ')}: {simple}; a change of {found.change}"
                + ("." if found.change.certain else ", which may be none."),
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
    """Whether cat and dog, bird and deer are confused most, automobile and truck known best.

    Whether chance among the test images may have made it so is told by the share of bootstrap
    resamples of them in which it is so.
    """
    counts = confusion.to_numpy()
    again = resample(counts)
    f1, f1_again = f1_scores(counts), f1_scores(again)
    best = np.argsort(-f1, kind="stable")
    known = [CLASSES.index("automobile"), CLASSES.index("truck")]
    others = np.delete(f1_again, known, axis=1)
    share = float((f1_again[:, known].min(axis=1) > others.max(axis=1)).mean())
    ranked = [f"{CLASSES[number]} {fixed(f1[number], 2)}" for number in best]
    return conclude(
        CONCLUSIONS[3],
        _confused(counts, again, ("cat", "dog"), 1),
        _confused(counts, again, ("bird", "deer"), 2),
        Evidence(
            f"Best known, by F1: {', '.join(ranked[:3])}; worst: {', '.join(ranked[:-4:-1])}. "
            f"Automobile and truck are the two best in {share:.0%} of resamples of the test images.",
            _shown(share),
        ),
        Evidence(f"In the published tables: {_published_classes()}.", aside=True),
    )


def _confused(
    counts: npt.NDArray[np.int64],
    again: npt.NDArray[np.int64],
    names: tuple[str, str],
    claimed: int,
) -> Evidence:
    """Whether a pair is among the ``claimed`` most confused ones, both ways together."""
    one, other = (CLASSES.index(name) for name in names)
    times, rank = _mutual(counts)[one, other], _rank(_mutual(counts), one, other)
    share = float((_rank(_mutual(again), one, other) <= claimed).mean())
    place = "the most confused pair" if claimed == 1 else f"among the {claimed} most confused pairs"
    return Evidence(
        f"{names[0].capitalize()} and {names[1]} are mistaken for each other {times} times, rank {rank}; "
        f"they are {place} in {share:.0%} of resamples of the test images.",
        _shown(share),
    )


def _published_classes() -> str:
    counts = np.array(CONFUSION)
    pairs = [
        f"{one} and {other} {_mutual(counts)[CLASSES.index(one), CLASSES.index(other)]} times"
        for one, other in (("cat", "dog"), ("bird", "deer"))
    ]
    f1 = [row[2] for row in PER_CLASS]
    best = [f"{CLASSES[number]} {f1[number]:.2f}" for number in np.argsort(f1)[:-4:-1]]
    return f"{', '.join(pairs)}; best F1 {', '.join(best)}"


def _shown(share: float) -> bool | None:
    """Whether a claim holds, if it does in nearly all resamples or in nearly none."""
    return share > 0.5 if share >= CONFIDENCE or share <= 1 - CONFIDENCE else None


def resample(
    counts: npt.NDArray[np.int64], times: int = 2000, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Confusion counts (times, 10, 10) of bootstrap resamples of the images behind ``counts`` (10, 10)."""
    images = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(images, counts.ravel() / images, times)
    return drawn.reshape(times, *counts.shape)


def f1_scores(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """F1 of each class (..., 10) from confusion counts (..., 10, 10); 0 where undefined."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    seen = counts.sum(axis=-1) + counts.sum(axis=-2)
    f1: npt.NDArray[np.float64] = 2 * right / np.maximum(seen, 1)
    return f1


def _mutual(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Mistakes of each pair of classes, both ways together, above the diagonal (..., 10, 10)."""
    return np.triu(counts + np.swapaxes(counts, -1, -2), k=1)


def _rank(mutual: npt.NDArray[np.int64], one: int, other: int) -> npt.NDArray[np.int64]:
    """The place of a pair, 1 for the most confused, the worse one where pairs are even."""
    pairs = mutual[..., *np.triu_indices(len(CLASSES), k=1)]
    rank: npt.NDArray[np.int64] = np.sum(pairs >= mutual[..., one, other, None], axis=-1)
    return rank


def on_level(best: Estimate, images: Sequence[float]) -> Conclusion:
    """Whether the best accuracy is as published, and whether resolution is why it is no better.

    Args:
        best: test accuracy of the best configuration, over its seeds.
        images: test accuracy of its best model, with its interval over the test images.
    """
    away = Estimate(best.value - BEST, best.low - BEST, best.high - BEST, best.n)
    low, high = round(away.low, 9), round(away.high, 9)  # 0.72 is no farther than 0.02 from 0.70
    if best.n < FEWEST:
        level, said = None, _too_few(best.n)
    elif -TOLERANCE <= low and high <= TOLERANCE:
        level, said = True, f"That is within {TOLERANCE}."
    elif high < -TOLERANCE or low > TOLERANCE:
        level, said = False, f"That is farther than {TOLERANCE}."
    else:
        level, said = None, f"Whether that is within {TOLERANCE} is not certain."
    return conclude(
        CONCLUSIONS[4],
        Evidence(
            f"The best configuration's test accuracy is {fixed(best.value)}, {away} from the published "
            f"{BEST:.2f}, which is of one training. {said}",
            level,
        ),
        Evidence(
            f"Its best model reaches {fixed(images[0])}; the choice of test images alone makes that "
            f"{fixed(images[1])} to {fixed(images[2])} (95 % interval).",
            aside=True,
        ),
        Evidence(
            "Whether the low resolution is why cannot be told from these runs: all of them saw "
            "32 × 32 pixels."
        ),
        Evidence(
            "Elsewhere small networks reach 94 % on these 32 × 32 images (Jordan, 2024, "
            f"arXiv:2404.00498), so the resolution allows far more than {BEST:.2f}.",
            aside=True,
        ),
    )
