"""Measure how good a model is, class by class, and which of two models is better."""

from collections.abc import Sequence
from dataclasses import dataclass

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from cifar_mlflow.analysis import figures, metrics, occlusion, statistics
from cifar_mlflow.analysis.artifacts import model_artifacts
from cifar_mlflow.analysis.statistics import INTERVAL
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import Lines, lines_markdown, say, say_lines
from cifar_mlflow.data.dataset import DataSet, Examples
from cifar_mlflow.data.load import load
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import markdown_table, number, percent
from cifar_mlflow.parameters import EvaluateParameters
from cifar_mlflow.store import models, tracking
from cifar_mlflow.store.runs import MODEL_URI


@dataclass(frozen=True)
class EvaluatedModel:
    """A model, and where it comes from."""

    loaded: models.LoadedModel
    origin: models.Lineage | None  # None if the tracking store does not know the model

    @property
    def name(self) -> str:
        return models.short_name(self.loaded, self.origin)

    def __str__(self) -> str:
        if not self.origin and not self.loaded.name:
            return self.loaded.uri
        trial = self.origin and self.origin.trial
        return f"{self.loaded} ({trial})" if trial else str(self.loaded)

    @property
    def model_id(self) -> str | None:
        """The id to link metrics to; None if the tracking store does not know the model.

        The numbers of an exported file are its own, not those of the model that it was made of.
        """
        return self.loaded.model_id if self.origin and not self.loaded.file else None

    @property
    def tags(self) -> dict[str, str]:
        loaded = self.loaded
        if self.model_id:
            return {MODEL_URI: f"models:/{self.model_id}"}
        if loaded.name and not loaded.file:  # an alias in its URI may move
            return {MODEL_URI: f"models:/{loaded.name}/{loaded.version}"}
        return {MODEL_URI: loaded.uri}


@dataclass(frozen=True)
class EvaluationSet:
    """The images that models are evaluated on."""

    name: str  # test or validation
    examples: Examples
    data: DataSet
    remark: str  # which images they are, and what a reader must know about them

    def __str__(self) -> str:
        return f"{number(len(self.examples.labels), 0)} {self.name} images"


@dataclass(frozen=True)
class ModelEvaluation:
    """A model with its prediction table and `metrics.intervals`."""

    model: EvaluatedModel
    predictions: pd.DataFrame
    intervals: pd.DataFrame


def evaluate_models(parameters: EvaluateParameters) -> None:
    """Evaluate one model in a run; or two, in a run each, under a run that compares them.

    Raises:
        UsageError: a model or the data is not available, or the model is not one for the data.
    """
    data = load(parameters.data_dir, parameters.image_size)
    say("Data", str(data))
    threads = joblib.cpu_count()
    evaluated = [find_model(model, data, threads) for model in parameters.model]
    images = choose_images(parameters.part, data, evaluated)
    say("Images", f"{images}{images.remark}")

    if len(evaluated) == 1:
        (only,) = evaluated
        with tracking.tracked_run("evaluate", f"evaluate {only.name}", tags=only.tags):
            evaluate_one(only, images, parameters, threads)
        return
    first, second = evaluated
    with tracking.tracked_run("comparison", f"{first.name} against {second.name}") as run:
        tracking.log_parameters(parameters)
        tracking.log_dataset(data, images.name)
        evaluations = []
        for model, given in zip(evaluated, parameters.model):
            own = parameters.model_copy(update={"model": (given,)})
            with tracking.tracked_run(
                "evaluate", f"evaluate {model.name}", run.as_parent(), model.tags
            ):
                evaluations.append(evaluate_one(model, images, own, threads))
        log_comparison(evaluations[0], evaluations[1], images)


def find_model(model: str, data: DataSet, threads: int) -> EvaluatedModel:
    """Find and load a model, which computes with so many threads.

    Raises:
        UsageError: there is no such model, or it is not one for images and classes as of ``data``.
    """
    loaded = models.load_model(model, threads)
    if loaded.classes != data.classes:
        raise UsageError(
            f"{model}: its classes are {_shortened(loaded.classes)}, not {data.name}'s "
            f"({_shortened(data.classes)})"
        )
    if (takes := tuple(loaded.model.input_shape[1:])) != data.image_shape:
        raise UsageError(
            f"{model}: it takes images of {takes[0]} x {takes[1]} pixels; give image_size={takes[0]}, not "
            f"{data.image_shape[0]}"
        )
    return EvaluatedModel(loaded, models.lineage(loaded.model_id))


