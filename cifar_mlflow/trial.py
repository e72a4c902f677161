"""One trial, from configuration to finished run."""

import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from cifar_mlflow import evaluation, figures, tracking
from cifar_mlflow.assessment import quality
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data import Cifar10
from cifar_mlflow.quiet import hushed


def run_trial(
    config: TrialConfig,
    data: Cifar10,
    threads: int,
    tensorboard: bool = False,
    parent: tracking.Parent | None = None,
    tell: Callable[[str], None] | None = None,
) -> tracking.TrialRun:
    """Train, evaluate and track one configuration; gives the run, FINISHED or FAILED.

    Args:
        parent: the study to hang the run under; without it the run is the process's own.
        tell: called with a line of text after each epoch.

    Raises:
        UsageError: the run that `mlflow run` made is not in the tracking store.
        MlflowException: the tracking store cannot be written.
    """
    tags = {tracking.TRIAL_KEY: config.key}
    with tracking.tracked_run("trial", config.name, parent, tags, keep_failure=True) as run:
        _run(config, data, threads, tensorboard, tell)
    return tracking.read(run.info.run_id)


def _run(
    config: TrialConfig,
    data: Cifar10,
    threads: int,
    tensorboard: bool,
    tell: Callable[[str], None] | None,
) -> None:
    with hushed():
        from cifar_mlflow import architectures, training

        training.configure(threads)
    splits = data.split(config.validation_fraction)
    tracking.log_trial(config)
    tracking.log_environment(threads)
    tracking.log_dataset(data, "training")

    with tempfile.TemporaryDirectory() as folder:

        def on_epoch(epoch: training.Epoch) -> None:
            tracking.log_epoch(asdict(epoch))
            if tell:
                tell(
                    f"{epoch.epoch}/{config.epochs}  train {epoch.train_accuracy:.3f}  "
                    f"val {epoch.val_accuracy:.3f}  {epoch.epoch_seconds:.1f} s"
                )

        began = time.perf_counter()
        trained = training.train(
            config,
            splits,
            on_epoch=on_epoch,
            tensorboard=Path(folder) if tensorboard else None,
        )
        train_seconds = time.perf_counter() - began
        if tensorboard:
            tracking.log_folder(Path(folder), "tensorboard")

    probabilities = training.predict(trained.model, splits.test)
    predictions = evaluation.prediction_table(probabilities, splits.test.labels)
    result = evaluation.evaluate(predictions)
    best = training.best(trained.history)
    tracking.log_model(
        trained.model,
        data,
        metrics={
            **result.metrics("test"),
            "best_val_accuracy": best.val_accuracy,
            "best_epoch": best.epoch,
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
    pictures, tables = quality(predictions, result, splits.test.images, title)
    tracking.log_files(
        figures={
            "curves.png": figures.curves(pd.DataFrame(map(asdict, trained.history)), config.name),
            **pictures,
        },
        tables={**tables, "layers.csv": architectures.layer_table(trained.model)},
        texts={"model_summary.txt": summary.getvalue()},
    )
