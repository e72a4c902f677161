"""The model registry: register a study's best model, and decide which version is the champion."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.store.query import UNKNOWN
from cifar_mlflow.store.runs import DATA_DIGEST, REFIT_OF, VALIDATION_FRACTION, TrackedRun

CHAMPION, CHALLENGER = "champion", "challenger"
KEPT_VAL_ACCURACY = "kept_val_accuracy"
PROMOTION = "promotion"  # why a version got its alias
FORMATS = "formats"  # what a version was exported to, such as ``litert,onnx``
EXPORTED = "exported"  # the folder of these files, among the model's artifacts
JUDGED_WITH = "judged_with"  # the first version of its round, while the alias is set
LISTED = 1000  # characters of a list of classes; MLflow keeps 5,000 of a description or a tag


@dataclass(frozen=True)
class Promotion:
    """The alias of a newly registered version, and why it got it."""

    version: str
    alias: str  # champion or challenger
    reason: str


def judge(new: dict[str, str], champion: dict[str, str] | None) -> tuple[str, str]:
    """The alias for a version with the tags ``new``, given the present champion's tags, and why."""
    reached = _kept_val_accuracy(new)
    if reached is None:
        return CHALLENGER, "it has no validation accuracy, which decides the champion"
    validated = validation(new)
    remark = f"; {validated}" if REFIT_OF in new else ""
    if champion is None:
        return CHAMPION, f"there was no champion{remark}"
    for condition, name in ((DATA_DIGEST, "data"), (VALIDATION_FRACTION, "validation images")):
        if condition not in champion:
            return CHALLENGER, f"the {name} of the champion are not known: not comparable{remark}"
        if champion[condition] != new[condition]:
            return CHALLENGER, f"the champion was measured on other {name}: not comparable{remark}"
    to_beat = _kept_val_accuracy(champion)
    if to_beat is None:  # someone moved the alias by hand
        return CHALLENGER, f"the champion has no validation accuracy to compare with{remark}"
    if reached > to_beat:
        return CHAMPION, f"{validated} beats the champion's {to_beat:.4f}"
    # Such as that of the champion itself.
    if reached == to_beat and REFIT_OF in new and REFIT_OF not in champion:
        return CHAMPION, f"{validated} equals the champion's, which was trained on fewer images"
    return CHALLENGER, f"{validated} does not beat the champion's {to_beat:.4f}"


def judged_by(run: TrackedRun, twin: TrackedRun | None) -> dict[str, str]:
    """The tags of a version of a run's model by which it is judged; of a refit, its twin's accuracy."""
    tags = {REFIT_OF: twin.run_id} if twin else {}
    accuracy = (twin or run).metrics.get(KEPT_VAL_ACCURACY)
    return tags if accuracy is None else {**tags, KEPT_VAL_ACCURACY: str(accuracy)}


def validation(tags: dict[str, str]) -> str:
    """The validation accuracy of a version with these tags in words, and of a refit whose it is."""
    accuracy = _kept_val_accuracy(tags)
    if accuracy is None:
        return "no validation accuracy"
    text = f"validation accuracy {accuracy:.4f}"
    if twin := tags.get(REFIT_OF):
        text += f" (of its twin, run {twin}, which was trained without the validation images)"
    return text


def _kept_val_accuracy(tags: dict[str, str]) -> float | None:
    # Versions registered before 0.2 have the tag val_accuracy instead.
    accuracy = tags.get(KEPT_VAL_ACCURACY) or tags.get("val_accuracy")
    return float(accuracy) if accuracy else None


def champion(name: str) -> ModelVersion | None:
    """The version with the alias `champion`; None if there is none."""
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in UNKNOWN:
            return None
        raise


