"""One trial, from configuration to finished run: train, evaluate, log."""

import io
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pandas as pd

from cifar_mlflow.analysis import figures, metrics
from cifar_mlflow.analysis.artifacts import model_artifacts
from cifar_mlflow.config import Parameters, TrialConfig
from cifar_mlflow.console import say
from cifar_mlflow.data.dataset import DataSet, Splits
from cifar_mlflow.data.load import on_this_host
from cifar_mlflow.errors import DataError, Failure, Paused, Superseded, UsageError, WorkerDied
from cifar_mlflow.parameters import StudyOptions
from cifar_mlflow.processes import interruptions
from cifar_mlflow.store import claims, query, resume, tracking
from cifar_mlflow.store.runs import KIND, ROUND, TRIAL, TRIAL_KEY, Parent, Status, TrackedRun
from cifar_mlflow.study.engines import Engine
from cifar_mlflow.study.plan import check_data
from cifar_mlflow.training.checkpoint import Checkpoint, best
from cifar_mlflow.training.devices import check_precision
from cifar_mlflow.training.origin import Origin

if TYPE_CHECKING:
    from cifar_mlflow.training.fit import Trained


@dataclass(frozen=True)
class TrialOptions:
    """How trials run; small to pickle. Of these only `threads` can change results, in the last bits."""

    threads: int
    tensorboard: bool = False
    retries: int = 0
    max_same_failures: int = 3
    kind: str = TRIAL  # of their runs
    restarts: bool = False  # the engine runs a trial again by itself if its worker dies
    round: int | None = None  # of a search
    pause_after: int | None = None  # the epoch; None trains to the end

    @classmethod
    def of(cls, options: StudyOptions, engine: Engine, kind: str = TRIAL) -> Self:
        """As a study asks for them."""
        return cls(
            engine.threads,
            options.tensorboard,
            options.retries,
            options.max_same_failures,
            kind,
            engine.restarts,
        )

    @property
    def tags(self) -> dict[str, str]:
        """Those of their runs, besides their kind and key."""
        return {} if self.round is None else {ROUND: str(self.round)}

    @property
    def where(self) -> str:
        """The condition by which their runs are found under their parent."""
        conditions = {KIND: self.kind, **self.tags}
        return " and ".join(f"tags.{name} = '{value}'" for name, value in conditions.items())


Say = Callable[[str, str], None]  # a topic, and a line of text about it
Train = Callable[[TrialConfig, DataSet, TrialOptions, Sequence[TrackedRun], Say], None]


# Train, evaluate, log -------------------------------------------------------------------------


def train_and_log(
    config: TrialConfig,
    data: DataSet,
    options: TrialOptions,
    attempts: Sequence[TrackedRun],
    say: Say,
) -> None:
    """Train a trial in the active run, evaluate it on the test set, and log everything."""
    from cifar_mlflow.training import fit

    _begin(config, data, options)
    trained = _train(config, data, options, attempts, say)
    test = data.examples("test")
    probabilities = fit.predict(trained.model, test)
    predictions = metrics.prediction_table(probabilities, test.labels, data.classes)
    _log_model(config, data, trained, predictions)
    tracking.raise_if_superseded()


def train_candidate(
    config: TrialConfig,
    data: DataSet,
    options: TrialOptions,
    attempts: Sequence[TrackedRun],
    say: Say,
) -> None:
    """Train a search's trial in the active run, and log how it validates: no test images, no model.

    Raises:
        Paused: it has reached the epoch to pause after.
    """
    _begin(config, data, options)
    trained = _train(config, data, options, attempts, say)
    splits = data.split(config.validation_fraction)
    tracking.log_metrics(_training_metrics(config, splits, trained), data)
    tracking.raise_if_superseded()


def _begin(config: TrialConfig, data: DataSet, options: TrialOptions) -> None:
    """Prepare this process for a trial, and log on the active run all that its result depends on."""
    from cifar_mlflow.training import fit  # takes seconds

    fit.configure(options.threads)
    tracking.log_trial(config)
    tracking.log_environment(options.threads, fit.origin(config, data))
    tracking.log_dataset(data, "training")


