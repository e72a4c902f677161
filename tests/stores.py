"""Tracking stores with invented studies, logged as the entry points log them, without any training."""

import io
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from cifar_mlflow.analysis import figures, metrics
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST, CLASSES
from cifar_mlflow.formatting import as_text
from cifar_mlflow.parameters import ArchitecturesParameters, GridParameters, StudyOptions, expand
from cifar_mlflow.store.runs import Status, TrackedRun
from tests import standin

STUDIES: dict[str, type[StudyOptions]] = {
    "grid": GridParameters,
    "architectures": ArchitecturesParameters,
}
EPOCHS, IMAGES = 4, 300
PFLOP = {"small": 0.01, "wide": 0.02, "deep": 0.03}


def tracked(
    run_id: str,
    name: str = "",
    status: str = "FINISHED",
    metrics: Mapping[str, float] = {},
    end_time: int = 0,
    parameters: Mapping[str, str] = {},
    **tags: str,
) -> TrackedRun:
    """A run that is in no store; with ``trial_key`` that of a trial."""
    return TrackedRun(
        run_id, name, "0", Status(status), 0, end_time, dict(parameters), dict(metrics), tags
    )


def accuracy(trial: TrialConfig) -> float:
    """About as in the published grid, with a little chance for each seed."""
    value = {"small": 0.60, "wide": 0.63, "deep": 0.68}[trial.architecture]
    if trial.activation == "sigmoid":
        value = 0.57 if trial.optimizer == "adam" else 0.10
    elif trial.optimizer == "sgd":
        value -= 0.0005 * trial.batch_size
    return value + 0.002 * np.random.default_rng(trial.seed + trial.batch_size).normal()


def write_study(
    client: MlflowClient,
    experiment: str,
    kind: str,
    given: Mapping[str, str],
    failed: Mapping[str, str] = {},
    digest: str = CIFAR10_DIGEST,
    name: str = "",
    status: str = "FINISHED",
    data_name: str = "CIFAR-10",
) -> str:
    """Log a study; the trials in ``failed`` failed, each for its reason. Returns the study's run id."""
    parameters = STUDIES[kind].model_validate(given)
    environment = {
        "data_digest": digest,
        "data_name": data_name,
        "registered_model": "cifar10-cnn",
        "mlflow.source.git.commit": "c0ffee" * 6 + "c0ff",
        "python_version": "3.11.7",
        "keras_version": "3.15.1",
        "host": "laboratory",
        "cores": "2",
        "threads": "1",
    }
    parent: str = client.create_run(
        experiment, run_name=name or kind, tags={"kind": kind, **environment}
    ).info.run_id
    fields = type(parameters).model_fields
    logged = [Param(field, as_text(getattr(parameters, field))) for field in fields]
    client.log_batch(parent, params=logged)
    for trial in expand(parameters):
        tags = {"kind": "trial", "mlflow.parentRunId": parent, **environment}
        tags["trial_key"] = trial.key
        run = client.create_run(experiment, run_name=trial.name, tags=tags).info.run_id
        reached = accuracy(trial)
        write_trial(client, run, trial, reached, trial.name not in failed)
        if trial.name in failed:
            client.set_tag(run, "end_reason", failed[trial.name])
        client.set_terminated(run, "FAILED" if trial.name in failed else "FINISHED")
    if status != "RUNNING":
        client.set_terminated(parent, status)
    return parent


def write_trial(
    client: MlflowClient, run: str, trial: TrialConfig, reached: float, finished: bool
) -> None:
    params = [Param(name, str(value)) for name, value in trial.model_dump().items()]
    metrics = [
        Metric(name, value, 0, epoch)
        for epoch in range(1, EPOCHS + 1 if finished else 2)
        for name, value in (
            ("train_accuracy", 0.1 + (reached - 0.1) * epoch / EPOCHS + 0.02 * epoch),
            ("val_accuracy", 0.1 + (reached - 0.1) * epoch / EPOCHS),
            ("val_loss", 2.3 - reached * epoch / EPOCHS),
        )
        if name.startswith("train") or trial.validation_fraction
    ]
    if finished:
        once = {
            "kept_val_accuracy": reached + 0.01,
            "kept_val_loss": 2.3 - reached,
            "test_accuracy": reached,
            "test_loss": 2.31 - reached,
            "parameters": 122_570.0,
            "train_pflop": PFLOP[trial.architecture],
            "train_seconds": 60.0,
        }
        metrics += [
            Metric(name, value, 0, 0)
            for name, value in once.items()
            if "val" not in name or trial.validation_fraction
        ]
    client.log_batch(run, metrics, params, [RunTag("model_uri", f"models:/m-{run}")])
    if finished:
        table = predictions(reached, trial.seed)
        layers = {
            "layer": ["Conv2D", "Dense"],
            "output_shape": ["30 x 30 x 32", "10"],
            "parameters": [896, 650],
        }
        with tempfile.TemporaryDirectory() as folder:
            table.to_parquet(f"{folder}/predictions.parquet")
            pd.DataFrame(layers).to_csv(f"{folder}/layers.csv", index=False)
            Path(folder, "misclassified.png").write_bytes(gallery_png())
            client.log_artifacts(run, folder)


def predictions(reached: float, seed: int) -> pd.DataFrame:
    """A prediction table in which a share ``reached`` of the images is right."""
    random = np.random.default_rng(seed)
    labels = np.arange(IMAGES, dtype=np.uint8) % len(CLASSES)
    right = random.random(IMAGES) < reached
    taken = np.where(right, labels, (labels + random.integers(1, 10, IMAGES)) % 10)
    scores = random.random((IMAGES, 10)) + 3 * np.eye(10)[taken]
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    return metrics.prediction_table(probabilities.astype(np.float32), labels, CLASSES)


def write_data(
    client: MlflowClient,
    experiment: str,
    digest: str = CIFAR10_DIGEST,
    data_name: str = "CIFAR-10",
    classes: Sequence[str] = CLASSES,
) -> str:
    tags = {"kind": "data", "data_digest": digest, "data_name": data_name}
    run: str = client.create_run(experiment, run_name="data", tags=tags).info.run_id
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "class_examples.png").write_bytes(gallery_png())
        counts = {"class": classes, "train": range(10, 110, 10), "test": 5}
        pd.DataFrame(counts).to_csv(f"{folder}/class_counts.csv", index=False)
        client.log_artifacts(run, folder)
    client.log_metric(run, "imbalance", 10)
    client.set_terminated(run, "FINISHED")
    return run


@cache
def gallery_png() -> bytes:
    """A gallery, small, as PNG."""
    drawn = io.BytesIO()
    figures.class_examples(standin.batch(1, seed=0), CLASSES).savefig(drawn, dpi=30)
    return drawn.getvalue()
