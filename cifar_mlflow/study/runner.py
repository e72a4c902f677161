"""Run many trials: on every core or machine, resuming interrupted ones, then summarise them."""

from collections import Counter
from collections.abc import Sequence

import joblib

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import say
from cifar_mlflow.data.cifar10 import Cifar10
from cifar_mlflow.data.load import load
from cifar_mlflow.errors import Failure, WorkerDied
from cifar_mlflow.formatting import counted, duration
from cifar_mlflow.parameters import StudyOptions
from cifar_mlflow.store import claims, query, resume, tracking
from cifar_mlflow.store.runs import CHECKPOINT_LOST, Parent, Status, TrackedRun
from cifar_mlflow.study import engines, timing
from cifar_mlflow.study.plan import outline, remainder
from cifar_mlflow.study.progress import Watch
from cifar_mlflow.study.summary import summarise_study
from cifar_mlflow.study.trial import (
    Train,
    TrialOptions,
    origins,
    repeated_failure,
    run_child,
    train_and_log,
)
from cifar_mlflow.training.devices import check_precision
from cifar_mlflow.training.origin import OF_A_RESULT, differences

RETRIED_ALONE = "a worker running this trial or a concurrent one died; the trial is retried alone"


def run_study(trials: Sequence[TrialConfig], options: StudyOptions) -> bool:
    """Run every trial under one parent run, and summarise them.

    Returns:
        Whether all trials finished.

    Raises:
        UsageError: the data, the engine or the precision is not available, a validation fraction leaves
            no image, or nothing can be resumed as requested.
        Superseded: another command has resumed this study.
    """
    data = load(options.data_dir)
    for fraction in {trial.validation_fraction for trial in trials}:
        data.split(fraction)
    if options.address == "local":
        for precision in {trial.precision for trial in trials}:
            check_precision(precision)
    say("Data", str(data))
    key = claims.plan_key(trials, data)
    with (
        tracking.tracked_run(options.kind) as run,
        claims.claim(run, key, options.resume) as previous,
        engines.started(options, len(trials), run.as_parent().tracking_uri) as engine,
    ):
        parent = run.as_parent()
        say("Study", outline(trials, engine.workers, engine.threads))
        tracking.log_parameters(options)
        tracking.log_environment(engine.threads)
        tracking.log_dataset(data, "training")
        if previous:
            take_over(previous, trials, options, engine, parent)
        if options.address == "local":
            say_expected_time(trials, data, engine, parent)
        try:
            with Watch(parent, trials):
                repeated = train_all(trials, data, engine, options, parent)
        finally:
            # Trials of an interrupted study, and of workers that it lost the connection to.
            for trial in query.children(parent, query.RUNNING):
                tracking.end_run(trial.run_id, "the study was interrupted")
        for trial in query.children(parent, f"tags.{CHECKPOINT_LOST} != ''"):
            say("Retrained", f"{trial.name}; the checkpoint is lost: {trial.checkpoint_lost}")
        if repeated:
            say("Stopped", f"{options.max_same_failures} trials failed alike: {repeated}")
        finished = summarise_study(trials, data, options, parent)
        if not finished:
            tracking.tag_end_reason(repeated or "not every trial finished")
        return finished


def take_over(
    previous: Sequence[claims.UnfinishedRun],
    trials: Sequence[TrialConfig],
    options: StudyOptions,
    engine: engines.Engine,
    parent: Parent,
) -> None:
    """Take over the trials of interrupted runs of the study, and say how many there are.

    Finished trials of another network or other versions are marked; or they stay where they are, and
    are retrained here.
    """
    earlier = resume.previous_trials(previous, parent)
    finished = [run for run in earlier if run.status == Status.FINISHED]
    outdated = find_outdated(finished, trials, engine)
    keep = options.outdated == "keep"
    adopted = [run for run in earlier if keep or run.run_id not in outdated]
    for run in adopted:
        tracking.mark_outdated(run, outdated.get(run.run_id, ""))
    resume.adopt_trials(adopted, previous, parent)
    done = {run.key for run in adopted if run.status == Status.FINISHED}
    part_done = {run.key: run.epochs for run in adopted if run.checkpoint and run.key not in done}
    left = remainder([trial for trial in trials if trial.key not in done], part_done)
    studies = " and ".join(study.run_id for study in previous)
    say(
        "Resuming",
        f"study {studies}: {len(done)} of {len(trials)} finished, {len(part_done)} part-done; {left}",
    )
    if outdated:
        fate = "kept (outdated=retrain trains them again)" if keep else "trained again"
        first, *others = sorted(set(outdated.values()))
        more = f" (and {len(others)} more; results.csv has all)" if keep and others else ""
        say("Outdated", f"{counted(len(outdated), 'trial')}, {fate}: {first}{more}")


