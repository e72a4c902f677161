"""Many trials: run them on every core or machine, go on from interrupted ones, and conclude."""

from collections import Counter
from collections.abc import Sequence

import joblib

from cifar_mlflow import errors
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import say
from cifar_mlflow.data.cifar10 import Cifar10
from cifar_mlflow.data.load import load
from cifar_mlflow.formatting import counted
from cifar_mlflow.parameters import StudyOptions
from cifar_mlflow.store import claims, resume, tracking
from cifar_mlflow.study import engines
from cifar_mlflow.study.plan import outline, remainder
from cifar_mlflow.study.progress import Watch
from cifar_mlflow.study.summary import conclude
from cifar_mlflow.study.trial import DIVERGED, WORKER_DIED, origins, repeated_failure, run_child
from cifar_mlflow.training.origin import OF_A_RESULT, differences

BESIDE = "a worker died, of this trial or of one beside it; it goes on alone"


def run_study(trials: Sequence[TrialConfig], options: StudyOptions) -> bool:
    """Run every trial under one parent run and conclude; tells whether all finished.

    Raises:
        UsageError: the data or the engine cannot be had, a validation fraction leaves no image, or
            nothing can be resumed as asked.
    """
    data = load(options.data_dir)
    for fraction in {trial.validation_fraction for trial in trials}:
        data.split(fraction)
    say("Data", str(data))
    with (
        tracking.tracked_run(options.kind) as run,
        claims.claimed(
            run,
            claims.plan_key(trials, data),
            options.resume,
            tell=say,
        ) as before,
        engines.started(options, len(trials), tracking.uri()) as engine,
    ):
        parent = run.as_parent()
        say("Study", outline(trials, engine.workers, engine.threads))
        tracking.log_parameters(options)
        tracking.log_environment(engine.threads)
        tracking.log_dataset(data, "training")
        if before:
            take_over(before, trials, options, engine, parent)
        try:
            with Watch(parent, trials):
                stopped = train_all(trials, data, engine, options, parent)
        finally:
            # Those of an interrupted study, and of workers that it was cut off from.
            for trial in tracking.children(parent, tracking.RUNNING):
                tracking.end_run(trial.run_id, "KILLED", "the study was interrupted")
        for trial in tracking.children(parent, f"tags.{tracking.CHECKPOINT_LOST} != ''"):
            lost = f"{trial.name}; the checkpoint is lost: {trial.checkpoint_lost}"
            say("Retrained", lost)
        if stopped:
            say("Stopped", f"after the same failure again and again: {stopped}")
        finished = conclude(trials, data, options, parent)
        if not finished:
            tracking.tag_end_reason(stopped or "not every trial finished")
        return finished


def take_over(
    before: Sequence[claims.Command],
    trials: Sequence[TrialConfig],
    options: StudyOptions,
    engine: engines.Engine,
    parent: tracking.Parent,
) -> None:
    """Keep what interrupted runs of the study have left, and say what that is.

    Finished trials of another network or versions are marked, or left where they are, to be trained
    again here.
    """
    left = resume.left_trials(before, parent)
    outdated = find_outdated([run for run in left if run.status == "FINISHED"], trials, engine)
    keep = options.outdated == "keep"
    kept = [run for run in left if keep or run.run_id not in outdated]
    for run in kept:
        tracking.mark_outdated(run, outdated.get(run.run_id, ""))
    resume.adopt_trials(kept, before, parent)
    finished = {run.key for run in kept if run.status == "FINISHED"}
    part_done = {run.key: run.epochs for run in kept if run.checkpoint and run.key not in finished}
    left_over = remainder([trial for trial in trials if trial.key not in finished], part_done)
    names = " and ".join(command.run_id for command in before)
    say(
        "Resuming",
        f"study {names}: {len(finished)} of {len(trials)} finished, {len(part_done)} part-done; "
        f"{left_over}",
    )
    if outdated:
        fate = "kept (outdated=retrain trains them again)" if keep else "trained again"
        first, *others = sorted(set(outdated.values()))
        more = f" (and {len(others)} more; results.csv has all)" if keep and others else ""
        say("Outdated", f"{counted(len(outdated), 'trial')}, {fate}: {first}{more}")


def find_outdated(
    finished: Sequence[tracking.TrackedRun], trials: Sequence[TrialConfig], engine: engines.Engine
) -> dict[str, str]:
    """How the origins of finished trials differ from what the workers have now, by run id.

    Those that are of the same network and versions are left out.
    """
    if not finished:
        return {}
    by_key = {trial.key: trial for trial in trials}
    configurations = [by_key[run.key].configuration for run in finished]
    distinct = list(dict.fromkeys(configurations))
    (found,) = engine.run([joblib.delayed(origins)(distinct, engine.threads)])
    now = dict(zip(distinct, found, strict=True))
    how = {
        run.run_id: differences(run.origin, now[configuration], OF_A_RESULT)
        for run, configuration in zip(finished, configurations, strict=True)
    }
    return {run_id: text for run_id, text in how.items() if text}


def train_all(
    trials: Sequence[TrialConfig],
    data: Cifar10,
    engine: engines.Engine,
    options: StudyOptions,
    parent: tracking.Parent,
) -> str | None:
    """Run what the store does not say is finished, again and again, until nothing is worth trying.

    What failed before the study was resumed comes last, so that it cannot keep the rest from being tried.

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
        pending.sort(key=lambda trial: trial.key in runs and runs[trial.key].failure != "")
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
        except errors.WorkerDied:
            hit = tracking.children(parent, tracking.RUNNING)
            for run in hit:
                if len(hit) > 1:
                    tracking.end_run(run.run_id, "KILLED", BESIDE)
                    alone.add(run.key)
                else:
                    tracking.end_run(run.run_id, "FAILED", WORKER_DIED, failure="WorkerDied")
            if not hit:
                raise
        tracking.check_wanted()
        if cause := repeated_failure(parent):
            return cause
        tried = {trial.key for trial in batch}
        for key, run in tracking.latest(tracking.children(parent)).items():
            if key in tried and run.status == "FAILED":
                failures[key] += options.retries + 1 if run.failure == DIVERGED else 1