def _shortened(classes: Sequence[str]) -> str:
    """The first ten classes with commas."""
    more = f" and {len(classes) - 10} more" if len(classes) > 10 else ""
    return ", ".join(classes[:10]) + more


def choose_images(part: str, data: DataSet, evaluated: Sequence[EvaluatedModel]) -> EvaluationSet:
    """The test set, or the images that every model's training held out for validation.

    Raises:
        UsageError: a model held out none.
    """
    origins = [model.origin for model in evaluated]
    other_data = any(origin and origin.data_digest not in (None, data.digest) for origin in origins)
    remark = "; a model was trained on other data" if other_data else ""
    if part == "test":
        return EvaluationSet(part, data.examples("test"), data, remark)
    known = [origin.validation_fraction if origin else None for origin in origins]
    fractions = [fraction for fraction in known if fraction is not None]
    if 0 in fractions:
        raise UsageError(
            f"part={part}: {evaluated[known.index(0)].name} was trained on all training images; "
            "use part=test"
        )
    if len(fractions) < len(origins):
        used = "the other's" if fractions else "the default one"
        remark += f"; a model's validation split is unknown, so this is {used}"
    fraction = min(fractions, default=TrialConfig().validation_fraction)
    share = f"the last {100 * fraction:g} % of" if data.positions is None else "those held out of"
    remark = f", {share} the training images{remark}"
    return EvaluationSet(part, data.split(fraction).validation, data, remark)


def evaluate_one(
    model: EvaluatedModel, images: EvaluationSet, parameters: EvaluateParameters, threads: int
) -> ModelEvaluation:
    """Evaluate a model, log everything to the active run, and print the main results."""
    probabilities = model.loaded.predict(images.examples.images)
    predictions = metrics.prediction_table(
        probabilities, images.examples.labels, images.data.classes
    )
    result = metrics.evaluate(predictions)
    intervals = metrics.intervals(predictions)
    calibration = metrics.calibration_table(predictions)
    confused = metrics.most_confused(result.confusion)
    title = figures.plain(f"{model.name}, {images}")

    tracking.log_parameters(parameters)
    tracking.log_environment(threads)
    tracking.log_dataset(images.data, images.name)
    tracking.log_metrics(with_bounds(result, intervals, images.name), images.data, model.model_id)
    drawn, tables = model_artifacts(predictions, result, images.examples.images, title)
    error = f"expected calibration error {number(result.calibration_error)}"
    tracking.log_files(
        figures={
            **drawn,
            "reliability.png": figures.reliability(calibration, f"{title}\n{error}"),
            "roc.png": figures.roc(metrics.roc_curves(predictions), title),
            "precision_recall.png": figures.precision_recall(
                metrics.precision_recall_curves(predictions), title
            ),
            "occlusion.png": draw_occlusion(model, predictions, images.examples.images, title),
        },
        tables={
            **tables,
            "most_confused.csv": confused,
            "calibration.csv": calibration,
            "intervals.csv": intervals,
        },
    )
    lines = headline_lines(model, result, intervals, confused)
    say_lines(lines)
    tracking.describe(description(lines, images))
    return ModelEvaluation(model, predictions, intervals)


def draw_occlusion(
    model: EvaluatedModel, predictions: pd.DataFrame, images: npt.NDArray[np.uint8], title: str
) -> Figure:
    """Where the model looks in the images of which it is most confident, rightly and wrongly."""
    shown = pd.concat([metrics.most_confident(predictions, right) for right in (True, False)])
    pixels = images[shown.index.to_numpy()]
    classes = pd.Index(metrics.classes_of(predictions)).get_indexer(pd.Index(shown["predicted"]))
    maps = occlusion.occlusion_maps(model.loaded.predict, pixels, classes)
    return figures.occlusion(pixels, shown, maps, title)


