"""A person's own pictures, classified: find, read, predict, and tell."""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cifar_mlflow import console
from cifar_mlflow.console import say
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import markdown_table, number
from cifar_mlflow.parameters import PredictParameters
from cifar_mlflow.paths import user_path
from cifar_mlflow.predict import images, outputs
from cifar_mlflow.predict.contact_sheet import PER_PAGE, Cell
from cifar_mlflow.predict.images import Picture, Skipped
from cifar_mlflow.store import models, tracking
from cifar_mlflow.store.models import LoadedModel

TOP = 3
LISTED = 20  # pictures or skipped files that are told one by one
OTHER_COLUMNS = 61  # characters that they take beside the file's name
PLAIN: dict[str, Any] = {"box": None, "padding": (0, 2, 0, 0)}
SHOWN = 10 * PER_PAGE  # pictures on the contact sheet


@dataclass(frozen=True)
class Inference:
    """What a model makes of pictures.

    predictions: a row for each that could be read, in order: file, class, probability, class_2,
        probability_2, class_3, probability_3, the most probable class first.
    skipped: the others.
    cells: the first 1,000, for the contact sheet.
    """

    predictions: pd.DataFrame
    skipped: list[Skipped]
    cells: list[Cell]


def run_inference(parameters: PredictParameters) -> bool:
    """Classify pictures, and leave the results in a folder and in a run; tells whether none was skipped.

    Raises:
        UsageError: no picture could be read, there is no such model, or the folder has other files.
    """
    output = user_path(parameters.output).resolve()
    replaced = outputs.former(output)
    names, lost = images.find(parameters.images, leave_out=[output / name for name in replaced])
    if not names:
        raise _none_read(lost)
    from cifar_mlflow.training import fit  # takes seconds

    fit.configure(joblib.cpu_count())
    model = models.load_model(parameters.model)
    say("Model", str(model))
    say("Pictures", f"{len(names):,} found")

    with tracking.tracked_run("predict"), tempfile.TemporaryDirectory() as scratch:
        tracking.log_parameters(parameters)
        if model.model_id:
            tracking.log_model_used(model.model_id)
        began = time.perf_counter()
        with _progress(len(names)) as advance:
            inference = classify(model, names, advance)
        seconds = time.perf_counter() - began
        skipped = lost + inference.skipped
        if inference.predictions.empty:
            raise _none_read(skipped)
        known = {"uri": model.uri, "model_id": model.model_id, "classes": model.classes}
        outputs.write(
            Path(scratch),
            str(model),
            {**known, "name": model.name, "version": model.version},
            inference.predictions,
            skipped,
            inference.cells,
        )
        outputs.publish(Path(scratch), output, replaced)
        tracking.log_folder(Path(scratch))
        tracking.log_metrics(
            {
                "pictures": len(inference.predictions),
                "skipped": len(skipped),
                "pictures_per_second": len(names) / seconds,
            }
        )
        tracking.describe(markdown(str(model), inference.predictions, skipped))
        if skipped:
            tracking.tag_end_reason(f"{len(skipped)} could not be read")
    tell(inference, skipped, output)
    return not skipped


def classify(model: LoadedModel, names: Sequence[str], advance: Callable[[int], None]) -> Inference:
    """Read and classify pictures, a batch at a time; ``advance`` is told how many each batch has."""
    tables: list[pd.DataFrame] = []
    skipped: list[Skipped] = []
    cells: list[Cell] = []
    for batch in images.read_all(names):
        read = [each for each in batch if isinstance(each, Picture)]
        skipped += [each for each in batch if isinstance(each, Skipped)]
        if read:
            pixels = np.stack([picture.pixels for picture in read])
            probabilities = model.model.predict_on_batch(pixels)
            table = top([picture.file for picture in read], probabilities, model.classes)
            tables.append(table)
            cells += [
                Cell(picture.thumbnail, f"{name} {probability:.2f}", picture.file)
                for picture, name, probability in zip(read, table["class"], table["probability"])
            ][: SHOWN - len(cells)]
        advance(len(batch))
    predictions = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return Inference(predictions, skipped, cells)


