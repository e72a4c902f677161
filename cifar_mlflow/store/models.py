"""Find a model in the tracking store, the registry or a folder; load it without running its code."""

import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.utils.models import get_model_name_and_version

from cifar_mlflow.config import LARGEST_IMAGE
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import printable
from cifar_mlflow.paths import user_path
from cifar_mlflow.store import keras_file
from cifar_mlflow.store.query import UNKNOWN
from cifar_mlflow.store.registry import VALIDATION_FRACTION
from cifar_mlflow.store.runs import DATA_DIGEST

if TYPE_CHECKING:
    import keras

LOADER = "mlflow.keras"
KERAS_FILE = Path("data", "model.keras")  # in a model's folder


@dataclass(frozen=True)
class LoadedModel:
    """A classifier, ready to use, and what is known about it."""

    uri: str  # as the user gave it, but printable; of a run id the URI of that run's model
    model_id: str | None  # None for a folder that was saved but never logged
    name: str | None  # of the registered model, if ``uri`` leads to one
    version: str | None  # of the registered model
    classes: tuple[str, ...]
    model: "keras.Model"  # uint8 pixels (N, size, size, 3) to probabilities (N, len(classes))

    def __str__(self) -> str:
        known = [f"{self.name} version {self.version}"] if self.name else []
        return ", ".join([*known, *filter(None, [self.model_id])]) or self.uri


@dataclass(frozen=True)
class Lineage:
    """What the tracking store knows about a logged model's training; None if it does not."""

    trial: str | None  # its name
    validation_fraction: float | None
    data_digest: str | None


# Loading --------------------------------------------------------------------------------------


def load_model(model: str) -> LoadedModel:
    """Load a model of the kind that `tracking.log_model` writes, without running any code of its own.

    A model may come from anyone, and most of MLflow's flavors contain pickles or code. So this loads
    only a .keras file, in Keras' safe mode, and imports nothing that the model's description names. It
    does not take much more memory than the file has bytes, and its names have no control characters.

    Args:
        model: any model URI that MLflow knows, such as ``models:/cifar10-cnn@champion``,
            ``models:/cifar10-cnn/3``, ``models:/m-…`` or ``runs:/…/model``; a run's id, bare or as
            ``runs:/ID``, for the model that it logged; or a local folder.

    Raises:
        UsageError: there is no such model, or it is of another kind.
    """
    uri = _model_uri(model)
    shown = printable(uri)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            name, version, folder = _fetch(uri, Path(scratch))
            description = Model.load(str(folder))
        except Exception as error:  # every artifact store raises errors of its own
            raise UsageError(f"{shown}: {_first_line(error)}{_hint(error)}") from error
        try:
            classes = _check_description(description, folder)
            network = keras_file.load(folder / KERAS_FILE)
            _check_behaviour(network, len(classes))
        except Exception as error:  # every layer that cannot be built raises errors of its own
            raise UsageError(f"{shown}: {_first_line(error)}") from error
    model_id = printable(str(description.model_id)) if description.model_id else None
    return LoadedModel(shown, model_id, name, version, classes, network)


def _model_uri(model: str) -> str:
    """The URI of the model that a run logged, for a run's id; otherwise ``model`` itself."""
    given = re.fullmatch(r"(?:runs:/)?([0-9a-f]{32})/?", model)
    if not given or Path(model).exists():
        return model
    try:
        run = mlflow.get_run(given[1])
    except MlflowException as error:
        raise UsageError(f"{model}: no such run in {mlflow.get_tracking_uri()}") from error
    logged = run.outputs.model_outputs if run.outputs else []
    if not logged:
        best = run.data.tags.get("best_run_id")
        hint = f"; the best trial of this study is run {best}" if best else ""
        raise UsageError(
            f"{model}: this run ({run.info.run_name}, {run.info.status}) logged no model{hint}"
        )
    return f"models:/{logged[-1].model_id}"