def register(
    name: str,
    run: TrackedRun,
    config: TrialConfig,
    data: DataSet,
    twin: TrackedRun | None = None,
) -> Promotion:
    """Register a trial's model as a new version of ``name``; move the alias if it is better.

    If several processes do so at once, the best model becomes champion, however their calls interleave
    (`_agree`). A model that an interrupted study has already registered gets no second version.

    Args:
        twin: of a refit, which has no validation accuracy, the trial that it trained again. Its validation
            accuracy stands for the refit's.
    """
    client = mlflow.MlflowClient()
    versions = _versions(name)
    registered = next((each for each in versions if each.run_id == run.run_id), None)
    if registered is None:
        held_out = twin.parameters[VALIDATION_FRACTION] if twin else config.validation_fraction
        tags = {
            DATA_DIGEST: data.digest,
            VALIDATION_FRACTION: str(held_out),
            "test_accuracy": str(run.metrics["test_accuracy"]),
            "test_loss": str(run.metrics["test_loss"]),
            "trial": run.name,
            "classes": _listed(data.classes),
            JUDGED_WITH: str(_round(versions)),
            **judged_by(run, twin),
        }
        _, reason = judge(tags, _tags(champion(name)))
        # MLflow prints the new version to stderr, at every log level; `Promotion` is said instead.
        with contextlib.redirect_stderr(io.StringIO()):
            registered = mlflow.register_model(
                run.model_uri, name, tags={**tags, PROMOTION: reason}
            )
    elif JUDGED_WITH not in registered.tags:
        alias = CHAMPION if _same(champion(name), registered) else CHALLENGER
        return Promotion(str(registered.version), alias, registered.tags[PROMOTION])
    alias, reason = _agree(name, registered)
    version = str(registered.version)
    client.update_registered_model(name, _about(data))
    if alias == CHALLENGER:
        client.set_registered_model_alias(name, CHALLENGER, version)
    client.set_model_version_tag(name, version, PROMOTION, reason)
    client.delete_model_version_tag(name, version, JUDGED_WITH)
    return Promotion(version, alias, reason)


def _agree(name: str, mine: ModelVersion) -> tuple[str, str]:
    """Put `champion` on the best version of a round; gives the alias of ``mine``, and why.

    MLflow has no compare-and-set for aliases, so a process may overwrite what another one has just set.
    Each process therefore reads the alias again after setting it, until it is on the best version that
    could have been overwritten:

    - A version has the tag `judged_with` from its creation until its process is done with the alias. The
      value is the first version of its round (`_round`): all versions that did not exist when it was
      created, and the rounds of those that were not done then. The process judges all of these.
    - Suppose the last process to set the alias, P, puts it on x, and y is better. If y was created after
      P's last read, y's process reads later still, sees x, and sets y. If y is in P's round, P saw it
      and set y. Otherwise y was done when x was created, and so was every process that had read the
      alias before y was judged. Then the alias was on y or better when P read it, so P did not set x.

    So the alias ends on the best version, in whatever order the processes read and set it. A version
    from before the round is not restored, so a manual rollback stays. A process that is killed in here
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
    """The versions that studies registered, the oldest first."""
    versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    return sorted(
        (version for version in versions if PROMOTION in version.tags),
        key=lambda version: int(version.version),
    )


def _tags(version: ModelVersion | None) -> dict[str, str] | None:
    return dict(version.tags) if version else None


def add_formats(
    model_id: str, files: Mapping[str, Path], name: str | None, version: str | None
) -> None:
    """Add exported files, by format, to a logged model; and the formats to its version's tag."""
    client = mlflow.MlflowClient()
    for file in files.values():
        client.log_model_artifact(model_id, str(file), EXPORTED)
    if name and version:
        before = client.get_model_version(name, version).tags.get(FORMATS, "").split(",")
        formats = sorted({*filter(None, before), *files})
        client.set_model_version_tag(name, version, FORMATS, ",".join(formats))


def _about(data: DataSet) -> str:
    """The description of a registered model."""
    height, width, _ = data.image_shape
    return f"""Image classifiers for {data.name}: uint8 images (N, {height}, {width}, 3) to probabilities of \
{len(data.classes)} classes.

The alias `champion` is on the version with the best validation accuracy, `challenger` on the newest one
that did not beat it. Each version's description says how good it is and how to call it."""


def _listed(classes: Sequence[str]) -> str:
    """The classes with commas; where they are long, the first of them and their number."""
    text = ", ".join(classes)
    if len(text) <= LISTED:
        return text
    whole = text[:LISTED].rpartition(",")[0]
    return f"{whole}, … ({len(classes)} in all; the model's metadata has them)"
