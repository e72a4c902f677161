"""How good a model is, class by class, and which of two is better: what the entry point evaluate does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import pandas as pd

from cifar_mlflow.analysis import figures, metrics, statistics
from cifar_mlflow.analysis.artifacts import model_artifacts
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import say
from cifar_mlflow.data.cifar10 import CLASSES, Cifar10, Examples
from cifar_mlflow.data.load import load
from cifar_mlflow.errors import UsageError
from cifar_mlflow.parameters import EvaluateParameters
from cifar_mlflow.store import models, tracking
from cifar_mlflow.store.runs import MODEL_URI

Account = list[tuple[str, str]]  # topics and texts


@dataclass(frozen=True)
class Subject:
    """A model to evaluate."""

    loaded: models.LoadedModel
    origin: models.Lineage | None  # None where the tracking store does not know the model

    @property
    def name(self) -> str:
        """For a person: the registered version, else the trial, else the folder."""
        if self.loaded.name:
            return f"{self.loaded.name} version {self.loaded.version}"
        return (self.origin and self.origin.trial) or Path(self.loaded.uri).name

    def __str__(self) -> str:
        if not self.origin:
            return self.loaded.uri
        return f"{self.loaded} ({self.origin.trial})" if self.origin.trial else str(self.loaded)

    @property
    def model_id(self) -> str | None:
        """The id to link metrics to; None where the tracking store does not know the model."""
        return self.loaded.model_id if self.origin else None

    @property
    def tags(self) -> dict[str, str]:
        uri = f"models:/{self.model_id}" if self.model_id else self.loaded.uri
        return {MODEL_URI: uri}


@dataclass(frozen=True)
class Part:
    """The images that models are evaluated on."""

    name: str  # test or validation
    examples: Examples
    data: Cifar10
    remark: str  # where the images come from

    def __str__(self) -> str:
        return f"{len(self.examples.labels):,} {self.name} images"


@dataclass(frozen=True)
class Assessed:
    subject: Subject
    predictions: pd.DataFrame
    intervals: pd.DataFrame


def assess(parameters: EvaluateParameters) -> None:
    """Evaluate one model, in a run; or two, in a run each, under the run that compares them.

    Raises:
        UsageError: a model or the data cannot be had, or the model is not one for CIFAR-10.
    """
    data = load(parameters.data_dir)
    say("Data", str(data))
    threads = joblib.cpu_count()
    from cifar_mlflow.training import fit  # takes seconds

    fit.configure(threads)
    subjects = [subject(model) for model in parameters.model]
    part = choose_part(parameters.part, data, subjects)
    say("Images", f"{part}{part.remark}")

    if len(subjects) == 1:
        (only,) = subjects
        with tracking.tracked_run("evaluate", f"evaluate {only.name}", tags=only.tags):
            log_one(only, part, parameters, threads)
        return
    first, second = subjects
    with tracking.tracked_run("comparison", f"{first.name} against {second.name}") as run:
        tracking.log_parameters(parameters)
        tracking.log_dataset(data, part.name)
        assessed = []
        for each, model in zip(subjects, parameters.model):
            given = parameters.model_copy(update={"model": (model,)})
            name = f"evaluate {each.name}"
            with tracking.tracked_run("evaluate", name, run.as_parent(), each.tags):
                assessed.append(log_one(each, part, given, threads))
        log_comparison(assessed[0], assessed[1], part)


def subject(model: str) -> Subject:
    """Find and load a model.

    Raises:
        UsageError: there is no such model, or it is not one for CIFAR-10.
    """
    loaded = models.load_model(model)
    if loaded.classes != CLASSES:
        raise UsageError(
            f"{model}: its classes are {', '.join(loaded.classes)}, not CIFAR-10's "
            f"({', '.join(CLASSES)})"
        )
    return Subject(loaded, models.lineage(loaded.model_id))


def choose_part(name: str, data: Cifar10, subjects: Sequence[Subject]) -> Part:
    """The test set, or the images that the training of every one of ``subjects`` held out."""
    origins = [each.origin for each in subjects]
    other_data = any(found and found.data_digest not in (None, data.digest) for found in origins)
    remark = "; trained on other data than these" if other_data else ""
    if name == "test":
        return Part(name, data.examples("test"), data, remark)
    known = [found.validation_fraction for found in origins if found]
    fractions = [fraction for fraction in known if fraction]
    usual = TrialConfig().validation_fraction
    if len(fractions) < len(origins):
        remark += "; the split of the training is not known, this is the usual one"
    fraction = min(fractions, default=usual)
    remark = f", the last {100 * fraction:g} % of the training images{remark}"
    return Part(name, data.split(fraction).validation, data, remark)


def log_one(
    subject: Subject,
    part: Part,
    parameters: EvaluateParameters,
    threads: int,
) -> Assessed:
    """Evaluate a model, keep everything in the active run, and tell the essence."""
    from cifar_mlflow.training import fit

    probabilities = fit.predict(subject.loaded.model, part.examples)
    predictions = metrics.prediction_table(probabilities, part.examples.labels)
    result = metrics.evaluate(predictions)
    intervals = metrics.intervals(predictions)
    calibration = metrics.calibration_table(predictions)
    pairs = metrics.most_confused(result.confusion)
    title = f"{subject.name}, {part}"

    tracking.log_parameters(parameters)
    tracking.log_environment(threads)
    tracking.log_dataset(part.data, part.name)
    tracking.log_metrics(with_bounds(result, intervals, part.name), part.data, subject.model_id)
    pictures, tables = model_artifacts(predictions, result, part.examples.images, title)
    tracking.log_files(
        figures={
            **pictures,
            "reliability.png": figures.reliability(
                calibration, f"{title}\nexpected calibration error {result.calibration_error:.3f}"
            ),
            "roc.png": figures.roc(metrics.roc_curves(predictions), title),
            "precision_recall.png": figures.precision_recall(
                metrics.precision_recall_curves(predictions), title
            ),
        },
        tables={
            **tables,
            "most_confused.csv": pairs,
            "calibration.csv": calibration,
            "intervals.csv": intervals,
        },
    )
    account = essence(subject, result, intervals, pairs)
    for topic, text in account:
        say(topic, text)
    tracking.describe(description(account, part))
    return Assessed(subject, predictions, intervals)


def with_bounds(
    result: metrics.Evaluation, intervals: pd.DataFrame, prefix: str
) -> dict[str, float]:
    """Every number by name, and the bounds of those that have an interval: test_accuracy_low."""
    bounds = {
        f"{prefix}_{name}_{bound}": float(intervals[bound][name])
        for name in intervals.index
        for bound in ("low", "high")
    }
    return result.metrics(prefix) | bounds


def essence(
    subject: Subject,
    result: metrics.Evaluation,
    intervals: pd.DataFrame,
    pairs: pd.DataFrame,
) -> Account:
    """What a person wants to know first."""

    def number(name: str) -> str:
        value, low, high = intervals.loc[name]
        return f"{value:.4f} (95 % interval {low:.4f} to {high:.4f})"

    f1 = result.report["f1"]
    classes = f"best {f1.idxmax()} (F1 {f1.max():.3f}), worst {f1.idxmin()} (F1 {f1.min():.3f})"
    confused = [
        f"{true} taken for {predicted} {count:,} times ({100 * share:.0f} %)"
        for true, predicted, count, share in pairs.head(3).itertuples(index=False, name=None)
    ]
    return [
        ("Model", str(subject)),
        ("Accuracy", number("accuracy")),
        ("Macro F1", number("macro_f1")),
        ("Loss", f"{number('loss')} nats"),
        ("Top k", ", ".join(f"{k}: {share:.4f}" for k, share in result.top_accuracy.items())),
        ("ECE", f"{number('calibration_error')}, expected calibration error"),
        ("Confused", ", ".join(confused) or "nothing"),
        ("Classes", classes),
    ]


def log_comparison(first: Assessed, second: Assessed, part: Part) -> None:
    """Compare two models on the same images; keep it in the active run, and tell the verdict."""
    comparison = statistics.compare(first.predictions, second.predictions)
    tracking.log_metrics(
        {
            "accuracy_difference": comparison.difference,
            "accuracy_difference_low": comparison.low,
            "accuracy_difference_high": comparison.high,
            "mcnemar_p_value": comparison.p_value,
        },
        part.data,
        model_id=None,
    )
    tracking.log_files(tables={"comparison.csv": comparison.table})
    counts = comparison.table.to_numpy()
    agreement = (
        f"both right {counts[0, 0]:,}, only the first {counts[0, 1]:,}, "
        f"only the second {counts[1, 0]:,}, both wrong {counts[1, 1]:,}"
    )
    account = [
        ("Compared", f"{first.subject.name} against {second.subject.name}: {comparison}"),
        ("Agreed", agreement),
    ]
    for topic, text in account:
        say(topic, text)
    tracking.describe(f"{description(account, part)}\n{side_by_side([first, second])}")


def description(account: Account, part: Part) -> str:
    """An account as Markdown, with what it is about."""
    told = "\n\n".join(f"**{topic}** {text}" for topic, text in account)
    return (
        f"{part}{part.remark}. Intervals are percentile bootstraps over the images, "
        f"{statistics.RESAMPLES:,} resamples.\n\n{told}\n"
    )


def side_by_side(models: Sequence[Assessed]) -> str:
    """The headline numbers with their intervals, a column for each model, as Markdown."""
    lines = [["", *(each.subject.name for each in models)], ["---"] * (1 + len(models))]
    for name in metrics.HEADLINES:
        cells = [
            f"{bounds['value'][name]:.4f} ({bounds['low'][name]:.4f} to {bounds['high'][name]:.4f})"
            for bounds in (each.intervals for each in models)
        ]
        lines.append([name.replace("_", " "), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
