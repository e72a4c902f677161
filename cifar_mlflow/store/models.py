"""Find a model in the tracking store, the registry, a folder or a file; load it without running its code."""

import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.utils.models import get_model_name_and_version

from cifar_mlflow.config import LARGEST_IMAGE
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formats import SUFFIXES, Metadata
from cifar_mlflow.formatting import printable
from cifar_mlflow.paths import user_path
from cifar_mlflow.store import keras_file
from cifar_mlflow.store.query import UNKNOWN, find_run
from cifar_mlflow.store.runs import BEST_RUN_ID, DATA_DIGEST, DATA_NAME, VALIDATION_FRACTION

LOADER = "mlflow.keras"
KERAS_FILE = Path("data", "model.keras")  # in a model's folder
FILE_BYTES = 500_000_000  # at most, of an exported file
BATCH = 500  # images at once


class Classifier(Protocol):
    """A network that classifies images, whatever computes it: Keras, ONNX Runtime or LiteRT."""

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """(None, size, size, 3)"""

    def predict_on_batch(self, images: npt.NDArray[np.uint8], /) -> npt.NDArray[np.float32]:
        """The probabilities (N, classes) of uint8 pixels (N, size, size, 3)."""


class ClassifierFile(Classifier, Protocol):
    """A classifier in an exported file, and the text that the file holds about it."""

    metadata: dict[str, str]


@dataclass(frozen=True)
class LoadedModel:
    """A classifier, ready to use, and what is known about it."""

    uri: str  # as the user gave it, but printable; of a run id the URI of that run's model
    model_id: str | None  # None for a folder that was saved but never logged
    name: str | None  # of the registered model, if ``uri`` or an exported file leads to one
    version: str | None  # of the registered model
    classes: tuple[str, ...]
    model: Classifier
    file: str | None = None  # the name of an exported file; None for a Keras model

    @property
    def image_size(self) -> int:
        """Height and width of the images that it takes, in pixels."""
        size = self.model.input_shape[1]
        assert size is not None, "`load_model` checks it"
        return size

    def __str__(self) -> str:
        known = [f"{self.name} version {self.version}"] if self.name else []
        return ", ".join([*known, *filter(None, [self.file or self.model_id])]) or self.uri

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The probabilities (N, classes) of any number of images, batch by batch."""
        starts = range(0, len(images), BATCH)
        batches = [self.model.predict_on_batch(images[start : start + BATCH]) for start in starts]
        return np.concatenate(batches).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Lineage:
    """What the tracking store knows about a logged model's training; None if it does not."""

    trial: str | None  # its name
    validation_fraction: float | None
    data_digest: str | None
    data_name: str | None
    run_id: str | None  # of the trial


# Loading --------------------------------------------------------------------------------------


def load_model(model: str, threads: int = 1) -> LoadedModel:
    """Load a model of the kind that `tracking.log_model` or `export` writes; runs no code of its own.

    A model may come from anyone, and most of MLflow's flavors contain pickles or code. So this loads
    only a .keras file, in Keras' safe mode, and imports nothing that the model's description names; or
    an ONNX or LiteRT file of these formats' own operators, which needs no TensorFlow. It does not take
    much more memory than the file has bytes, and its names have no control characters.

    Args:
        model: any model URI that MLflow knows, such as ``models:/cifar10-cnn@champion``,
            ``models:/cifar10-cnn/3``, ``models:/m-…`` or ``runs:/…/model``; a run's id, bare or as
            ``runs:/ID``, for the model that it logged; a local folder; or an exported file.
        threads: that it computes with. A Keras model must be the first one in the process to compute, or
            the others must have had as many.

    Raises:
        UsageError: there is no such model, or it is of another kind.
        MlflowException: the store cannot be asked for a run.
    """
    uri = _model_uri(model)
    shown = printable(uri)
    try:
        if (file := user_path(uri)).is_file():
            return _load_file(shown, file, threads)
    except Exception as error:  # a damaged file can raise anything
        raise UsageError(f"{shown}: {_first_line(error)}") from error
    with tempfile.TemporaryDirectory() as scratch:
        try:
            name, version, folder = _fetch(uri, Path(scratch))
            description = Model.load(str(folder))
        except Exception as error:  # every artifact store raises errors of its own
            raise UsageError(f"{shown}: {_first_line(error)}{_hint(error)}") from error
        try:
            classes = _check_description(description, folder)
            network = _load_keras(folder / KERAS_FILE, threads)
            _check_behaviour(network, len(classes))
        except Exception as error:  # every layer that cannot be built raises errors of its own
            raise UsageError(f"{shown}: {_first_line(error)}") from error
    model_id = printable(str(description.model_id)) if description.model_id else None
    return LoadedModel(shown, model_id, name, version, classes, network)