def lineage(model_id: str | None) -> Lineage | None:
    """Where a logged model comes from; None if the tracking store has no such model."""
    client = mlflow.MlflowClient()
    try:
        logged = client.get_logged_model(model_id) if model_id else None
    except MlflowException as error:
        if error.error_code in UNKNOWN:
            return None
        raise
    if logged is None:
        return None
    run = client.get_run(logged.source_run_id) if logged.source_run_id else None
    fraction = logged.params.get(VALIDATION_FRACTION)
    return Lineage(
        trial=run.info.run_name if run else None,
        validation_fraction=float(fraction) if fraction else None,
        data_digest=run.data.tags.get(DATA_DIGEST) if run else None,
    )


def _fetch(uri: str, scratch: Path) -> tuple[str | None, str | None, Path]:
    """(registered name, version, local folder) of a model; no name if ``uri`` leads to no version."""
    local = user_path(uri)
    if local.exists():
        if not (local / "MLmodel").is_file():
            raise UsageError("not a model that MLflow saved: it has no file MLmodel")
        link = scratch / "model"  # because MLflow parses # and % in a path as parts of a URI
        link.symlink_to(local.resolve())
        return None, None, link
    if ":" not in uri:
        raise UsageError("no such folder, and not a run id or a URI such as models:/NAME@ALIAS")
    name = version = None
    if uri.startswith("models:"):
        # An alias may move between two calls; a version does not change.
        *names, number = get_model_name_and_version(mlflow.MlflowClient(), uri)
        if names:
            name, version = str(names[0]), str(number)
    source = f"models:/{name}/{version}" if name else uri
    # A copy, because MLflow writes into a registered model's folder by which name it was loaded.
    return name, version, Path(mlflow.artifacts.download_artifacts(source, dst_path=str(scratch)))


def _check_description(description: Model, folder: Path) -> tuple[str, ...]:
    """The classes that a model's description lists; raises UsageError for another kind of model."""
    flavors: dict[str, Any] = description.flavors
    others = [name for name in flavors if name not in ("keras", "python_function")]
    loader = flavors.get("python_function", {}).get("loader_module", LOADER)
    if "keras" not in flavors or loader != LOADER:
        flavor = ", ".join(others) if loader == LOADER else f"loaded by {loader}"
        raise UsageError(
            f"a model of another flavor ({flavor}), which may run code; only those of mlflow.keras "
            "are loaded"
        )
    keras_flavor = flavors["keras"]
    if (
        keras_flavor.get("save_exported_model")
        or keras_flavor.get("data") != "data"
        or not zipfile.is_zipfile(folder / KERAS_FILE)
    ):
        raise UsageError("not in the .keras format, the only one that Keras loads in safe mode")
    classes = (description.metadata or {}).get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UsageError("its metadata has no list of classes")
    return tuple(map(printable, classes))


def _check_behaviour(model: "keras.Model", classes: int) -> None:
    """Raise UsageError unless the model turns square images into a probability of each class."""
    match model.input_shape:
        case (None, int(height), int(width), 3) if height == width <= LARGEST_IMAGE:
            shape = (1, height, width, 3)
        case _:
            raise UsageError(
                f"takes {model.input_shape}, not images (None, size, size, 3) of at most "
                f"{LARGEST_IMAGE} x {LARGEST_IMAGE} pixels"
            )
    if model.output_shape != (None, classes):
        raise UsageError(f"gives {model.output_shape}, not probabilities {(None, classes)}")
    probabilities = model.predict_on_batch(np.zeros(shape, np.uint8))
    if probabilities.min() < 0 or not np.isclose(probabilities.sum(), 1, atol=1e-3):
        raise UsageError("its outputs are not probabilities: they do not add up to 1")


def _hint(error: Exception) -> str:
    """The registered models to choose from, after a name that is not known."""
    if not isinstance(error, MlflowException) or error.error_code not in UNKNOWN:
        return ""
    models = mlflow.MlflowClient().search_registered_models()
    if not models:
        return f"; none is registered in {mlflow.get_registry_uri()}: `mlflow run . -e grid` registers one"
    names = [
        f"{model.name} ({', '.join(f'@{alias}' for alias in sorted(model.aliases)) or 'no alias'}; "
        f"newest version {max((int(v.version) for v in model.latest_versions), default=0)})"
        for model in models
    ]
    return f"; registered in {mlflow.get_registry_uri()}: {', '.join(names)}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0].rstrip("."))
