"""Export a model to files that run without TensorFlow, and measure each against the model."""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from rich.progress import Progress
from rich.table import Table

from cifar_mlflow import console
from cifar_mlflow.console import say
from cifar_mlflow.data.dataset import DataSet, Examples
from cifar_mlflow.data.load import load
from cifar_mlflow.errors import UsageError
from cifar_mlflow.evaluate import EvaluatedModel, find_model
from cifar_mlflow.formats import SUFFIXES, Metadata
from cifar_mlflow.formatting import markdown_table, number, percent
from cifar_mlflow.output_folder import OutputFolder
from cifar_mlflow.parameters import ExportParameters
from cifar_mlflow.paths import written_to
from cifar_mlflow.store import card, models, registry, tracking
from cifar_mlflow.store.models import Classifier

CALIBRATION_IMAGES = 500  # of training, which show how large the numbers inside a network become
# Limits. The same operations in another order differ by some 1e-7 in each layer. Up to 1e-4, the class
# changes only where the two likeliest are within 2e-4: a tie. More is a wrong conversion.
FLOAT_DIFFERENCE = 1e-4
# 8 bits change every probability a little, so what counts is the accuracy. An accuracy of 0.7 on 10,000
# images is known to about 0.01 (95 % interval), so a smaller loss could not be seen.
INT8_LOSS = 0.01
RUNS, SECONDS = 5, 0.5  # of each measurement of time, at least
# Files of the output folder, which has one for each `Variant` too.
KERAS, CARD, CONFIG = "model.keras", card.FILE, "config.json"
PACKAGES = ("keras", "tensorflow", "onnx", "onnxruntime", "tf2onnx", "ai-edge-litert")
PREPROCESSING = (
    "turn the image as its EXIF data says; RGB, on white where it is transparent; crop the largest "
    "square around the centre; resize it to image_size x image_size pixels; whole numbers 0 to 255, not "
    "scaled"
)
HEADINGS = ("format", "MB", "difference", "same class", "test acc.", "ms alone", "ms of 64")
LEGEND = (
    "difference: the largest of a probability to Keras; same class: share of the test images; ms: "
    "per image on one thread, alone and in a batch of 64"
)


@dataclass(frozen=True)
class Variant:
    """A format, in float32 or int8."""

    format: str
    int8: bool

    def __str__(self) -> str:
        return self.format + ("-int8" if self.int8 else "")

    @property
    def file(self) -> str:
        return f"model{'-int8' if self.int8 else ''}{SUFFIXES[self.format]}"


FILES = tuple(Variant(name, int8).file for name in SUFFIXES for int8 in (False, True))
FOLDER = OutputFolder("cifar_mlflow export", CONFIG, (CONFIG, CARD, KERAS, *FILES))


@dataclass(frozen=True)
class Measurement:
    """How good, large and fast a model in one format is, on the test images."""

    bytes: int
    max_difference: float  # of a probability to that of the Keras model
    agreement: float  # share of the images that get the same class from both
    test_accuracy: float
    # On one thread, of an image alone and in a batch of 64; NaN for Keras, whose threads cannot change.
    ms_per_image: float = math.nan
    ms_per_image_of_64: float = math.nan

    def cells(self) -> list[str]:
        """What follows the name in a table with `HEADINGS`."""
        return [
            number(self.bytes / 1e6, 2),
            f"{self.max_difference:.0e}",
            percent(self.agreement, 2),
            number(self.test_accuracy, 4),
            number(self.ms_per_image, 2),
            number(self.ms_per_image_of_64, 2),
        ]


