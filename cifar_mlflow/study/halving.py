"""Successive halving, synchronous: all trials of a round reach a rung before the best of them go on.

So which trials go on depends on results alone, never on which trial was first (Jamieson and Talwalkar,
"Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016).
"""

import itertools
from collections.abc import Sequence


def going_on(accuracies: Sequence[float | None], rung: int, following: int) -> list[int]:
    """The indices of the trials that go on to the next rung, in their order.

    The share ``rung / following`` of them, at least one: those with the best accuracies, the first of
    equals. Failed ones (None) count as the worst, and never go on.
    """
    finished = [(-value, index) for index, value in enumerate(accuracies) if value is not None]
    return sorted(
        index for _, index in sorted(finished)[: _share(len(accuracies), rung, following)]
    )


def rung_sizes(trials: int, stages: Sequence[int]) -> list[int]:
    """How many trials of a round are trained to each of the stages, if none fails."""
    sizes = [trials]
    for rung, following in itertools.pairwise(stages):
        sizes.append(_share(sizes[-1], rung, following))
    return sizes


def planned_epochs(trials: int, at_once: int, stages: Sequence[int]) -> int:
    """The epochs of all rounds, if no trial fails."""
    rounds = [at_once] * (trials // at_once) + ([trials % at_once] if trials % at_once else [])
    legs = [end - begin for begin, end in itertools.pairwise((0, *stages))]
    return sum(
        size * epochs
        for count in rounds
        for size, epochs in zip(rung_sizes(count, stages), legs, strict=True)
    )


def _share(trials: int, rung: int, following: int) -> int:
    return max(1, trials * rung // following)
