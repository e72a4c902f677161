"""Many trials: run them on every core or machine, go on from interrupted ones, and conclude."""

from collections import Counter
from collections.abc import Sequence

import joblib
from rich.console import Console

from cifar_mlflow import engines, resuming, tracking
from cifar_mlflow.conclusion import conclude
from cifar_mlflow.config import StudyOptions, TrialConfig
from cifar_mlflow.data import Cifar10, load
from cifar_mlflow.plan import outline
from cifar_mlflow.terminal import Watch, say
from cifar_mlflow.trial import WORKER_DIED, repeated_failure, run_child

BESIDE = "a worker died, of this trial or of one beside it; it goes on alone"
HOPELESS = "Diverged"  # a trial is a function of its configuration: it would diverge again


def run_study(trials: Sequence[TrialConfig], options: StudyOptions, console: Console) -> bool:
    """Run every trial under one parent run and conclude; tells whether all finished.

    Raises:
        UsageError: the data or the engine cannot be had, a validation fraction leaves no image, or
            nothing can be resumed as asked.
    """
    data = load(options.data_dir)
    for fraction in {trial.validation_fraction for trial in trials}:
        data.split(fraction)
    say(console, "Data", str(data))
    with (
        tracking.tracked_run(options.kind) as run,
        resuming.claimed(run, resuming.plan_key(trials, data), options.resume) as before,
        engines.started(options, len(trials), tracking.uri()) as engine,
    ):
        parent = tracking.as_parent(run)
        say(console, "Study", outline(trials, engine.workers, engine.threads))
        tracking.log_parameters(options)
        tracking.log_environment(engine.threads)
        tracking.log_dataset(data, "training")
        kept = resuming.adopt_trials(before, parent)
        if before:
            count = sum(trial.status == "FINISHED" for trial in kept)
            names = " and ".join(command.run_id for command in before)
            say(
                console,
                "Resuming",
                f"study {names}: {count} of {len(trials)} finished, {len(kept) - count} part-done",
            )
        try:
            with Watch(parent, trials, console):
                stopped = train_all(trials, data, engine, options, parent)
        finally:
            # Those of an interrupted study, and of workers that it was cut off from.
            for trial in tracking.children(parent, tracking.RUNNING):
                tracking.end_run(trial, "KILLED", "the study was interrupted")
        for trial in tracking.children(parent, f"tags.{tracking.CHECKPOINT_LOST} != ''"):
            lost = f"{trial.name}; the checkpoint is lost: {trial.checkpoint_lost}"
            say(console, "Retrained", lost)
        if stopped:
            say(console, "Stopped", f"after the same failure again and again: {stopped}")
        finished = conclude(trials, data, options, parent, console)
        if not finished:
            tracking.tag_end_reason(stopped or "not every trial finished")
        return finished


def train_all(
    trials: Sequence[TrialConfig],
    data: Cifar10,
    engine: engines.Engine,
    options: StudyOptions,
    parent: tracking.Parent,
) -> str | None:
    """Run what the store does not say is finished, again and again, until nothing is worth trying.

    Gives the cause by which so many trials failed, one after another, that the rest was not tried.

    Raises:
        Superseded: another process thought this one dead, and has gone on from its study.
    """
    failures: Counter[str] = Counter()
    alone: set[str] = set()  # trials that ran when a worker died: each gets the workers to itself
    while True:
        runs = tracking.latest(tracking.children(parent))
        pending = [
            trial
            for trial in trials
            if (trial.key not in runs or runs[trial.key].status != "FINISHED")
            and failures[trial.key] <= options.retries
        ]
        if not pending:
            return None
        together = [trial for trial in pending if trial.key not in alone]
        batch = together or pending[:1]
        try:
            engine.run(
                [
                    joblib.delayed(run_child)(
                        trial, data, engine.threads, options.tensorboard, options.retries, parent
                    )
                    for trial in batch
                ]
            )
        except engines.WorkerDied:
            hit = tracking.children(parent, tracking.RUNNING)
            for run in hit:
                if len(hit) > 1:
                    tracking.end_run(run, "KILLED", BESIDE)
                    alone.add(run.key)
                else:
                    tracking.end_run(run, "FAILED", WORKER_DIED)
            if not hit:
                raise
        tracking.check_wanted()
        if cause := repeated_failure(parent):
            return cause
        tried = {trial.key for trial in batch}
        for key, run in tracking.latest(tracking.children(parent)).items():
            if key in tried and run.status == "FAILED":
                failures[key] += options.retries + 1 if run.end_reason.startswith(HOPELESS) else 1