def _train(
    config: TrialConfig,
    data: DataSet,
    options: TrialOptions,
    attempts: Sequence[TrackedRun],
    say: Say,
) -> "Trained":
    """Train from the newest checkpoint, or from the first epoch; each epoch is logged and saved."""
    from cifar_mlflow.training import fit

    def pause_at_rung(checkpoint: Checkpoint) -> None:
        if options.pause_after and len(checkpoint.history) >= options.pause_after:
            tracking.raise_if_superseded()
            raise Paused

    def check(checkpoint: Checkpoint) -> None:
        fit.restore(config, checkpoint, data)

    def on_epoch(checkpoint: Checkpoint) -> None:
        tracking.raise_if_superseded()
        resume.save_checkpoint(checkpoint)
        if interruptions:
            raise KeyboardInterrupt(interruptions[0])
        epoch = checkpoint.history[-1]
        parts = [f"{epoch.epoch}/{config.epochs}", f"train {epoch.train_accuracy:.3f}"]
        if epoch.val_accuracy is not None:
            parts.append(f"val {epoch.val_accuracy:.3f}")
        say("Epoch", "  ".join([*parts, f"{epoch.epoch_seconds:.1f} s"]))
        pause_at_rung(checkpoint)

    start = resume.resume_from(attempts, check)
    if start:
        say("Resuming", f"after epoch {len(start.history)}")
        pause_at_rung(start)  # it was interrupted just before
    elif lost := query.read(query.active().run_id).checkpoint_lost:
        say("Retrained", f"from the first epoch; the checkpoint is lost: {lost}")
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) if options.tensorboard else None
        try:
            trained = fit.train(config, data, on_epoch=on_epoch, start=start, tensorboard=events)
        except Paused:
            _log_events(events)
            raise
        _log_events(events)
    return trained


def _log_events(folder: Path | None) -> None:
    if folder:
        tracking.log_folder(folder, "tensorboard")


def _log_model(
    config: TrialConfig, data: DataSet, trained: "Trained", predictions: pd.DataFrame
) -> None:
    """Log the model with its metrics, and the figures and tables of its results.

    Args:
        predictions: `metrics.prediction_table` of the test set.
    """
    from cifar_mlflow.training import network

    result = metrics.evaluate(predictions)
    splits = data.split(config.validation_fraction)
    tracking.log_model(
        trained.model,
        data,
        metrics={**result.metrics("test"), **_training_metrics(config, splits, trained)},
        parameters=config.model_dump(),
    )
    summary = io.StringIO()
    trained.model.summary(print_fn=lambda line: summary.write(line + "\n"), expand_nested=True)
    title = f"{config.name}, test images"
    model_figures, tables = model_artifacts(predictions, result, splits.test.images, title)
    history = pd.DataFrame(map(asdict, trained.history)).astype(float)  # None to NaN
    tracking.log_files(
        figures={"curves.png": figures.curves(history, config.name), **model_figures},
        tables={**tables, "layers.csv": network.layer_table(trained.model)},
        texts={"model_summary.txt": summary.getvalue()},
    )


def _training_metrics(config: TrialConfig, splits: Splits, trained: "Trained") -> dict[str, float]:
    """All metrics of a finished training that need no test images."""
    train_seconds = sum(epoch.epoch_seconds for epoch in trained.history)
    return {
        **_validation_metrics(trained, len(splits.validation.labels)),
        "train_images": len(splits.train.labels),
        "kept_epoch": trained.kept.epoch,
        "parameters": trained.model.count_params(),
        "train_pflop": trained.flop / 1e15,
        "train_seconds": train_seconds,
        "images_per_second": len(splits.train.labels) * config.epochs / train_seconds,
    }


def _validation_metrics(trained: "Trained", images: int) -> dict[str, float]:
    """The metrics that need validation images; empty without any."""
    best_epoch = best(trained.history)
    named = {
        "best_val_accuracy": best_epoch.val_accuracy,
        "kept_val_accuracy": trained.val_accuracy,
        "kept_val_loss": trained.val_loss,
    }
    known = {name: value for name, value in named.items() if value is not None}
    numbers = {"best_epoch": best_epoch.epoch, "validation_images": images, **known}
    return numbers if known else {}


# The run of a trial ---------------------------------------------------------------------------


def run_trial(
    config: TrialConfig,
    data: DataSet,
    options: TrialOptions,
    resume_option: str,
    command: Parameters | None = None,
) -> TrackedRun:
    """Train, evaluate and track one configuration as this command's own run, and say how it goes.

    Args:
        resume_option: which interrupted runs of the same trial to resume, see `claims.claim`.
        command: the command's own parameters, to be logged besides the trial's.

    Raises:
        UsageError: nothing can be resumed as requested, or the run that `mlflow run` has created is not
            in the tracking store; or this machine lacks the precision, or the images are too small or too few.
        Superseded: another command has resumed the run meanwhile.
        MlflowException, OSError: the tracking store cannot be written.
    """
    check_precision(config.precision)
    check_data([config], data)
    with (
        trial_run(config, None, options) as run,
        claims.claim(run, claims.plan_key([config], data), resume_option) as previous,
    ):
        if command:
            tracking.log_parameters(command)
        attempts = [query.read(attempt.run_id) for attempt in previous]
        train_and_log(config, data, options, attempts, say)
    return _clean_up(run)


