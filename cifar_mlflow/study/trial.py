"""One trial, from configuration to finished run."""

import io
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from cifar_mlflow.analysis import figures, metrics
from cifar_mlflow.analysis.artifacts import model_artifacts
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import Cifar10
from cifar_mlflow.data.load import on_this_host
from cifar_mlflow.errors import DataError
from cifar_mlflow.parameters import TrainingOptions
from cifar_mlflow.store import claims, resume, tracking
from cifar_mlflow.training.checkpoint import Checkpoint, best
from cifar_mlflow.training.origin import Origin

# So many failures one after another with the same cause are no accident.
SAME_FAILURES = 3
# The class of an exception that a configuration causes: a trial is a function of its configuration, so
# it would diverge again, and another one need not.
DIVERGED = "Diverged"
WORKER_DIED = "the worker process died: out of memory, or killed"


def run_trial(
    config: TrialConfig,
    data: Cifar10,
    options: TrainingOptions,
    threads: int,
    tell: claims.Tell,
) -> tracking.TrackedRun:
    """The run of this process itself: train, evaluate and track one configuration.

    It goes on from an interrupted run of the same trial, as ``options.resume`` says.

    Args:
        tell: called with a topic and a line of text about it, after each epoch for instance.

    Raises:
        UsageError: nothing can be resumed as asked, or the run that `mlflow run` made is not in the
            tracking store.
        MlflowException: the tracking store cannot be written.
    """
    key = claims.plan_key([config], data)
    tags = {tracking.TRIAL_KEY: config.key}
    with (
        tracking.tracked_run("trial", config.name, tags=tags, keep_failure=True) as run,
        claims.claimed(run, key, options.resume, tell) as before,
    ):
        earlier = [tracking.read(command.run_id) for command in before]
        _run(config, data, threads, options.tensorboard, earlier, tell)
    return _ended(run)


def run_child(
    config: TrialConfig,
    data: Cifar10,
    threads: int,
    tensorboard: bool,
    retries: int,
    parent: tracking.Parent,
) -> None:
    """The same as a child of a study's run, on any machine; what came of it is in the store.

    It goes on from an earlier attempt under the same parent, if that left a checkpoint; and it does
    nothing where another worker has finished the trial, or the study has ended or had better stop.

    Raises:
        MlflowException, OSError: the tracking store cannot be written.
    """
    tracking.connect(parent)
    if tracking.read(parent.run_id).status != "RUNNING":
        return
    earlier = tracking.children(parent, f"tags.{tracking.TRIAL_KEY} = '{config.key}'")
    if any(run.status == "FINISHED" for run in earlier) or repeated_failure(parent):
        return
    # Dask starts a trial again by itself, without a word to the study, if its worker died.
    for attempt in earlier:
        if attempt.status == "RUNNING":
            tracking.end_run(attempt.run_id, "FAILED", WORKER_DIED, failure="WorkerDied")
            if sum(other.end_reason == WORKER_DIED for other in earlier) >= retries:
                return
    tags = {tracking.TRIAL_KEY: config.key}
    with tracking.tracked_run("trial", config.name, parent, tags, keep_failure=True) as run:
        _run(config, _found(data), threads, tensorboard, earlier, lambda topic, text: None)
    _ended(run)


def origins(trials: Sequence[TrialConfig], threads: int) -> list[Origin]:
    """The origin that each trial would have here and now; imports TensorFlow, so runs in a worker."""
    from cifar_mlflow.training import fit

    fit.configure(threads)
    return [fit.origin(trial) for trial in trials]


def _found(data: Cifar10) -> Cifar10:
    try:
        return on_this_host(data)
    except DataError as error:
        raise LookupError(f"on {platform.node()}: {error}") from error