def export_model(parameters: ExportParameters) -> str | None:
    """Export a model, measure each file, log all to a run, and write the output folder.

    Returns:
        Which file is not as good as the model, and why; then no file is kept. None if all are.

    Raises:
        UsageError: the model or the data is not available, the model was trained on other data or is an
            exported file, or the output folder cannot be written or holds files of the user's.
    """
    output = written_to(parameters.output)
    previous = FOLDER.previous(output)
    data = load(parameters.data_dir, parameters.image_size)
    say("Data", str(data))
    threads = joblib.cpu_count()
    model = find_model(parameters.model, data, threads)
    check_source(model, data)
    say("Model", str(model))
    variants = [
        Variant(name, int8)
        for name in parameters.formats
        for int8 in ((False, True) if parameters.int8 else (False,))
    ]
    with (
        tracking.tracked_run("export", f"export {model.name}", tags=model.tags),
        tempfile.TemporaryDirectory() as scratch,
    ):
        folder = Path(scratch)
        tracking.log_parameters(parameters)
        tracking.log_environment(threads)
        tracking.log_dataset(data, "test")
        if model.model_id:
            tracking.log_model_used(model.model_id)
        measured = write_and_measure(folder, model, data, variants, threads)
        show(measured)
        for name, measurement in measured.items():
            prefix = name.replace("-", "_")
            values = {k: value for k, value in asdict(measurement).items() if not math.isnan(value)}
            tracking.log_metrics({f"{prefix}_{field}": value for field, value in values.items()})
        tracking.describe(description(model, measured))
        if failure := first_failure(measured, len(data.examples("test").labels)):
            tracking.tag_end_reason(failure)
            return failure
        if model.model_id:
            files = {str(variant): folder / variant.file for variant in variants}
            registry.add_formats(model.model_id, files, model.loaded.name, model.loaded.version)
            write_card(folder, model)
        write_config(folder, model, data)
        tracking.log_folder(folder)
        FOLDER.publish(folder, output, previous)
    say("Exported", f"{output}")
    return None


def check_source(model: EvaluatedModel, data: DataSet) -> None:
    """Raise UsageError for an exported file, and for a model that was trained on other data."""
    if model.loaded.file:
        raise UsageError(
            f"{model.loaded.uri}: this is an exported file; give the model that it was exported from"
        )
    trained_on = model.origin.data_digest if model.origin else None
    if trained_on not in (None, data.digest):
        raise UsageError(
            f"{model.loaded.uri}: trained on other data (SHA-256 {trained_on}) than {data}; export it "
            "with its own, which the files are calibrated and measured on"
        )


# Convert and measure --------------------------------------------------------------------------


def write_and_measure(
    folder: Path, model: EvaluatedModel, data: DataSet, variants: list[Variant], threads: int
) -> dict[str, Measurement]:
    """Write the Keras model and a file for each of ``variants``; measure each, by its name."""
    from cifar_mlflow.training import convert  # takes seconds to import

    converters = {"onnx": convert.to_onnx, "litert": convert.to_litert}
    network: Any = model.loaded.model  # a keras.Model, as it is no exported file
    network.save(folder / KERAS)
    metadata = describe_model(model, data).as_text()
    calibration = np.array(data.examples("train").images[:CALIBRATION_IMAGES])
    test = data.examples("test")
    expected = model.loaded.predict(test.images)
    measured = {"keras": measure(folder / KERAS, expected, expected, test)}
    terminal = console.terminal
    with Progress(console=terminal, disable=not terminal.is_terminal, transient=True) as progress:
        for variant in progress.track(variants, description="  Exporting"):
            path = folder / variant.file
            path.write_bytes(
                converters[variant.format](network, metadata, calibration if variant.int8 else None)
            )
            found = models.load_model(str(path), threads).predict(test.images)
            alone, many = milliseconds(models.load_model(str(path), threads=1).model, test.images)
            measured[str(variant)] = replace(
                measure(path, found, expected, test), ms_per_image=alone, ms_per_image_of_64=many
            )
    return measured


