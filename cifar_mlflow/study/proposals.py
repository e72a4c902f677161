"""Propose the trials of a search, by Optuna's samplers.

Each round has an Optuna study and a sampler of its own, with a seed of its own, which know the outcomes of
earlier rounds alone. So a round that was interrupted is proposed again as it was, however far its trials
had come.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.errors import UsageError
from cifar_mlflow.space import Choice, Domain, Range, Space, Value

DIGITS = 4  # of a proposed number, short in names and tables; more where the range is narrow
TRIES = 20  # for a proposal that is new; then chance draws
MOST_TRIES = 200  # then what is left of a finite space is proposed in order
# For each proposal a sampler reads all trials that it is told, so their number is limited: otherwise the
# time of a proposal would grow with the search. TPE takes a tenth of them as the good ones, 25 at most.
BEST_TOLD, LATEST_TOLD = 25, 175


@dataclass(frozen=True)
class Outcome:
    """What a sampler learns of a trial."""

    config: TrialConfig
    accuracies: Mapping[int, float]  # on the validation images, in 0..1, by epoch
    accuracy: float | None  # that counts, of a trial that was trained to its end


def check_sampler(name: str) -> None:
    """Raise UsageError if a package is missing that the sampler needs."""
    if name == "gp" and find_spec("torch") is None:
        raise UsageError("sampler=gp: torch is not installed; pip install torch")


class Proposals:
    """The proposals of a search, round by round: `propose` and `learn` in turn.

    They are the same whenever the same outcomes were learned, whatever was interrupted in between.
    """

    def __init__(self, space: Space, sampler: str, seed: int):
        """Propose nothing yet.

        Args:
            sampler: tpe, random or gp.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self.sampler = sampler
        self.seed = seed
        self.round = 0
        self.known: set[str] = set()  # keys of the trials proposed
        self.distributions = distributions(space)
        self.learned: list[FrozenTrial] = []  # in the order of the proposals

    def propose(self, count: int) -> list[TrialConfig]:
        """The trials of the next round: new configurations, fewer if no more are found.

        Raises:
            UsageError: a configuration is not allowed.
        """
        sampler = _make_sampler(self.sampler, self.seed, self.round)
        study = optuna.create_study(sampler=sampler, direction="maximize")
        study.add_trials(told(self.learned))
        self.round += 1
        chance = _make_sampler("random", self.seed, self.round, 1)  # not the numbers of a round
        trials: list[TrialConfig] = []
        while len(trials) < count and (trial := self._new(study, chance)):
            self.known.add(trial.key)
            trials.append(trial)
        return trials

    def _new(self, study: optuna.Study, chance: optuna.samplers.BaseSampler) -> TrialConfig | None:
        """A configuration that was not proposed yet; None if none is found."""
        if len(self.known) >= self.space.size:
            return None
        for tries in range(MOST_TRIES):
            if tries == TRIES:
                study.sampler = chance
            # What was asked for counts as running, so the sampler proposes something else next.
            trial = self._trial(study.ask(self.distributions))
            if trial.key not in self.known:
                return trial
        left = (trial for trial in self.space.configurations() if trial.key not in self.known)
        return next(left, None)

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Add the outcomes of a round, in the order of its proposals."""
        self.learned += [_learned(outcome, self.distributions) for outcome in outcomes]

    def _trial(self, asked: optuna.Trial) -> TrialConfig:
        domains = self.space.domains
        return self.space.trial(
            {name: _rounded(value, domains[name]) for name, value in asked.params.items()}
        )


def _make_sampler(name: str, *seeds: int) -> optuna.samplers.BaseSampler:
    (of_round,) = np.random.SeedSequence(seeds).generate_state(1).tolist()
    match name:
        case "tpe":
            return optuna.samplers.TPESampler(seed=of_round)
        case "gp":
            return optuna.samplers.GPSampler(seed=of_round)
    return optuna.samplers.RandomSampler(seed=of_round)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """What varies, as Optuna knows it."""
    return {name: _distribution(domain) for name, domain in space.varied.items()}


def _distribution(domain: Domain) -> BaseDistribution:
    match domain:
        case Choice(values):
            return CategoricalDistribution(values)
        case Range(low, high, logarithmic) if domain.whole:
            return IntDistribution(int(low), int(high), log=logarithmic)
        case Range(low, high, logarithmic):
            return FloatDistribution(low, high, log=logarithmic)


def _rounded(value: Value, domain: Domain) -> Value:
    if isinstance(domain, Choice) or not isinstance(value, float):
        return value
    span = domain.high - domain.low
    decimals = DIGITS - 1 - math.floor(math.log10(min(span, abs(value) or span)))
    return min(max(round(value, decimals), domain.low), domain.high)


def told(learned: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that a sampler is told: the latest, and the best of those before.

    They are in the order of the proposals, because TPE gives later ones a larger weight.
    """
    earlier, latest = learned[:-LATEST_TOLD], learned[-LATEST_TOLD:]
    best = sorted(range(len(earlier)), key=lambda index: _rank(earlier[index]))[-BEST_TOLD:]
    return [*(earlier[index] for index in sorted(best)), *latest]


def _rank(trial: FrozenTrial) -> tuple[bool, int, float]:
    """Larger is better, as TPE ranks trials: complete ones by value, others by epochs and accuracy."""
    if trial.value is not None:
        return True, 0, trial.value
    epoch = trial.last_step or 0
    return False, epoch, trial.intermediate_values.get(epoch, 0.0)


def _learned(outcome: Outcome, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    """A trial as Optuna's samplers know it.

    One that was stopped at a rung counts as pruned, and one that failed as pruned before its first epoch,
    which ranks below all others. Optuna's own state for failures would hide it from the sampler, which
    would then propose its like again.
    """
    params = outcome.config.model_dump(include=set(distributions))
    complete = outcome.accuracy is not None
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        value=outcome.accuracy,
        params=params,
        distributions=distributions,
        intermediate_values=dict(outcome.accuracies),
    )