def with_bounds(
    result: metrics.Evaluation, intervals: pd.DataFrame, prefix: str
) -> dict[str, float]:
    """All metrics by name, and the bounds of those with an interval, such as ``test_accuracy_low``."""
    bounds = {
        f"{prefix}_{name}_{bound}": float(intervals[bound][name])
        for name in intervals.index
        for bound in ("low", "high")
    }
    return result.metrics(prefix) | bounds


def headline_lines(
    model: EvaluatedModel,
    result: metrics.Evaluation,
    intervals: pd.DataFrame,
    confused: pd.DataFrame,
) -> Lines:
    """The main results, for the terminal and the run's description.

    Args:
        intervals: of `metrics.intervals`.
        confused: of `metrics.most_confused`.
    """

    def headline(name: str) -> str:
        value, low, high = _as_text(intervals, name)
        return f"{value} ({INTERVAL} {low} to {high})"

    f1 = result.report["f1"][result.report["support"] > 0]
    mistakes = [
        f"{true} taken for {predicted} {number(count, 0)} times ({percent(share, 0)})"
        for true, predicted, count, share in confused.head(3).itertuples(index=False, name=None)
    ]
    top = [f"{k}: {number(share, 4)}" for k, share in result.top_accuracy.items()]
    balanced = number(result.macro_recall, 4)
    uneven = balanced != number(result.accuracy, 4)  # as where the classes differ in size
    return [
        ("Model", str(model)),
        ("Accuracy", headline("accuracy")),
        *([("Balanced", f"{balanced}, the mean recall of the classes")] if uneven else []),
        ("Macro F1", headline("macro_f1")),
        ("Loss", f"{headline('loss')} nats"),
        *([("Top k", ", ".join(top))] if top else []),
        ("ECE", f"{headline('calibration_error')}, expected calibration error"),
        ("Confused", ", ".join(mistakes) or "nothing"),
        (
            "Classes",
            f"best {f1.idxmax()} (F1 {number(f1.max())}), worst {f1.idxmin()} (F1 {number(f1.min())})",
        ),
    ]


def log_comparison(first: ModelEvaluation, second: ModelEvaluation, images: EvaluationSet) -> None:
    """Compare two models on the same images, log the result to the active run, and print it."""
    comparison = statistics.compare(first.predictions, second.predictions)
    tracking.log_metrics(
        {
            "accuracy_difference": comparison.difference,
            "accuracy_difference_low": comparison.low,
            "accuracy_difference_high": comparison.high,
            "mcnemar_p_value": comparison.p_value,
        },
        images.data,
        model_id=None,
    )
    tracking.log_files(tables={"comparison.csv": comparison.table})
    counts = comparison.table.map(lambda count: number(count, 0)).to_numpy()
    agreement = (
        f"both right {counts[0, 0]}, only the first {counts[0, 1]}, "
        f"only the second {counts[1, 0]}, both wrong {counts[1, 1]}"
    )
    lines = [
        ("Compared", f"{first.model.name} against {second.model.name}: {comparison}"),
        ("Agreed", agreement),
    ]
    say_lines(lines)
    tracking.describe(f"{description(lines, images)}\n{side_by_side([first, second])}")


def description(lines: Lines, images: EvaluationSet) -> str:
    """Results as Markdown, with the images and the kind of intervals."""
    return (
        f"{images}{images.remark}. Intervals are percentile bootstraps over the images, "
        f"{number(statistics.RESAMPLES, 0)} resamples.\n\n{lines_markdown(lines)}\n"
    )


def side_by_side(evaluations: Sequence[ModelEvaluation]) -> str:
    """The headline numbers with their intervals as a Markdown table, a column for each model."""
    rows = []
    for name in evaluations[0].intervals.index:
        bounds = [_as_text(each.intervals, name) for each in evaluations]
        cells = [f"{value} ({low} to {high})" for value, low, high in bounds]
        rows.append([name.replace("_", " "), *cells])
    return markdown_table(["metric", *(each.model.name for each in evaluations)], rows)


def _as_text(intervals: pd.DataFrame, name: str) -> list[str]:
    """Value, low and high of a headline number."""
    return [number(intervals[column][name], 4) for column in ("value", "low", "high")]
