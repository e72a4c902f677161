"""Run many trials: on every core or machine, resuming interrupted ones; then choose the best model."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import joblib

from cifar_mlflow import console
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import Lines, say
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.data.load import load
from cifar_mlflow.errors import Failure, WorkerDied
from cifar_mlflow.formatting import counted, duration
from cifar_mlflow.parameters import StudyOptions
from cifar_mlflow.store import claims, query, resume, tracking
from cifar_mlflow.store.runs import (
    CHECKPOINT,
    CHECKPOINT_LOST,
    KIND,
    REFIT,
    TRIAL,
    Parent,
    Status,
    TrackedRun,
)
from cifar_mlflow.study import engines, timing
from cifar_mlflow.study.plan import check_data, outline, remainder
from cifar_mlflow.study.progress import Watch
from cifar_mlflow.study.summary import Finished, Summary, end_study, summarise_study
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
    """Run every trial under one parent run, choose the best, refit it if asked to, and register it.

    Returns:
        Whether all trials finished, and the refit.

    Raises:
        UsageError: the data, the engine or the precision is not available, a validation fraction leaves
            no image, a network takes larger images, or nothing can be resumed as requested.
        Superseded: another command has resumed this study.
    """
    data = load_data(trials, options)
    key = claims.plan_key(trials, data)
    with claimed_run(key, options) as (parent, previous):
        with tracked_engine(len(trials), data, options, parent) as engine:
            say("Study", outline(trials, engine.workers, engine.threads))
            if previous:
                take_over(previous, trials, data, options, engine, parent)
            if options.address == "local":
                say_expected_time(trials, data, engine, parent)
            repeated = run_trials(trials, data, engine, options, parent)
        summary = summarise_study(trials, data, options, parent)
        return conclude(summary, repeated, data, options, parent)


# The parts that all studies share -------------------------------------------------------------


def load_data(trials: Sequence[TrialConfig], options: StudyOptions) -> DataSet:
    """The data of a study, once it is sure that its trials can be trained on it here.

    Raises:
        UsageError: as `run_study` does.
    """
    data = load(options.data_dir, options.image_size)
    check_data(trials, data)
    if options.address == "local":
        for precision in {trial.precision for trial in trials}:
            check_precision(precision)
    say("Data", str(data))
    return data


@contextmanager
def claimed_run(
    key: str, options: StudyOptions
) -> Iterator[tuple[Parent, list[claims.UnfinishedRun]]]:
    """A study's run, with its plan claimed, and the interrupted runs that it resumes."""
    with (
        tracking.tracked_run(options.kind) as run,
        claims.claim(run, key, options.resume) as previous,
    ):
        yield run.as_parent(), previous


@contextmanager
def tracked_engine(
    trials: int, data: DataSet, options: StudyOptions, parent: Parent
) -> Iterator[engines.Engine]:
    """The engine for so many trials at once; all that they depend on is logged on the study's run."""
    with engines.started(options, trials, parent.tracking_uri) as engine:
        tracking.log_parameters(options)
        tracking.log_environment(engine.threads)
        tracking.log_dataset(data, "training")
        yield engine


def conclude(
    summary: Summary, repeated: str | None, data: DataSet, options: StudyOptions, parent: Parent
) -> bool:
    """Refit the best trial if asked to, register the model, and say what is missing.

    Args:
        repeated: the reason that the study stopped for, if it did.

    Returns:
        Whether nothing is missing.
    """
    model = summary.best
    if model and options.refits:
        model = None if repeated else refit(model, data, options, parent)
    end_study(summary, model, data, options, parent.tracking_uri)
    finished = summary.complete and model is not None
    if not finished:
        missing = "the refit did not finish" if summary.complete else "not every trial finished"
        tracking.tag_end_reason(repeated or missing)
    return finished


def refit(best: Finished, data: DataSet, options: StudyOptions, parent: Parent) -> Finished | None:
    """Train the best trial again, on all training images, with all cores; None if it does not finish.

    A study that was interrupted meanwhile goes on with the refit's checkpoint, or keeps what is finished.
    """
    trial = best.trial.on_all_images
    begun = query.latest(query.children(parent)).get(trial.key)
    with engines.started(options, 1, parent.tracking_uri) as engine:
        left = remainder([trial], {trial.key: timing.epochs_done(begun)})
        threads = counted(engine.threads, "thread")
        say("Refit", f"the best trial, on all training images, {threads}; {left}")
        run_trials([trial], data, engine, options, parent, REFIT)
    run = query.latest(query.children(parent)).get(trial.key)
    if run is None or run.status != Status.FINISHED:
        say("Failed", f"the refit: {run.end_reason if run else 'not run'}")
        return None
    tracking.tag_refit(run, best.run)
    return Finished(trial, run)