def top(
    files: Sequence[str], probabilities: npt.NDArray[np.floating], classes: Sequence[str]
) -> pd.DataFrame:
    """The table of `Inference` from probabilities (N, classes)."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    columns: dict[str, object] = {"file": files}
    for rank in range(order.shape[1]):
        suffix = f"_{rank + 1}" if rank else ""
        chosen = order[:, rank]
        columns[f"class{suffix}"] = np.array(classes)[chosen]
        columns[f"probability{suffix}"] = probabilities[np.arange(len(files)), chosen]
    return pd.DataFrame(columns)


# Tell -----------------------------------------------------------------------------------------


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar while pictures are read, in a terminal."""
    columns = (TextColumn("  {task.description}"), BarColumn(24), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console.terminal,
        disable=not console.terminal.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task("read and classified", total=total)
        yield lambda count: progress.advance(task, count)


def _none_read(skipped: Sequence[Skipped]) -> UsageError:
    """Why there is nothing to classify, in one line, after a line for each where there are several."""
    if len(skipped) == 1:
        return UsageError(f"{skipped[0].file}: {skipped[0].reason}")
    for line in _account(skipped):
        say("Skipped", line)
    return UsageError(f"none of {len(skipped):,} could be read")


def _account(skipped: Sequence[Skipped]) -> list[str]:
    """A line for each of the first skipped files, and one for the others."""
    lines = [f"{each.file}: {each.reason}" for each in skipped[:LISTED]]
    more = len(skipped) - len(lines)
    return [*lines, f"and {more:,} more"] if more else lines


def tell(inference: Inference, skipped: Sequence[Skipped], output: Path) -> None:
    """What came of it: each picture where they are few, else how many there are of each class."""
    predictions = inference.predictions
    if len(predictions) <= LISTED:
        table = Table("file", "class", "probability", "second", "third", **PLAIN)
        room = max(16, console.terminal.width - OTHER_COLUMNS)
        for file, name, probability, *others in predictions.itertuples(index=False):
            rest = [f"{name} {share:.2f}" for name, share in zip(others[::2], others[1::2])]
            short = file if len(file) <= room else f"…{file[1 - room :]}"
            # Texts, because names of files and classes are no markup.
            words = map(Text, [name, f"{probability:.2f}", *rest])
            table.add_row(Text(short, no_wrap=True), *words)
    else:
        table = Table("class", "pictures", "mean probability", **PLAIN)
        for name, count, probability in by_class(predictions).itertuples():
            table.add_row(Text(name), f"{count:,}", f"{probability:.2f}")
    console.terminal.print(table)
    for line in _account(skipped):
        say("Skipped", line)
    pages, shown = math.ceil(len(inference.cells) / PER_PAGE), len(inference.cells)
    part = f", the first {shown:,} pictures" if shown < len(predictions) else ""
    sheet = f"{output / outputs.SHEET}.png"
    say("Results", str(output / outputs.CSV))
    say("Results", str(output / outputs.RECORD))
    say("Results", f"{sheet} ({pages} pages{part})" if pages > 1 else sheet)


def markdown(model: str, predictions: pd.DataFrame, skipped: Sequence[Skipped]) -> str:
    """The run's description: how many pictures there are of each class, and what was skipped."""
    rows = [
        [str(name), number(count, 0), number(probability, 2)]
        for name, count, probability in by_class(predictions).itertuples()
    ]
    table = markdown_table(["class", "pictures", "mean probability"], rows, align="lrr")
    lines = [f"{len(predictions):,} pictures, classified by {model}", "", table]
    if skipped:
        lines += ["", f"{len(skipped):,} skipped:", ""]
        lines += [f"- `{line}`" for line in _account(skipped)]
    return "\n".join(lines)


def by_class(predictions: pd.DataFrame) -> pd.DataFrame:
    """How many pictures each class got, and its mean probability; the most frequent class first."""
    grouped = predictions.groupby("class")["probability"].agg(["size", "mean"])
    return grouped.sort_values("size", ascending=False, kind="stable")
