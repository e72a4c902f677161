"""The champion: the registered model that carries the alias `champion`; and any model, to use it."""

import contextlib
import io
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.utils.models import get_model_name_and_version

from cifar_mlflow import evaluation, keras_file, tracking
from cifar_mlflow.config import TrialConfig, UsageError, printable, user_path
from cifar_mlflow.data import CLASSES, IMAGE_SHAPE, Cifar10
from cifar_mlflow.quiet import hushed
from cifar_mlflow.tracking import DATA_DIGEST, UNKNOWN, TrialRun

if TYPE_CHECKING:
    import keras

CHAMPION, CHALLENGER = "champion", "challenger"
VALIDATION_FRACTION = "validation_fraction"
VAL_ACCURACY = "val_accuracy"
PROMOTION = "promotion"  # why a version got its alias
JUDGED_WITH = "judged_with"  # the first version of its round, while the alias is being set
# MLflow's answers to a name that it does not know, whether of a model, a version or an alias.
LOADER = "mlflow.keras"
KERAS_FILE = Path("data", "model.keras")  # in the folder that it saves
ABOUT = """Image classifiers for CIFAR-10: uint8 images (N, 32, 32, 3) to probabilities of 10 classes.

The alias `champion` is on the version with the best validation accuracy, `challenger` on the newest one
that did not beat it. Each version's description tells how good it is and how to call it."""


@dataclass(frozen=True)
class Promotion:
    """What became of a newly registered version."""

    version: str
    alias: str  # champion or challenger
    reason: str


@dataclass(frozen=True)
class LoadedModel:
    """A classifier, ready to use, and what is known of it."""

    uri: str  # as it was asked for, but printable
    model_id: str | None  # None of a folder that was saved, and never logged
    name: str | None  # of the registered model, and its version, where ``uri`` leads there
    version: str | None
    classes: tuple[str, ...]
    model: "keras.Model"  # uint8 pixels (N, 32, 32, 3) to probabilities (N, len(classes))

    def __str__(self) -> str:
        known = [f"{self.name} version {self.version}"] if self.name else []
        return ", ".join([*known, *filter(None, [self.model_id])]) or self.uri


@dataclass(frozen=True)
class Origin:
    """What the tracking store knows of a logged model's training; None where it does not."""

    trial: str | None
    validation_fraction: float | None
    data_digest: str | None


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
        if error.error_code in UNKNOWN:
            return None
        raise


def register(name: str, run: TrialRun, config: TrialConfig, data: Cifar10) -> Promotion:
    """Register a trial's model as a new version of ``name``; move the alias if it is better.

    Of several that do so at once the best becomes champion, however their calls are interleaved
    (`_agree`). A model that has been registered, by a study that was interrupted then, gets no second
    version.
    """
    client = mlflow.MlflowClient()
    versions = _versions(name)
    registered = next((each for each in versions if each.run_id == run.run_id), None)
    if registered is None:
        tags = {
            DATA_DIGEST: data.digest,
            VALIDATION_FRACTION: str(config.validation_fraction),
            VAL_ACCURACY: str(run.metrics["kept_val_accuracy"]),
            "test_accuracy": str(run.metrics["test_accuracy"]),
            "test_loss": str(run.metrics["test_loss"]),
            "trial": run.name,
            "classes": ", ".join(CLASSES),
            JUDGED_WITH: str(_round(versions)),
        }
        _, reason = judge(tags, _tags(champion(name)))
        with contextlib.redirect_stderr(io.StringIO()):  # it tells in its own words
            registered = mlflow.register_model(
                run.model_uri, name, tags={**tags, PROMOTION: reason}
            )
    elif JUDGED_WITH not in registered.tags:
        alias = CHAMPION if _same(champion(name), registered) else CHALLENGER
        return Promotion(str(registered.version), alias, registered.tags[PROMOTION])
    alias, reason = _agree(name, registered)
    version = str(registered.version)
    predictions = tracking.read_table(run.run_id, "predictions.parquet")
    text = describe(name, version, run, config, data, predictions, reason)
    client.update_model_version(name, version, text)
    client.update_registered_model(name, ABOUT)
    if alias == CHALLENGER:
        client.set_registered_model_alias(name, CHALLENGER, version)
    client.set_model_version_tag(name, version, PROMOTION, reason)
    client.delete_model_version_tag(name, version, JUDGED_WITH)
    return Promotion(version, alias, reason)


