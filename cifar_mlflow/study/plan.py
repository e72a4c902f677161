"""A study before it runs: how its trials share the cores, and how much there is to train.

Needs no TensorFlow.
"""

from collections.abc import Mapping, Sequence

import joblib

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import Lines
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import counted
from cifar_mlflow.parameters import SearchParameters, StudyOptions, TrainingOptions
from cifar_mlflow.study import halving
from cifar_mlflow.training.devices import gpus


def check_choice(trials: Sequence[TrialConfig], options: StudyOptions) -> None:
    """Refuse a plan whose best trial could not be chosen, or not be trained again on all images.

    Raises:
        UsageError: it is chosen by validation, and a trial is trained without; or a refit is asked for
            of trials that need validation, or that are trained on all images already.
    """
    if options.select_by == "validation" and not all(t.validation_fraction for t in trials):
        raise UsageError(
            "validation_fraction=0: this leaves no image to choose the best trial by; input should be "
            "greater than 0, or select_by=test"
        )
    if options.refits and any(trial.keep == "best" for trial in trials):
        raise UsageError(
            "refit=true: on all training images there is no validation to find the best epoch by; "
            "keep should be last"
        )
    if options.refits and not all(trial.validation_fraction for trial in trials):
        raise UsageError(
            "refit=true: with validation_fraction=0 the trials are trained on all images already; "
            "input should be false, or validation_fraction greater than 0"
        )


def check_data(trials: Sequence[TrialConfig], data: DataSet) -> None:
    """Refuse data that a trial cannot be trained on.

    Raises:
        UsageError: the images are too small for a network, or too few for a validation_fraction.
    """
    for trial in trials:
        trial.check_size(data.image_shape[0])
    for fraction in {trial.validation_fraction for trial in trials}:
        data.split(fraction)  # opens files, so not for each trial


def share_cores(trials: int, options: StudyOptions) -> tuple[int, int]:
    """(workers, threads of each): a worker per GPU, else per core; the workers share the cores."""
    units = gpus() or joblib.cpu_count()
    workers = units if options.workers == "auto" else options.workers
    workers = min(workers, trials)
    return workers, share_threads(workers, options)


def share_threads(workers: int | None, options: TrainingOptions) -> int:
    """The threads of each of ``workers`` trials that run at once here; one on a cluster (None)."""
    if options.threads != "auto":
        return options.threads
    return max(1, joblib.cpu_count() // workers) if workers else 1


def outline(trials: Sequence[TrialConfig], workers: int, threads: int) -> str:
    """A plan in one line: trials, epochs, workers and threads."""
    epochs = counted(sum(trial.epochs for trial in trials), "epoch")
    seeds = len({trial.seed for trial in trials})
    configurations = counted(len(trials) // seeds, "configuration")
    replicated = f" ({configurations} x {seeds} seeds)" if seeds > 1 else ""
    return (
        f"{counted(len(trials), 'trial')}{replicated}, {epochs} in all, "
        f"workers x threads {workers} x {threads}"
    )


def outline_search(options: SearchParameters, workers: int, threads: int) -> str:
    """A search in one line: trials, rounds, epochs, finalists, workers and threads."""
    trials, at_once, stages = options.possible_trials, options.proposed_at_once, options.stages
    epochs = counted(halving.planned_epochs(trials, at_once, stages), "epoch")
    finalists = min(options.finalists, trials)
    more = counted(finalists * options.replicates * options.epochs_each, "epoch")
    return (
        f"{counted(trials, 'trial')} by {options.sampler} in rounds of {min(at_once, trials)}, {epochs}; then "
        f"{counted(finalists, 'finalist')} x {counted(options.replicates, 'seed')}, {more}; workers x "
        f"threads {workers} x {threads}"
    )


def outline_space(options: SearchParameters) -> Lines:
    """What a search varies, and how many trials of a round are trained how far."""
    at_once = min(options.proposed_at_once, options.possible_trials)
    sizes = halving.rung_sizes(at_once, options.stages)
    rungs = [f"{size} to epoch {stage}" for size, stage in zip(sizes, options.stages, strict=True)]
    lines = [(name, str(domain)) for name, domain in options.space.varied.items()]
    return [*lines, ("each round", ", ".join(rungs))]


def remainder(trials: Sequence[TrialConfig], done: Mapping[str, int]) -> str:
    """What is left of a plan, in a few words; ``done`` has the epochs trained, by the trials' keys."""
    left = [trial.epochs - done.get(trial.key, 0) for trial in trials]
    left = [epochs for epochs in left if epochs > 0]
    if not left:
        return "nothing left to train"
    return f"{counted(len(left), 'trial')}, {counted(sum(left), 'epoch')} left"