def describe_model(model: EvaluatedModel, data: DataSet) -> Metadata:
    """What every exported file says about the model."""
    loaded = model.loaded
    # Empty if it is not known what the model was trained on.
    digest = (model.origin and model.origin.data_digest) or ""
    return Metadata(
        classes=loaded.classes,
        image_size=loaded.image_size,
        data_set=data.title if digest else "",
        data_digest=digest,
        model_name=loaded.name or "",
        model_version=loaded.version or "",
        model_id=model.model_id or "",
        license=card.license_of(digest),
    )


def measure(
    path: Path,
    probabilities: npt.NDArray[np.float32],
    expected: npt.NDArray[np.float32],
    test: Examples,
) -> Measurement:
    """Measure the model in a file, but not its speed.

    Args:
        probabilities: what it gives for the test images, (N, classes).
        expected: what the Keras model gives for them.
    """
    classes = probabilities.argmax(axis=1)
    return Measurement(
        bytes=path.stat().st_size,
        max_difference=float(abs(probabilities - expected).max()),
        agreement=float((classes == expected.argmax(axis=1)).mean()),
        test_accuracy=float((classes == test.labels).mean()),
    )


def milliseconds(classifier: Classifier, images: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """The median time per image, of an image alone and in a batch of 64."""
    return _median(classifier, images[:1]), _median(classifier, images[np.arange(64) % len(images)])


def _median(classifier: Classifier, images: npt.NDArray[np.uint8]) -> float:
    classifier.predict_on_batch(images)  # the first time is longer
    seconds: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(seconds) < RUNS or time.perf_counter() < until:
        started = time.perf_counter()
        classifier.predict_on_batch(images)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds) / len(images)


def first_failure(measured: Mapping[str, Measurement], images: int) -> str | None:
    """The first limit that is missed, in words; None if none is.

    Args:
        images: how many test images there are. An int8 file may lose one of them, however few.
    """
    keras = measured["keras"]
    for name, found in measured.items():
        loss = keras.test_accuracy - found.test_accuracy
        if name.endswith("-int8"):
            if round(loss * images) > max(1, INT8_LOSS * images):
                return (
                    f"{name}: its test accuracy {number(found.test_accuracy, 4)} is "
                    f"{number(loss, 4)} below that of Keras; the limit is {INT8_LOSS}, or one image"
                )
        elif not found.max_difference <= FLOAT_DIFFERENCE:  # or NaN
            return (
                f"{name}: a probability differs from that of Keras by {found.max_difference:.0e}; "
                f"the limit is {FLOAT_DIFFERENCE:.0e}"
            )
    return None


# Show and write -------------------------------------------------------------------------------


def show(measured: Mapping[str, Measurement]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == HEADINGS[0] else "right")
    for name, measurement in measured.items():
        table.add_row(name, *measurement.cells())
    console.terminal.print(table)


def description(model: EvaluatedModel, measured: Mapping[str, Measurement]) -> str:
    """The run's description, in Markdown."""
    rows = [[name, *measurement.cells()] for name, measurement in measured.items()]
    return f"{model}\n\n{markdown_table(HEADINGS, rows, align='lrrrrrr')}\n\n{LEGEND}"


def write_card(folder: Path, model: EvaluatedModel) -> None:
    """Write the card of a model that the store knows; renew the version's, which names the formats."""
    name, version = model.loaded.name, model.loaded.version
    try:
        if name and version:
            card.publish(name, version)
            text = card.card_of_version(name, version)
        else:
            text = card.card_of_model(str(model.model_id))
    except UsageError as error:  # no trial of this project trained it
        say("Card", f"none: {error}")
        return
    (folder / CARD).write_text(text, encoding="utf-8")


def write_config(folder: Path, model: EvaluatedModel, data: DataSet) -> None:
    """Write what a program needs to know that calls the model, and the list of the files."""
    config = {
        **asdict(describe_model(model, data)),
        "preprocessing": PREPROCESSING,
        "versions": {package: installed(package) for package in PACKAGES},
        **FOLDER.entries(folder),
    }
    text = json.dumps(config, indent=1, ensure_ascii=False)
    (folder / CONFIG).write_text(text, encoding="utf-8")
