"""The champion: the registered model that carries the alias `champion`."""

import contextlib
import io
from dataclasses import dataclass

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data import CLASSES, Cifar10
from cifar_mlflow.tracking import DATA_DIGEST, TrialRun

CHAMPION, CHALLENGER = "champion", "challenger"
VALIDATION_FRACTION = "validation_fraction"
VAL_ACCURACY = "val_accuracy"


@dataclass(frozen=True)
class Promotion:
    """What became of a newly registered version."""

    version: str
    alias: str  # champion or challenger
    reason: str


def judge(new: dict[str, str], champion: dict[str, str] | None) -> tuple[str, str]:
    """The alias that a version with the tags ``new`` gets beside the present champion, and why."""
    if champion is None:
        return CHAMPION, "there was no champion"
    for condition, name in ((DATA_DIGEST, "data"), (VALIDATION_FRACTION, "validation images")):
        if champion.get(condition) != new[condition]:
            return CHALLENGER, f"the champion was measured on other {name}: not comparable"
    ours, theirs = float(new[VAL_ACCURACY]), float(champion[VAL_ACCURACY])
    if ours > theirs:
        return CHAMPION, f"validation accuracy {ours:.4f} beats the champion's {theirs:.4f}"
    return CHALLENGER, f"validation accuracy {ours:.4f} does not beat the champion's {theirs:.4f}"


def champion(name: str) -> ModelVersion | None:
    """The version with the alias `champion`, or None where there is none."""
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def register(name: str, run: TrialRun, config: TrialConfig, data: Cifar10) -> Promotion:
    """Register a trial's model as a new version of ``name``; move the alias if it is better.

    A model that has been registered, by a study that was interrupted then, gets no second version.
    """
    client = mlflow.MlflowClient()
    present = champion(name)
    earlier = client.search_model_versions(f"name = '{name}' and run_id = '{run.run_id}'")
    tags = {
        DATA_DIGEST: data.digest,
        VALIDATION_FRACTION: str(config.validation_fraction),
        VAL_ACCURACY: str(run.metrics["kept_val_accuracy"]),
        "test_accuracy": str(run.metrics["test_accuracy"]),
        "test_loss": str(run.metrics["test_loss"]),
        "trial": run.name,
        "classes": ", ".join(CLASSES),
    }
    if present and present.run_id == run.run_id:
        return Promotion(str(present.version), CHAMPION, present.tags["promotion"])
    alias, reason = judge(tags, dict(present.tags) if present else None)
    if earlier:
        registered = earlier[0]
    else:
        with contextlib.redirect_stderr(io.StringIO()):  # it tells in its own words
            registered = mlflow.register_model(
                run.model_uri, name, tags={**tags, "promotion": reason}
            )
    client.update_model_version(name, registered.version, _description(run, config, data, reason))
    client.set_registered_model_alias(name, alias, registered.version)
    return Promotion(str(registered.version), alias, reason)


def _description(run: TrialRun, config: TrialConfig, data: Cifar10, reason: str) -> str:
    settings = "\n".join(f"- {field}: {value}" for field, value in config.model_dump().items())
    return f"""Classifies 32 x 32 RGB images into the 10 classes of CIFAR-10.

- validation accuracy {run.metrics["kept_val_accuracy"]:.4f} (it was chosen by this)
- test accuracy {run.metrics["test_accuracy"]:.4f}, test loss {run.metrics["test_loss"]:.4f} nats
- trained by run {run.run_id} ({run.name}) on data with SHA-256 {data.digest}
- promotion: {reason}

Input: uint8 array (N, 32, 32, 3), RGB 0..255. Output: float32 array (N, 10), probabilities of
{", ".join(CLASSES)}, in this order.

Configuration:
{settings}
"""