def find_outdated(
    finished: Sequence[TrackedRun], trials: Sequence[TrialConfig], engine: engines.Engine
) -> dict[str, str]:
    """How the origins of finished trials differ from the workers' present ones, by run id.

    Trials of the same network and versions are left out.
    """
    if not finished:
        return {}
    by_key = {trial.key: trial for trial in trials}
    configurations = [by_key[run.key].configuration for run in finished]
    distinct = list(dict.fromkeys(configurations))
    (present,) = engine.run([joblib.delayed(origins)(distinct, engine.threads)])
    now = dict(zip(distinct, present, strict=True))
    how = {
        run.run_id: differences(run.origin, now[configuration], OF_A_RESULT)
        for run, configuration in zip(finished, configurations, strict=True)
    }
    return {run_id: text for run_id, text in how.items() if text}


def say_expected_time(
    trials: Sequence[TrialConfig], data: Cifar10, engine: engines.Engine, parent: Parent
) -> None:
    """Say how long the trials will train, if earlier ones on this host show it."""
    runs = query.latest(query.children(parent))
    comparable = timing.comparable_trials(parent.experiment_id, data, engine.threads)
    if seconds := timing.expected_seconds(trials, runs, comparable, engine.workers):
        say("Time", f"about {duration(seconds)} of training, by earlier trials on this host")


def train_all(
    trials: Sequence[TrialConfig],
    data: Cifar10,
    engine: engines.Engine,
    options: StudyOptions,
    parent: Parent,
    train: Train = train_and_log,
) -> str | None:
    """Run the trials that are not finished in the store, round by round, while one is worth trying.

    Trials that failed before the study was resumed come last, so that the others are tried first.

    Args:
        train: see `run_child`.

    Returns:
        The reason that so many trials failed for, one after another, that the study stopped; None if
        it did not stop.

    Raises:
        Superseded: another process presumed this one dead, and has resumed its study.
        WorkerDied: a worker died while no trial was running.
    """
    each = TrialOptions(
        engine.threads, options.tensorboard, options.retries, options.max_same_failures
    )
    failures: Counter[str] = Counter()
    alone: set[str] = set()  # keys of trials that ran when a worker died: each is retried alone
    while True:
        runs = query.latest(query.children(parent))
        pending = [
            trial
            for trial in trials
            if (trial.key not in runs or runs[trial.key].status != Status.FINISHED)
            and failures[trial.key] <= options.retries
        ]
        if not pending:
            return None
        pending.sort(key=lambda trial: trial.key in runs and runs[trial.key].was_tried)
        batch = [trial for trial in pending if trial.key not in alone] or pending[:1]
        jobs = [joblib.delayed(run_child)(trial, data, each, parent, train) for trial in batch]
        try:
            engine.run(jobs)
        except WorkerDied as death:
            alone |= end_running(parent, death)
        tracking.raise_if_superseded()
        if repeated := repeated_failure(parent, options.max_same_failures):
            return repeated
        runs = query.latest(query.children(parent))
        for trial in batch:
            run = runs.get(trial.key)
            if run and run.status == Status.FAILED:
                hopeless = run.failure is Failure.DIVERGED
                failures[trial.key] += options.retries + 1 if hopeless else 1


def end_running(parent: Parent, death: WorkerDied) -> set[str]:
    """End the trials that ran when a worker died; gives the keys of those to be retried alone.

    A trial that ran by itself is the one that failed. Of several nobody knows whose worker died.

    Raises:
        WorkerDied: ``death``, if no trial was running.
    """
    running = query.children(parent, query.RUNNING)
    if not running:
        raise death
    if len(running) == 1:
        tracking.end_run(running[0].run_id, death)
        return set()
    for run in running:
        tracking.end_run(run.run_id, RETRIED_ALONE)
    return {run.key for run in running}
