"""Classify the user's images with a model: find, read, predict, write, show."""

import itertools
import math
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text

from cifar_mlflow import console
from cifar_mlflow.console import say
from cifar_mlflow.data.images import BATCH, Skipped
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import literal_markdown, markdown_table
from cifar_mlflow.parameters import PredictParameters
from cifar_mlflow.paths import written_to
from cifar_mlflow.predict import images, outputs
from cifar_mlflow.predict.contact_sheet import PER_PAGE
from cifar_mlflow.predict.images import UserImage
from cifar_mlflow.predict.outputs import Predictions
from cifar_mlflow.store import models, tracking
from cifar_mlflow.store.models import LoadedModel

TOP = 3  # classes per image
LISTED = 20  # images, or skipped ones, that get a line each
THUMBNAILS = 10 * PER_PAGE
BY_IMAGE: tuple[str, ...] = ("file", "class", "probability", "second", "third")
BY_CLASS: tuple[str, ...] = ("class", "images", "mean probability")


def predict(parameters: PredictParameters) -> None:
    """Classify images; write the results to a folder and to a run.

    Raises:
        UsageError: no image could be read, the model does not exist or is of another kind, or the
            output folder holds files of the user's.
    """
    output = written_to(parameters.output)
    previous = outputs.FOLDER.previous(output)
    names, skipped = images.find(parameters.images, leave_out=previous)
    if not names:
        raise _no_image(skipped)
    model = models.load_model(parameters.model, joblib.cpu_count())
    say("Model", str(model))
    say("Images", f"{len(names):,} found")

    with tracking.tracked_run("predict"), tempfile.TemporaryDirectory() as scratch:
        tracking.log_parameters(parameters)
        if model.model_id:
            tracking.log_model_used(model.model_id)
        started = time.perf_counter()
        terminal = console.terminal
        with Progress(
            console=terminal, disable=not terminal.is_terminal, transient=True
        ) as progress:
            batches = progress.track(
                images.read_batches(names, model.image_size),
                total=math.ceil(len(names) / BATCH),
                description="  Classifying",
            )
            predictions = classify(model, itertools.chain([skipped], batches))
        seconds = time.perf_counter() - started
        if predictions.table.empty:
            raise _no_image(predictions.skipped)
        outputs.write(Path(scratch), model, predictions)
        outputs.FOLDER.publish(Path(scratch), output, previous)
        tracking.log_folder(Path(scratch))
        tracking.log_metrics(
            {
                "images": len(predictions.table),
                "skipped": len(predictions.skipped),
                "images_per_second": len(names) / seconds,
            }
        )
        tracking.describe(description(str(model), predictions))
    show(predictions, output)


def classify(model: LoadedModel, batches: Iterable[Sequence[UserImage | Skipped]]) -> Predictions:
    """Classify images batch by batch, each at once."""
    tables: list[pd.DataFrame] = []
    skipped: list[Skipped] = []
    thumbnails: list[UserImage] = []
    for batch in batches:
        skipped += [each for each in batch if isinstance(each, Skipped)]
        if read := [each for each in batch if isinstance(each, UserImage)]:
            probabilities = model.model.predict_on_batch(np.stack([each.pixels for each in read]))
            tables.append(top_classes([each.file for each in read], probabilities, model.classes))
            thumbnails += read[: THUMBNAILS - len(thumbnails)]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return Predictions(table, skipped, [each.thumbnail for each in thumbnails])


def top_classes(
    files: Sequence[str], probabilities: npt.NDArray[np.floating], classes: Sequence[str]
) -> pd.DataFrame:
    """`Predictions.table` of ``probabilities``, (N, classes)."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    columns: dict[str, object] = {"file": files}
    for rank, chosen in enumerate(order.T, 1):
        suffix = f"_{rank}" if rank > 1 else ""
        columns[f"class{suffix}"] = np.array(classes)[chosen]
        columns[f"probability{suffix}"] = probabilities[np.arange(len(files)), chosen]
    return pd.DataFrame(columns)


# Show -----------------------------------------------------------------------------------------


def _no_image(skipped: Sequence[Skipped]) -> UsageError:
    """One line that says why there is nothing to classify; several reasons are printed first."""
    if len(skipped) == 1:
        return UsageError(f"{skipped[0].file}: {skipped[0].reason}")
    for line in _skipped_lines(skipped):
        say("Skipped", line)
    return UsageError("no image could be read")


def _skipped_lines(skipped: Sequence[Skipped]) -> list[str]:
    lines = [f"{each.file}: {each.reason}" for each in skipped[:LISTED]]
    more = len(skipped) - len(lines)
    return [*lines, f"and {more:,} more"] if more else lines


def show(predictions: Predictions, output: Path) -> None:
    """Print a line for each image, or for each class if the images are many; then what was skipped."""
    table = predictions.table
    few = len(table) <= LISTED
    headings, rows = (BY_IMAGE, _by_image(table)) if few else (BY_CLASS, _by_class(table))
    columns = [Column(heading, overflow="fold", no_wrap=heading != "file") for heading in headings]
    shown = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for row in rows:
        shown.add_row(*map(Text, row))  # as Text, so that no name is read as markup
    console.terminal.print(shown)
    for line in _skipped_lines(predictions.skipped):
        say("Skipped", line)
    pages = math.ceil(len(predictions.thumbnails) / PER_PAGE)
    first = f", the first {THUMBNAILS:,} images" if len(table) > THUMBNAILS else ""
    note = f" ({pages} pages{first})" if pages > 1 else ""
    for name in (outputs.CSV, outputs.RECORD, f"{outputs.SHEET}.png{note}"):
        say("Results", f"{output / name}")


def description(model: str, predictions: Predictions) -> str:
    """The run's description, in Markdown: the number of images of each class, and what was skipped."""
    rows = [[literal_markdown(name), *numbers] for name, *numbers in _by_class(predictions.table)]
    table = markdown_table(BY_CLASS, rows, align="lrr")
    counted = f"{len(predictions.table):,} images, classified by {literal_markdown(model)}"
    lines = [counted, "", table]
    if skipped := predictions.skipped:
        lines += ["", f"{len(skipped):,} skipped:", ""]
        lines += [f"- {literal_markdown(line)}" for line in _skipped_lines(skipped)]
    return "\n".join(lines)


def _by_image(table: pd.DataFrame) -> list[list[str]]:
    """Rows of `BY_IMAGE`."""
    return [
        [file, name, f"{probability:.2f}"]
        + [f"{other} {share:.2f}" for other, share in zip(others[::2], others[1::2])]
        for file, name, probability, *others in table.itertuples(index=False)
    ]


def _by_class(table: pd.DataFrame) -> list[list[str]]:
    """Rows of `BY_CLASS`, the most frequent class first."""
    grouped = table.groupby("class")["probability"].agg(["size", "mean"])
    ordered = grouped.sort_values("size", ascending=False, kind="stable")
    return [[name, f"{count:,}", f"{mean:.2f}"] for name, count, mean in ordered.itertuples()]