def run_trials(
    trials: Sequence[TrialConfig],
    data: DataSet,
    engine: engines.Engine,
    options: StudyOptions,
    parent: Parent,
    kind: str = TRIAL,
) -> str | None:
    """`train_all`, shown while it goes on."""
    each = TrialOptions.of(options, engine, kind)
    epochs = sum(trial.epochs for trial in trials)
    with shown(Watch(parent, kind, len(trials), epochs)):
        repeated = train_all(trials, data, engine, each, parent)
    say_stopped(repeated, options)
    return repeated


@contextmanager
def shown(watch: Watch) -> Iterator[None]:
    """Show the trials while the block runs them; after it none runs, and it is said what went wrong.

    Workers that were killed may have left checkpoints of finished trials, which are deleted.
    """
    lost = f"tags.{KIND} = '{watch.kind}' and tags.{CHECKPOINT_LOST} != ''"
    said = {trial.run_id for trial in query.children(watch.parent, lost)}  # by an earlier command
    try:
        with watch:
            yield
    finally:
        # Trials of an interrupted study, and of workers that it lost the connection to.
        for trial in query.children(watch.parent, query.RUNNING):
            tracking.end_run(trial.run_id, "the study was interrupted")
    done = f"attributes.status = '{Status.FINISHED}' and tags.{CHECKPOINT} != ''"
    for trial in query.children(watch.parent, done):
        resume.delete_checkpoint(trial.run_id)
    for trial in query.children(watch.parent, lost):
        if trial.run_id not in said:
            say("Retrained", f"{trial.name}; the checkpoint is lost: {trial.checkpoint_lost}")


def say_stopped(repeated: str | None, options: StudyOptions) -> None:
    if repeated:
        say(
            "Stopped",
            f"{options.max_same_failures} trials in a row failed with the same message: {repeated}",
        )


def take_over(
    previous: Sequence[claims.UnfinishedRun],
    trials: Sequence[TrialConfig],
    data: DataSet,
    options: StudyOptions,
    engine: engines.Engine,
    parent: Parent,
) -> None:
    """Take over the trials of interrupted runs of the study, and say how many there are.

    A refit is taken over like a trial, if this study refits too.
    """
    refits = [trial.on_all_images for trial in trials] if options.refits else []
    planned = {trial.key for trial in (*trials, *refits)}
    earlier = [run for run in resume.previous_trials(previous, parent) if run.key in planned]
    adopted, outdated = adopt(earlier, previous, data, options, engine, parent)
    own = [run for run in adopted if run.kind != REFIT]
    done = {run.key for run in own if run.status == Status.FINISHED}
    part_done = {run.key: run.epochs for run in own if run.checkpoint and run.key not in done}
    left = remainder([trial for trial in trials if trial.key not in done], part_done)
    studies = " and ".join(study.run_id for study in previous)
    say(
        "Resuming",
        f"study {studies}: {len(done)} of {len(trials)} finished, {len(part_done)} part-done; {left}",
    )
    console.say_lines(outdated)


def adopt(
    earlier: Sequence[TrackedRun],
    previous: Sequence[claims.UnfinishedRun],
    data: DataSet,
    options: StudyOptions,
    engine: engines.Engine,
    parent: Parent,
) -> tuple[list[TrackedRun], Lines]:
    """Move earlier trials under this study; gives those that were moved, and what to say.

    Those of another network or other versions are marked; or they stay where they are, and are retrained
    here.

    Args:
        previous: the interrupted runs of the study, which end.
    """
    results = [run for run in earlier if run.status in (Status.FINISHED, Status.PAUSED)]
    outdated = find_outdated(results, data, engine)
    keep = options.outdated == "keep"
    adopted = [run for run in earlier if keep or run.run_id not in outdated]
    for run in adopted:
        tracking.mark_outdated(run, outdated.get(run.run_id, ""))
    resume.adopt_trials(adopted, previous, parent)
    if not outdated:
        return adopted, []
    fate = "kept (outdated=retrain trains them again)" if keep else "trained again"
    first, *others = sorted(set(outdated.values()))
    more = f" (and {len(others)} more; see their tag outdated)" if keep and others else ""
    text = f"{counted(len(outdated), 'trial')}, {fate}: {first}{more}"
    return adopted, [("Outdated", text)]


def find_outdated(
    finished: Sequence[TrackedRun], data: DataSet, engine: engines.Engine
) -> dict[str, str]:
    """How the origins of finished trials differ from the workers' present ones, by run id.

    Trials of the same network and versions are left out.
    """
    if not finished:
        return {}
    configurations = [run.config.configuration for run in finished]
    distinct = list(dict.fromkeys(configurations))
    (present,) = engine.run([joblib.delayed(origins)(distinct, data, engine.threads)])
    now = dict(zip(distinct, present, strict=True))
    how = {
        run.run_id: differences(run.origin, now[configuration], OF_A_RESULT)
        for run, configuration in zip(finished, configurations, strict=True)
    }
    return {run_id: text for run_id, text in how.items() if text}