def _agree(name: str, mine: ModelVersion) -> tuple[str, str]:
    """Put `champion` on the best version of a round; gives the alias of ``mine``, and why.

    MLflow cannot set an alias on condition that it has not moved, so whoever sets it may undo what
    another process set a moment before. Hence each process reads it again after it set it, until it is
    on the best version that could have been undone:

    - A version has the tag `judged_with` from the moment it exists until its process is done with the
      alias. The value is the first version of its round (`_round`): all that did not exist when it
      came, and the rounds of those that were not done then. The process judges all of these.
    - Suppose the last process to set the alias, P, puts it on x, and y is better. If y came after P's
      last look, the process of y looks later still, finds x, and sets y. If y is in P's round, P saw it
      and set y. Else y was done when x came, and so was every process that had read the alias before y
      was judged: the alias was on y or better when P read it, so P did not set x.

    So the alias ends on the best, in whatever order two or more processes read and set it. A version
    from before the round is not put back, so a rollback by hand stays. A process that is killed in here
    leaves its round open until its study is run again.
    """
    reason = mine.tags[PROMOTION]
    while True:
        present = best = champion(name)
        if not _same(present, mine):
            _, reason = judge(mine.tags, _tags(present))
        for rival in _versions(name):
            in_round = int(rival.version) >= int(mine.tags[JUDGED_WITH])
            if in_round and judge(rival.tags, _tags(best))[0] == CHAMPION:
                best = rival
        if best is None or best is present:
            return (CHAMPION if _same(present, mine) else CHALLENGER), reason
        mlflow.MlflowClient().set_registered_model_alias(name, CHAMPION, best.version)


def _same(one: ModelVersion | None, other: ModelVersion) -> bool:
    return one is not None and int(one.version) == int(other.version)


def _round(versions: Sequence[ModelVersion]) -> int:
    """The number of the first version that a new one is judged together with."""
    following = 1 + max((int(each.version) for each in versions), default=0)
    return min([int(each.tags.get(JUDGED_WITH, following)) for each in versions], default=following)


def _versions(name: str) -> list[ModelVersion]:
    """Those that a study registered, the oldest first."""
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    return sorted(
        (version for version in found if PROMOTION in version.tags),
        key=lambda version: int(version.version),
    )


def _tags(version: ModelVersion | None) -> dict[str, str] | None:
    return dict(version.tags) if version else None


def describe(
    name: str,
    version: str,
    run: TrialRun,
    config: TrialConfig,
    data: Cifar10,
    predictions: pd.DataFrame,
    reason: str,
) -> str:
    """All that someone needs who has nothing but the registry, as Markdown.

    Args:
        run: of the trial that trained the model; ``predictions`` is its prediction table of the test set.
        reason: for the alias.
    """
    result = evaluation.evaluate(predictions)
    numbers = "\n".join(
        f"| {number.replace('_', ' ')} | {value:.4f} ({low:.4f} to {high:.4f}) |"
        for number, value, low, high in evaluation.intervals(predictions).itertuples(name=None)
    )
    confidence = predictions[list(CLASSES)].max(axis=1).mean()
    recall = result.report["recall"]
    confused = evaluation.most_confused(result.confusion).head(3)
    mistakes = ", ".join(
        f"{true} for {predicted} ({100 * share:.0f} %)"
        for true, predicted, _, share in confused.itertuples(index=False, name=None)
    )
    trained_on = "CIFAR-10" if data.official else "a stand-in for CIFAR-10"
    settings = ", ".join(f"{field} {value}" for field, value in config.model_dump().items())
    return f"""Classifies colour images of 32 x 32 pixels into the 10 classes of CIFAR-10.

**Classes**, in the order of the outputs: {", ".join(CLASSES)}.

**How to call it**

```python
model = mlflow.pyfunc.load_model("models:/{name}/{version}")
probabilities = model.predict(images)  # uint8 (N, 32, 32, 3), RGB 0..255, to float32 (N, 10)
classes = model.metadata.metadata["classes"]
```

or `mlflow models serve -m models:/{name}/{version} --env-manager local`, then POST to /invocations
`{{"inputs": [...]}}` with N images as nested lists of whole numbers 0..255. The model's artifact
`serving_input_example.json` is such a request.

**Quality** on {len(predictions):,} test images, with 95 % intervals (percentile bootstrap over the images)

| | value (interval) |
| --- | --- |
{numbers}

Validation accuracy {run.metrics["kept_val_accuracy"]:.4f}, by which champions are judged.

**Limits**

- Every picture gets one of the ten classes, whatever it shows.
- Best recall: {recall.idxmax()} ({recall.max():.2f}); worst: {recall.idxmin()} ({recall.min():.2f}). \
Most often it takes {mistakes or "nothing for anything else"}.
- Its probabilities are not frequencies: their mean is {confidence:.2f} at an accuracy of {result.accuracy:.2f}.
- The intervals tell what other images would change, not what another training (seed) would.
- Pixels scaled to 0..1 are wrong: `mlflow.pyfunc` refuses them, but MLflow's server and Keras itself cut \
fractions off without an error, and the model sees black.

**Made by** run {run.run_id} ({run.name}) on {trained_on}, SHA-256 {data.digest}: {settings}.

**Promotion** {reason}
"""


# Loading --------------------------------------------------------------------------------------