def repeated_failure(parent: tracking.Parent) -> str | None:
    """The cause that the last trials to end all failed by, where a study had better stop.

    Trials that diverged are no sign of one: each has its own cause.
    """
    # An attempt that was followed by another has ended KILLED.
    done = "attributes.status != 'RUNNING' and attributes.status != 'KILLED'"
    last = tracking.children(parent, done, limit=SAME_FAILURES)
    if len(last) < SAME_FAILURES or any(run.failure == DIVERGED for run in last):
        return None
    # A path in the message may be of the run itself.
    outcomes = {(run.status, run.end_reason.replace(run.run_id, "…")) for run in last}
    status, cause = outcomes.pop()
    return cause if status == "FAILED" and not outcomes else None


def _ended(run: tracking.TrackedRun) -> tracking.TrackedRun:
    """The run as it ended; a finished one needs its checkpoint no more."""
    ended = tracking.read(run.run_id)
    if ended.status == "FINISHED":
        resume.delete_checkpoint(ended.run_id)
    return ended


def _run(
    config: TrialConfig,
    data: Cifar10,
    threads: int,
    tensorboard: bool,
    earlier: Sequence[tracking.TrackedRun],
    tell: claims.Tell,
) -> None:
    from cifar_mlflow.training import fit, network

    fit.configure(threads)
    splits = data.split(config.validation_fraction)
    tracking.log_trial(config)
    tracking.log_environment(threads, fit.origin(config))
    tracking.log_dataset(data, "training")

    def check(checkpoint: Checkpoint) -> None:
        fit.restore(config, checkpoint)

    start = resume.go_on_from(earlier, check)
    if start:
        tell("Resuming", f"after epoch {len(start.history)}")
    elif lost := tracking.read(tracking.active_id()).checkpoint_lost:
        tell("Retrained", f"from the first epoch; the checkpoint is lost: {lost}")

    with tempfile.TemporaryDirectory() as folder:

        def on_epoch(checkpoint: Checkpoint) -> None:
            tracking.check_wanted()
            resume.save_checkpoint(checkpoint)
            epoch = checkpoint.history[-1]
            tell(
                "Epoch",
                f"{epoch.epoch}/{config.epochs}  train {epoch.train_accuracy:.3f}  "
                f"val {epoch.val_accuracy:.3f}  {epoch.epoch_seconds:.1f} s",
            )

        trained = fit.train(
            config,
            splits,
            on_epoch=on_epoch,
            start=start,
            tensorboard=Path(folder) if tensorboard else None,
        )
        if tensorboard:
            tracking.log_folder(Path(folder), "tensorboard")

    train_seconds = sum(epoch.epoch_seconds for epoch in trained.history)
    probabilities = fit.predict(trained.model, splits.test)
    predictions = metrics.prediction_table(probabilities, splits.test.labels)
    result = metrics.evaluate(predictions)
    best_epoch = best(trained.history)
    tracking.log_model(
        trained.model,
        data,
        metrics={
            **result.metrics("test"),
            "best_val_accuracy": best_epoch.val_accuracy,
            "best_epoch": best_epoch.epoch,
            "kept_val_accuracy": trained.kept.val_accuracy,
            "kept_val_loss": trained.kept.val_loss,
            "kept_epoch": trained.kept.epoch,
            "parameters": trained.model.count_params(),
            "train_seconds": train_seconds,
            "images_per_second": len(splits.train.labels) * config.epochs / train_seconds,
        },
        parameters=config.model_dump(),
    )
    summary = io.StringIO()
    trained.model.summary(print_fn=lambda line: summary.write(line + "\n"))
    title = f"{config.name}, test images"
    pictures, tables = model_artifacts(predictions, result, splits.test.images, title)
    tracking.log_files(
        figures={
            "curves.png": figures.curves(pd.DataFrame(map(asdict, trained.history)), config.name),
            **pictures,
        },
        tables={**tables, "layers.csv": network.layer_table(trained.model)},
        texts={"model_summary.txt": summary.getvalue()},
    )
    tracking.check_wanted()