def say_expected_time(
    trials: Sequence[TrialConfig], data: DataSet, engine: engines.Engine, parent: Parent
) -> None:
    """Say how long the trials will train, if earlier ones on this host show it."""
    runs = query.latest(query.children(parent))
    comparable = timing.comparable_trials(parent.experiment_id, data, engine.threads)
    if seconds := timing.expected_seconds(trials, runs, comparable, engine.workers):
        say(
            "Time",
            f"about {duration(seconds)} of training, estimated from earlier trials on this host",
        )


def train_all(
    trials: Sequence[TrialConfig],
    data: DataSet,
    engine: engines.Engine,
    each: TrialOptions,
    parent: Parent,
    train: Train = train_and_log,
) -> str | None:
    """Run the trials that are not done in the store, round by round, while one is worth trying.

    Trials that failed before the study was resumed come last, so that the others are tried first.

    Args:
        each: how they run; a trial is done if it has reached what this says.
        train: see `run_child`.

    Returns:
        The reason that so many trials failed for, one after another, that the study stopped; None if
        it did not stop.

    Raises:
        Superseded: another process presumed this one dead, and has resumed its study.
        WorkerDied: a worker died while no trial was running.
    """
    failures: Counter[str] = Counter()  # by the trials' keys
    alone: set[str] = set()  # keys of trials that ran when a worker died: each is retried alone
    children = query.children(parent, each.where)
    while pending := pending_trials(trials, children, failures, each):
        batch = [trial for trial in pending if trial.key not in alone] or pending[:1]
        attempts = query.attempts(children)
        jobs = [
            joblib.delayed(run_child)(trial, data, each, parent, attempts.get(trial.key, []), train)
            for trial in batch
        ]
        try:
            engine.run(jobs)
        except WorkerDied as death:
            alone |= end_running(parent, death, at_once=min(len(batch), engine.workers))
        tracking.raise_if_superseded()
        stopped = query.read(parent.run_id).stopped
        if repeated := stopped or repeated_failure(parent, each.max_same_failures):
            return repeated
        before, children = children, query.children(parent, each.where)
        failures += new_failures(batch, before, children, each)
    return None


def pending_trials(
    trials: Sequence[TrialConfig],
    children: Sequence[TrackedRun],
    failures: Counter[str],
    each: TrialOptions,
) -> list[TrialConfig]:
    """The trials that are worth trying, those that failed before last.

    Args:
        children: their runs so far.
        failures: of each trial in this command, by its key.
    """
    runs = query.latest(children)
    pending = [
        trial
        for trial in trials
        if failures[trial.key] <= each.retries and is_pending(runs.get(trial.key), each)
    ]
    return sorted(pending, key=lambda trial: trial.key in runs and runs[trial.key].was_tried)


def new_failures(
    batch: Sequence[TrialConfig],
    before: Sequence[TrackedRun],
    after: Sequence[TrackedRun],
    each: TrialOptions,
) -> Counter[str]:
    """What the trials that have just run add to their failures, by key; one that diverged is given up.

    Args:
        before, after: the runs of all trials.
    """
    failed_before = {run.run_id for run in before if run.status == Status.FAILED}
    runs = query.latest(after)
    failed = (runs[trial.key] for trial in batch if trial.key in runs)
    return Counter(
        {
            run.key: each.retries + 1 if run.failure is Failure.DIVERGED else 1
            for run in failed
            if run.status == Status.FAILED and run.run_id not in failed_before
        }
    )


def is_pending(run: TrackedRun | None, each: TrialOptions) -> bool:
    """Whether a trial, whose run this is, is still to be trained."""
    return run is None or not (run.has_reached(each.pause_after) or run.given_up)


def end_running(parent: Parent, death: WorkerDied, at_once: int) -> set[str]:
    """End the trials that ran when a worker died; gives the keys of those to be retried alone.

    A trial that ran by itself is the one that failed. Of several nobody knows whose worker died; it may
    have been one whose run had not begun yet.

    Args:
        at_once: how many trials could run at the same time.

    Raises:
        WorkerDied: ``death``, if no trial was running.
    """
    running = query.children(parent, query.RUNNING)
    if not running:
        raise death
    for run in running:
        tracking.end_run(run.run_id, death if at_once == 1 else RETRIED_ALONE)
    return set() if at_once == 1 else {run.key for run in running}