def _load_keras(path: Path, threads: int) -> Classifier:
    from cifar_mlflow.training import fit  # takes seconds to import

    fit.configure(threads)
    network: Classifier = keras_file.load(path)
    return network


def _load_file(uri: str, path: Path, threads: int) -> LoadedModel:
    if (size := path.stat().st_size) > FILE_BYTES:
        raise UsageError(f"it has {size:,} bytes; {FILE_BYTES:,} are allowed")
    network = _open_file(path, threads)
    metadata = Metadata.parse(network.metadata)
    _check_behaviour(network, len(metadata.classes))
    return LoadedModel(
        uri,
        metadata.model_id or None,
        metadata.model_name or None,
        metadata.model_version or None,
        metadata.classes,
        network,
        printable(path.name),
    )


def _open_file(path: Path, threads: int) -> ClassifierFile:
    suffix = path.suffix.lower()
    # Imported here, because the runtimes take a second to import.
    if suffix == SUFFIXES["onnx"]:
        from cifar_mlflow.store.onnx_file import OnnxModel

        return OnnxModel(path, threads)
    if suffix == SUFFIXES["litert"]:
        from cifar_mlflow.store.litert_file import LitertModel

        return LitertModel(path, threads)
    raise UsageError(f"not a folder, and not a file that ends in {' or '.join(SUFFIXES.values())}")


def _model_uri(model: str) -> str:
    """The URI of the model that a run logged, for a run's id; otherwise ``model`` itself."""
    given = re.fullmatch(r"(?:runs:/)?([0-9a-f]{32})/?", model)
    if not given or Path(model).exists():
        return model
    try:
        run = mlflow.get_run(given[1])
    except MlflowException as error:
        if error.error_code not in UNKNOWN:
            raise
        raise UsageError(f"{model}: no such run in {mlflow.get_tracking_uri()}") from error
    logged = run.outputs.model_outputs if run.outputs else []
    if not logged:
        best = run.data.tags.get(BEST_RUN_ID)
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
    # `mlflow gc` removes runs, and keeps their models.
    run = find_run(logged.source_run_id) if logged.source_run_id else None
    fraction = logged.params.get(VALIDATION_FRACTION)
    return Lineage(
        trial=run.name if run else None,
        validation_fraction=float(fraction) if fraction else None,
        data_digest=run.tags.get(DATA_DIGEST) if run else None,
        data_name=run.tags.get(DATA_NAME) if run else None,
        run_id=run.run_id if run else None,
    )


def short_name(model: LoadedModel, origin: Lineage | None) -> str:
    """The exported file, else the registered version, else the trial, else the folder."""
    if model.file:
        return model.file
    if model.name:
        return f"{model.name} version {model.version}"
    return (origin and origin.trial) or Path(model.uri).name


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
        # `mlflow run` starts commands in the project's folder, so say where a relative path leads.
        where = "" if local.is_absolute() else f" in {Path.cwd()}"
        raise UsageError(
            f"no such file or folder{where}, and not a run id or a URI such as models:/NAME@ALIAS"
        )
    if uri.startswith(("http:", "https:")):
        raise UsageError("a web address is not a model; download the file, and give its path")
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
    path = folder / KERAS_FILE
    if keras_flavor.get("save_exported_model") or keras_flavor.get("data") != "data":
        raise UsageError("not in the .keras format, the only one that Keras loads in safe mode")
    if not zipfile.is_zipfile(path):
        raise UsageError(f"its file {KERAS_FILE} is {'damaged' if path.exists() else 'missing'}")
    classes = (description.metadata or {}).get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UsageError("its metadata has no list of classes")
    return tuple(map(printable, classes))


def _check_behaviour(network: Classifier, classes: int) -> None:
    """Raise UsageError unless the network turns square images into a probability of each class."""
    match network.input_shape:
        case (None, int(height), int(width), 3) if height == width <= LARGEST_IMAGE:
            shape = (1, height, width, 3)
        case _:
            raise UsageError(
                f"it takes {network.input_shape}, not images (None, size, size, 3) of at most "
                f"{LARGEST_IMAGE} x {LARGEST_IMAGE} pixels"
            )
    probabilities = network.predict_on_batch(np.zeros(shape, np.uint8))
    if probabilities.shape != (1, classes):
        given = (None, *probabilities.shape[1:])
        raise UsageError(f"it gives {given}, not probabilities {(None, classes)}")
    # The probabilities of an int8 file may be multiples of 1/256.
    if probabilities.min() < 0 or not np.isclose(probabilities.sum(), 1, atol=classes / 512):
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
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    if more and first.endswith(":"):  # the cause follows
        first += f" {more[0].strip()}"
    return printable(first.rstrip("."))
