"""Many trials: run them on every core, and conclude."""

from collections import Counter
from collections.abc import Sequence

import joblib
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError
from rich.console import Console

from cifar_mlflow import tracking
from cifar_mlflow.conclusion import conclude
from cifar_mlflow.config import StudyOptions, TrialConfig
from cifar_mlflow.data import Cifar10, load
from cifar_mlflow.plan import outline, share_cores
from cifar_mlflow.terminal import Watch, say
from cifar_mlflow.trial import run_trial

# A trial whose worker died is tried once more: the worker of another one may have taken it along.
ATTEMPTS = 2
WORKER_DIED = "the worker process died: out of memory, or killed"


def run_study(trials: Sequence[TrialConfig], options: StudyOptions, console: Console) -> bool:
    """Run every trial under one parent run and conclude; tells whether all finished.

    Raises:
        UsageError: the data cannot be had, or a validation fraction leaves no image.
    """
    data = load(options.data_dir)
    for fraction in {trial.validation_fraction for trial in trials}:
        data.split(fraction)
    workers, threads = share_cores(len(trials), options)
    say(console, "Data", str(data))
    say(console, "Study", outline(trials, workers, threads))
    with tracking.tracked_run(options.kind) as run:
        parent = tracking.as_parent(run)
        tracking.log_parameters(options)
        tracking.log_environment(threads)
        tracking.log_dataset(data, "training")
        try:
            with Watch(parent, trials, console):
                train_all(trials, data, workers, threads, options.tensorboard, parent)
        except KeyboardInterrupt:
            tracking.end_running(parent, "KILLED", "the study was interrupted")
            raise
        return conclude(trials, data, options, parent, console)


def train_all(
    trials: Sequence[TrialConfig],
    data: Cifar10,
    workers: int,
    threads: int,
    tensorboard: bool,
    parent: tracking.Parent,
) -> None:
    """Run the trials on worker processes; one that fails, or whose worker dies, stops no other."""
    deaths: Counter[str] = Counter()
    pending = list(trials)
    while pending:
        work = joblib.Parallel(
            n_jobs=workers, batch_size=1, pre_dispatch=workers, return_as="generator_unordered"
        )
        jobs = [
            joblib.delayed(run_trial)(trial, data, threads, tensorboard, parent)
            for trial in pending
        ]
        try:
            for _ in work(jobs):
                pass  # what came of the trial is in the store
        except TerminatedWorkerError:
            ended = tracking.end_running(parent, "FAILED", WORKER_DIED)
            if not ended:
                raise
            deaths.update(run.key for run in ended)
        except KeyboardInterrupt:
            get_reusable_executor().shutdown(kill_workers=True)
            raise
        runs = tracking.latest(tracking.children(parent))
        pending = [
            trial
            for trial in trials
            if trial.key not in runs
            or (runs[trial.key].end_reason == WORKER_DIED and deaths[trial.key] < ATTEMPTS)
        ]
