"""How long a search takes to propose its trials, with a stand-in for their training.

    python -m benchmarks.search_asking --trials 2000

Prints milliseconds a trial for the proposals of the last ten rounds before 100, 500, 1,000 and 2,000
trials, and for telling Optuna their outcomes; and the seconds for all rounds up to there, which is what a
resumed search needs to come to the same place.
"""

import math
import statistics
import time
from collections.abc import Sequence
from importlib.util import find_spec

from benchmarks import machine
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.parameters import SearchParameters
from cifar_mlflow.study import halving
from cifar_mlflow.study.proposals import Outcome, Proposals

MARKS = (100, 500, 1000, 2000)
ROUNDS = 10
GP_TRIALS = 200  # its time grows with the cube of their number
SEARCHES: dict[str, dict[str, str]] = {
    "random": {"sampler": "random"},
    "tpe": {"sampler": "tpe"},
    "tpe, rungs": {"sampler": "tpe", "rungs": "1,3,9"},
    "gp": {"sampler": "gp"},
}


def accuracy(trial: TrialConfig, epoch: int) -> float:
    """Stands in for a training: rises with the epochs, and has its peak at a learning rate of 0.01."""
    distance = math.log10(float(trial.learning_rate)) + 2
    return (0.9 - 0.1 * distance**2 - 0.001 * trial.batch_size) * (1 - 0.5 / epoch)


def train(trials: Sequence[TrialConfig], stages: Sequence[int]) -> list[Outcome]:
    """The outcomes of a round, halved at its rungs."""
    accuracies: list[dict[int, float]] = [{} for _ in trials]
    going = list(range(len(trials)))
    for stage, following in zip(stages, [*stages[1:], None]):
        for index in going:
            begun = len(accuracies[index])
            for epoch in range(begun + 1, stage + 1):
                accuracies[index][epoch] = accuracy(trials[index], epoch)
        if following:
            here = [accuracies[index][stage] for index in going]
            going = [going[place] for place in halving.going_on(here, stage, following)]
    return [Outcome(trial, each, each.get(stages[-1])) for trial, each in zip(trials, accuracies)]


def measure(name: str, trials: int) -> None:
    options = SearchParameters.model_validate({"trials": str(trials)} | SEARCHES[name])
    proposals = Proposals(options.space, options.sampler, 0)
    asking: list[float] = []  # milliseconds a trial, by round
    learning: list[float] = []
    began = time.perf_counter()
    done = 0
    while done < trials:
        times = [time.perf_counter()]
        proposed = proposals.propose(min(options.proposed_at_once, trials - done))
        times.append(time.perf_counter())
        outcomes = train(proposed, options.stages)
        times.append(time.perf_counter())
        proposals.learn(outcomes)
        times.append(time.perf_counter())
        asking.append(1000 * (times[1] - times[0]) / len(proposed))
        learning.append(1000 * (times[3] - times[2]) / len(proposed))
        before, done = done, done + len(proposed)
        if done == trials or any(before < mark <= done for mark in MARKS):
            numbers = [statistics.median(each[-ROUNDS:]) for each in (asking, learning)]
            seconds = time.perf_counter() - began
            print(
                f"{name:<12}{done:7,}{numbers[0]:9.2f}{numbers[1]:9.2f}{seconds:10.1f}", flush=True
            )


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--trials", type=machine.positive, default=MARKS[-1])
    options = parser.parse_args()
    print("sampler      trials  ask, ms  tell, ms  all so far, s")
    for name in SEARCHES:
        if name == "gp" and find_spec("torch") is None:
            print("gp          not measured, because torch is not installed")
            continue
        measure(name, min(options.trials, GP_TRIALS) if name == "gp" else options.trials)


if __name__ == "__main__":
    main()
