"""A study before it runs: how the cores are shared and what it will cost; needs no TensorFlow."""

import time
from collections.abc import Mapping, Sequence

import joblib
import numpy as np

from cifar_mlflow.config import Architecture, TrialConfig
from cifar_mlflow.formatting import counted, duration
from cifar_mlflow.parameters import StudyOptions, TrainingOptions
from cifar_mlflow.training.devices import gpus

# Multiply-adds of one forward pass over one image (a test counts them in the networks).
MULTIPLY_ADDS: dict[Architecture, int] = {
    "small": 1_340_928,
    "wide": 4_585_472,
    "deep": 4_548_608,
}
# Training reaches this share of the speed of a large matrix product (docs/results.md, Speed).
EFFICIENCY = 0.6
TRAINING_IMAGES = 50_000


def share_cores(trials: int, options: StudyOptions) -> tuple[int, int]:
    """(workers, threads of each): a worker for each GPU, else each core; the cores are divided."""
    units = len(gpus()) or joblib.cpu_count()
    workers = units if options.workers == "auto" else options.workers
    workers = min(workers, trials)
    return workers, share_threads(workers, options)


def share_threads(workers: int | None, options: TrainingOptions) -> int:
    """The threads of each of ``workers`` trials that run at once here; one on a cluster (None)."""
    if options.threads != "auto":
        return options.threads
    return max(1, joblib.cpu_count() // workers) if workers else 1


def outline(trials: Sequence[TrialConfig], workers: int, threads: int) -> str:
    """A plan in one line, with what it will cost."""
    epochs = counted(sum(trial.epochs for trial in trials), "epoch")
    seeds = len({trial.seed for trial in trials})
    configurations = counted(len(trials) // seeds, "configuration")
    replicated = f" ({configurations} x {seeds} seeds)" if seeds > 1 else ""
    return (
        f"{counted(len(trials), 'trial')}{replicated}, {epochs} in all, workers x threads {workers} x {threads}, "
        f"about {duration(estimate(trials))}"
    )


def remainder(trials: Sequence[TrialConfig], done: Mapping[str, int]) -> str:
    """What is left of a plan, in a few words, after the epochs ``done``, by the trials' keys."""
    left = [
        trial.model_copy(update={"epochs": trial.epochs - done.get(trial.key, 0)})
        for trial in trials
        if done.get(trial.key, 0) < trial.epochs
    ]
    if not left:
        return "nothing left to train"
    epochs = counted(sum(trial.epochs for trial in left), "epoch")
    return f"{counted(len(left), 'trial')}, {epochs} left, about {duration(estimate(left))}"


def estimate(trials: Sequence[TrialConfig]) -> float:
    """Seconds that the trials take with every core at work; right within a factor of two or so."""
    return sum(operations(trial) for trial in trials) / (machine_speed() * EFFICIENCY)


def operations(trial: TrialConfig) -> float:
    """Floating-point operations of a trial: a multiply-add is two, a backward pass two forward ones."""
    forward = 2 * MULTIPLY_ADDS[trial.architecture]
    passes = 3 * (1 - trial.validation_fraction) + trial.validation_fraction
    return forward * passes * TRAINING_IMAGES * trial.epochs


def machine_speed(size: int = 1024, rounds: int = 30) -> float:
    """Operations per second of a float32 matrix product on all cores: the best of some rounds."""
    matrix = np.ones((size, size), np.float32)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)
