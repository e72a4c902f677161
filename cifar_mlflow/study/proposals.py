"""Propose the trials of a search, by Optuna's samplers.

Optuna's memory lasts as long as the command. Whoever resumes a search tells it again, round by round, the
outcomes that the tracking store has. A round's sampler has a seed of its own, and knows of earlier rounds
alone. So a round that was interrupted is proposed again as it was, however far its trials had come.
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
MOST_TRIES = 1000


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
        self.study = optuna.create_study(direction="maximize")

    def propose(self, count: int) -> list[TrialConfig]:
        """The trials of the next round: new configurations, fewer if no more are found.

        Raises:
            UsageError: a configuration is not allowed.
        """
        self.study.sampler = _make_sampler(self.sampler, self.seed, self.round)
        self.round += 1
        trials: list[TrialConfig] = []
        asked: list[optuna.Trial] = []  # running, so that the sampler proposes something else
        tries = 0  # since the last new one
        while len(trials) < count and len(self.known) < self.space.size and tries < MOST_TRIES:
            if tries == TRIES:
                self.study.sampler = _make_sampler("random", self.seed, self.round)
            asked.append(self.study.ask(self.distributions))
            trial = self._trial(asked[-1])
            tries += 1
            if trial.key not in self.known:
                self.known.add(trial.key)
                trials.append(trial)
                tries = 0
        for each in asked:  # `learn` adds them with what became of them; failed ones are ignored
            self.study.tell(each, state=TrialState.FAIL)
        return trials

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Add the outcomes of a round, in the order of its proposals."""
        self.study.add_trials([_told(outcome, self.distributions) for outcome in outcomes])

    def _trial(self, asked: optuna.Trial) -> TrialConfig:
        domains = self.space.domains
        return self.space.trial(
            {name: _rounded(value, domains[name]) for name, value in asked.params.items()}
        )


def _make_sampler(name: str, seed: int, round_: int) -> optuna.samplers.BaseSampler:
    (of_round,) = np.random.SeedSequence([seed, round_]).generate_state(1).tolist()
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


def _told(outcome: Outcome, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
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
