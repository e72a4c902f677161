"""What the tracking store knows about a trained model, gathered for its card."""

from collections.abc import Mapping
from dataclasses import dataclass

import mlflow
import pandas as pd
from mlflow.models import Model

from cifar_mlflow.analysis import metrics
from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import UNKNOWN
from cifar_mlflow.store import query, registry
from cifar_mlflow.store.runs import DATA_DIGEST, PARENT, REFIT_OF, TRIAL, Status, TrackedRun

PREDICTIONS = "predictions.parquet"


@dataclass(frozen=True)
class Facts:
    """A trained model, where it comes from, and how good it is.

    Names of classes and of the data set are as the user gave them, with whatever letters.
    """

    uri: str  # models:/cifar10-cnn/3 or models:/m-…
    model_id: str  # of the logged model
    name: str  # of the registered model, or of the trial
    title: str  # the name with the version
    tags: dict[str, str]  # of the version; of a model without one, what it would be judged by
    run: TrackedRun  # that trained it
    twin: TrackedRun | None  # of a refit, the trial that it trained again
    study: TrackedRun | None  # that chose the trial
    candidates: int  # finished trials of the study
    data_set: str  # its name
    digest: str  # SHA-256 of the data set, in hexadecimal
    classes: tuple[str, ...]  # in the order of the model's outputs
    image_shape: tuple[int, int, int]  # height, width, channels
    result: metrics.Evaluation  # of the test images
    intervals: pd.DataFrame  # `metrics.intervals` of the test images
    confidence: float  # mean probability of the predicted class, over the test images

    @property
    def official(self) -> bool:
        return self.digest == CIFAR10_DIGEST

    @property
    def test_images(self) -> int:
        return int(self.result.report["support"].sum())

    @property
    def formats(self) -> list[str]:
        """What the model was exported to."""
        return [name for name in self.tags.get(registry.FORMATS, "").split(",") if name]

    @property
    def select_by(self) -> str:
        """The images whose accuracy its study chose by: validation or test."""
        return self.study.parameters.get("select_by", "validation") if self.study else "validation"


def facts_of_version(name: str, version: str) -> Facts:
    """What is known about a registered version.

    Raises:
        UsageError: the store has no run that trained it, or not the predictions of that run.
        MlflowException: there is no such version.
    """
    found = mlflow.MlflowClient().get_model_version(name, version)
    return _facts(f"models:/{name}/{version}", found.run_id, found.tags, name, version)


def facts_of_model(model_id: str) -> Facts:
    """What is known about a logged model, registered or not; raises as `facts_of_version` does."""
    found = mlflow.MlflowClient().get_logged_model(model_id)
    return _facts(f"models:/{model_id}", found.source_run_id, {})


def _facts(
    uri: str, run_id: str | None, tags: Mapping[str, str], name: str = "", version: str = ""
) -> Facts:
    run = query.find_run(run_id) if run_id else None
    predictions = query.find_table(run.run_id, PREDICTIONS) if run else None
    if run is None or run.model_uri is None or predictions is None:
        raise UsageError(
            f"{uri}: the store has no run that trained it and logged {PREDICTIONS}, which its card needs"
        )
    description = Model.load(run.model_uri)
    metadata = description.metadata or {}
    classes = tuple(metadata["classes"])
    digest = run.tags.get(DATA_DIGEST, UNKNOWN)
    # A model without a name for its data was logged when there was only CIFAR-10.
    unnamed = "CIFAR-10" if digest == CIFAR10_DIGEST else "a stand-in for CIFAR-10"
    twin = query.find_run(run.tags[REFIT_OF]) if REFIT_OF in run.tags else None
    study = query.find_run(run.tags[PARENT]) if PARENT in run.tags else None
    trials = query.latest(query.children(study.as_parent())).values() if study else ()
    return Facts(
        uri=uri,
        model_id=run.model_uri.removeprefix("models:/"),
        name=name or run.name,
        title=f"{name} version {version}" if name else run.name,
        tags={**registry.judged_by(run, twin), **tags},
        run=run,
        twin=twin,
        study=study,
        candidates=sum(t.kind == TRIAL and t.status == Status.FINISHED for t in trials),
        data_set=metadata.get("data", unnamed),
        digest=digest,
        classes=classes,
        image_shape=description.signature.inputs.inputs[0].shape[1:],
        result=metrics.evaluate(predictions),
        intervals=metrics.intervals(predictions),
        confidence=float(predictions[list(classes)].max(axis=1).mean()),
    )
