"""The model registry: register a study's best model, and decide which version is the champion."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from cifar_mlflow.analysis import metrics
from cifar_mlflow.analysis.statistics import INTERVAL
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES, Cifar10
from cifar_mlflow.formatting import markdown_table, number, percent
from cifar_mlflow.store import tracking
from cifar_mlflow.store.tracking import DATA_DIGEST, UNKNOWN, TrackedRun

CHAMPION, CHALLENGER = "champion", "challenger"
VALIDATION_FRACTION = "validation_fraction"
KEPT_VAL_ACCURACY = "kept_val_accuracy"
PROMOTION = "promotion"  # why a version got its alias
JUDGED_WITH = "judged_with"  # the first version of its round, while the alias is being set
ABOUT = """Image classifiers for CIFAR-10: uint8 images (N, 32, 32, 3) to probabilities of 10 classes.

The alias `champion` is on the version with the best validation accuracy, `challenger` on the newest one
that did not beat it. Each version's description tells how good it is and how to call it."""


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
    # Versions registered before 0.2 have the tag val_accuracy instead.
    ours, theirs = (float(t.get(KEPT_VAL_ACCURACY) or t["val_accuracy"]) for t in (new, champion))
    if ours > theirs:
        return (
            CHAMPION,
            f"validation accuracy {number(ours, 4)} beats the champion's {number(theirs, 4)}",
        )
    return (
        CHALLENGER,
        f"validation accuracy {number(ours, 4)} does not beat the champion's {number(theirs, 4)}",
    )


def champion(name: str) -> ModelVersion | None:
    """The version with the alias `champion`, or None where there is none."""
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in UNKNOWN:
            return None
        raise


def register(name: str, run: TrackedRun, config: TrialConfig, data: Cifar10) -> Promotion:
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
            KEPT_VAL_ACCURACY: str(run.metrics[KEPT_VAL_ACCURACY]),
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
    run: TrackedRun,
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
    result = metrics.evaluate(predictions)
    quality = markdown_table(
        ["metric", "value (interval)"],
        [
            [
                metric.replace("_", " "),
                f"{number(value, 4)} ({number(low, 4)} to {number(high, 4)})",
            ]
            for metric, value, low, high in metrics.intervals(predictions).itertuples(name=None)
        ],
    )
    confidence = predictions[list(CLASSES)].max(axis=1).mean()
    recall = result.report["recall"]
    confused = metrics.most_confused(result.confusion).head(3)
    mistakes = ", ".join(
        f"{true} for {predicted} ({percent(share, 0)})"
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

**Quality** on {len(predictions):,} test images, with {INTERVAL}s (percentile bootstrap over the images)

{quality}

Validation accuracy {number(run.metrics[KEPT_VAL_ACCURACY], 4)}, by which champions are judged.

**Limits**

- Every picture gets one of the ten classes, whatever it shows.
- Best recall: {recall.idxmax()} ({number(recall.max(), 2)}); worst: {recall.idxmin()} ({number(recall.min(), 2)}). \
Most often it takes {mistakes or "nothing for anything else"}.
- Its probabilities are not frequencies: their mean is {number(confidence, 2)} at an accuracy of {number(result.accuracy, 2)}.
- The intervals tell what other images would change, not what another training (seed) would.
- Pixels scaled to 0..1 are wrong: `mlflow.pyfunc` refuses them, but MLflow's server and Keras itself cut \
fractions off without an error, and the model sees black.

**Made by** run {run.run_id} ({run.name}) on {trained_on}, SHA-256 {data.digest}: {settings}.

**Promotion** {reason}
"""