def run_child(
    config: TrialConfig,
    data: DataSet,
    options: TrialOptions,
    parent: Parent,
    attempts: Sequence[TrackedRun] = (),
    train: Train = train_and_log,
) -> None:
    """Train, evaluate and track one configuration as a child of a study's run, on any machine.

    The outcome is in the store. It resumes an earlier attempt under the same parent that left a
    checkpoint; a paused one in its own run. It does nothing if another worker has finished the trial, or
    brought it to where it pauses, or if the study has ended or stops. It searches the study only after a
    failure, or if the engine restarts trials: otherwise its cost does not grow with the number of trials.

    Args:
        attempts: earlier ones under the same parent, the oldest first.
        train: what a worker does with the trial; benchmarks and tests replace it.

    Raises:
        MlflowException, OSError: the tracking store cannot be written.
    """
    parent.connect()
    study = query.read(parent.run_id)
    if study.status != Status.RUNNING or study.stopped:
        return
    if options.restarts:  # the study does not know of an attempt that Dask has started by itself
        attempts = query.children(parent, f"{options.where} and tags.{TRIAL_KEY} = '{config.key}'")
    if any(attempt.has_reached(options.pause_after) for attempt in attempts):
        return
    for attempt in attempts:
        if attempt.status == Status.RUNNING:
            tracking.end_run(attempt.run_id, WorkerDied())
            deaths = sum(earlier.failure is Failure.WORKER_DIED for earlier in attempts)
            if _stop_after_failures(parent, options) or deaths >= options.retries:
                return
    with suppress(Superseded), trial_run(config, parent, options, attempts) as run:
        train(config, _local(data), options, attempts, lambda topic, text: None)
    if _clean_up(run).status == Status.FAILED:
        _stop_after_failures(parent, options)


@contextmanager
def trial_run(
    config: TrialConfig,
    parent: Parent | None,
    options: TrialOptions,
    attempts: Sequence[TrackedRun] = (),
) -> Iterator[TrackedRun]:
    """A trial's run. A failure ends the run FAILED and goes no further: the store has its cause.

    Args:
        attempts: earlier ones; the run of a paused one goes on.

    Raises:
        UsageError, Superseded, KeyboardInterrupt: as the block does.
        MlflowException, OSError: the store cannot be written, not even to end the run.
    """
    paused = next((attempt for attempt in attempts if attempt.status == Status.PAUSED), None)
    if paused:
        run = tracking.continue_run(paused)
    else:
        tags = {TRIAL_KEY: config.key, **options.tags}
        run = tracking.start_run(options.kind, config.name, parent, tags)
    try:
        yield run
    except Paused:
        tracking.pause_run()
    except BaseException as error:
        raised = KeyboardInterrupt(interruptions[0]) if interruptions else error
        tracking.fail_run(raised)
        if isinstance(raised, UsageError | Superseded) or not isinstance(raised, Exception):
            raise raised from error
    else:
        tracking.finish_run()


def _stop_after_failures(parent: Parent, options: TrialOptions) -> str | None:
    """If the last trials all failed alike, let the study start no more; gives their reason."""
    reason = repeated_failure(parent, options.max_same_failures)
    if reason:
        tracking.tag_stopped(parent, reason)
    return reason


def repeated_failure(parent: Parent, max_same_failures: int) -> str | None:
    """The reason that the last ``max_same_failures`` trials to end all failed for, if there is one.

    Failures are the same if their messages are, apart from the run's own id. Trials that diverged do
    not count, because each diverged by its own configuration.
    """
    # An attempt that another one has resumed is KILLED.
    ended = f"attributes.status != '{Status.RUNNING}' and attributes.status != '{Status.KILLED}'"
    last = query.children(parent, ended, limit=max_same_failures)
    if len(last) < max_same_failures or any(run.status != Status.FAILED for run in last):
        return None
    if any(run.failure is Failure.DIVERGED for run in last):
        return None
    # A path in the message may contain the run's id.
    first, *others = {run.end_reason.replace(run.run_id, "…") for run in last}
    return None if others else first


def origins(trials: Sequence[TrialConfig], data: DataSet, threads: int) -> list[Origin]:
    """The origin that each trial would have here and now; imports TensorFlow, so run in a worker."""
    from cifar_mlflow.training import fit

    fit.configure(threads)
    return [fit.origin(trial, data) for trial in trials]


def _local(data: DataSet) -> DataSet:
    try:
        return on_this_host(data)
    except DataError as error:
        raise LookupError(f"on {platform.node()}: {error}") from error


def _clean_up(run: TrackedRun) -> TrackedRun:
    """The run as it ended; a finished one no longer needs its checkpoint."""
    ended = query.read(run.run_id)
    if ended.status == Status.FINISHED:
        resume.delete_checkpoint(ended.run_id)
    return ended