def load_model(uri: str) -> LoadedModel:
    """Load a model of the kind that `tracking.log_model` writes, without running any code of its own.

    A model may come from anybody, and most of MLflow's flavors hold pickles or code. So only a .keras
    file is loaded, in Keras' safe mode, and nothing that the model's description names is imported. Nor
    does it take much more memory than the file has bytes, and its names hold no control characters.

    Args:
        uri: a local folder, or any URI that MLflow knows, such as ``models:/cifar10-cnn@champion``,
            ``models:/cifar10-cnn/3``, ``models:/m-…`` or ``runs:/…/model``.

    Raises:
        UsageError: there is no such model, or it is of another kind.
    """
    shown = printable(uri)
    with tempfile.TemporaryDirectory() as scratch, hushed():
        try:
            name, version, folder = _fetch(uri, Path(scratch))
            description = Model.load(str(folder))
        except Exception as error:  # every artifact store raises errors of its own
            raise UsageError(f"{shown}: {_first_line(error)}{_hint(error)}") from error
        try:
            classes = _check_description(description, folder)
            model = keras_file.load(folder / KERAS_FILE)
            _check_behaviour(model, len(classes))
        except Exception as error:  # so does every layer that cannot be made
            raise UsageError(f"{shown}: {_first_line(error)}") from error
    model_id = printable(str(description.model_id)) if description.model_id else None
    return LoadedModel(shown, model_id, name, version, classes, model)


def model_uri(model: str) -> str:
    """The URI of the model that a run logged, for ``runs:/ID`` or a bare run id; else ``model`` itself.

    Raises:
        UsageError: there is no such run, or it logged no model.
    """
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


def origin(model_id: str | None) -> Origin | None:
    """Where a logged model comes from; None where the tracking store has no such model."""
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
    return Origin(
        trial=run.info.run_name if run else None,
        validation_fraction=float(fraction) if fraction else None,
        data_digest=run.data.tags.get(DATA_DIGEST) if run else None,
    )


def _fetch(uri: str, scratch: Path) -> tuple[str | None, str | None, Path]:
    """(registered name, version, local folder) of a model; None where ``uri`` leads to no version."""
    local = user_path(uri)
    if local.exists():
        if not (local / "MLmodel").is_file():
            raise UsageError("no model that MLflow saved: there is no file MLmodel in it")
        link = scratch / "model"  # because MLflow takes # and % in a path for parts of a URI
        link.symlink_to(local.resolve())
        return None, None, link
    if ":" not in uri:
        raise UsageError("no such folder, nor a URI such as models:/NAME@ALIAS")
    name = version = None
    if uri.startswith("models:"):
        # An alias may move between two calls, a version stays what it is.
        *names, number = get_model_name_and_version(mlflow.MlflowClient(), uri)
        if names:
            name, version = str(names[0]), str(number)
    source = f"models:/{name}/{version}" if name else uri
    # A copy, because MLflow notes in a registered model's folder by which name it was called last.
    return name, version, Path(mlflow.artifacts.download_artifacts(source, dst_path=str(scratch)))


def _check_description(description: Model, folder: Path) -> tuple[str, ...]:
    """The classes that a model names; raises UsageError where it is not of our kind."""
    flavors: dict[str, Any] = description.flavors
    others = [name for name in flavors if name not in ("keras", "python_function")]
    loader = flavors.get("python_function", {}).get("loader_module", LOADER)
    if "keras" not in flavors or loader != LOADER:
        found = ", ".join(others) if loader == LOADER else f"loaded by {loader}"
        raise UsageError(
            f"a model of another flavor ({found}), which may run code; only those of mlflow.keras "
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
    """Raise UsageError where a model does not turn images into a probability of each class."""
    if model.input_shape != (None, *IMAGE_SHAPE) or model.output_shape != (None, classes):
        raise UsageError(
            f"takes {model.input_shape} and gives {model.output_shape}, not images "
            f"{(None, *IMAGE_SHAPE)} and probabilities {(None, classes)}"
        )
    probabilities = model.predict_on_batch(np.zeros((1, *IMAGE_SHAPE), np.uint8))
    if probabilities.min() < 0 or not np.isclose(probabilities.sum(), 1, atol=1e-3):
        raise UsageError("its outputs are not probabilities: they do not add up to 1")


def _hint(error: Exception) -> str:
    """What there is to choose from, after a name that is not known."""
    if not isinstance(error, MlflowException) or error.error_code not in UNKNOWN:
        return ""
    models = mlflow.MlflowClient().search_registered_models()
    if not models:
        return (
            f"; none is registered in {mlflow.get_registry_uri()}: `mlflow run . -e grid` makes one"
        )
    found = [
        f"{model.name} ({', '.join(f'@{alias}' for alias in sorted(model.aliases)) or 'no alias'}; "
        f"newest version {max((int(v.version) for v in model.latest_versions), default=0)})"
        for model in models
    ]
    return f"; registered in {mlflow.get_registry_uri()}: {', '.join(found)}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0].rstrip("."))
