"""The files that a prediction writes: a table, a record and contact sheets."""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from cifar_mlflow.data.images import Skipped
from cifar_mlflow.errors import UsageError
from cifar_mlflow.predict import contact_sheet
from cifar_mlflow.predict.contact_sheet import PER_PAGE
from cifar_mlflow.store.models import LoadedModel

CSV, RECORD, SHEET = "predictions.csv", "predictions.json", "contact_sheet"
MADE_BY = "cifar_mlflow predict"
MODEL = ("uri", "model_id", "name", "version", "classes")  # what the record says about the model


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for the user's images.

    table: one row per image, in order: file, class, probability, class_2, probability_2, class_3,
        probability_3, the most probable class first.
    skipped: what could not be read.
    thumbnails: of the first 1,000 rows, for the contact sheets.
    """

    table: pd.DataFrame
    skipped: list[Skipped]
    thumbnails: Sequence[Image.Image]


def write(folder: Path, model: LoadedModel, predictions: Predictions) -> None:
    """Write predictions.csv, contact sheets of 100 images each, and predictions.json.

    Args:
        folder: an empty folder.
    """
    table = predictions.table.apply(lambda column: column.map(_as_cell))
    table.to_csv(folder / CSV, index=False, float_format="%.6f")
    thumbnails = predictions.thumbnails
    pages = range(0, len(thumbnails), PER_PAGE)
    for number, start in enumerate(pages, 1):
        name = f"{SHEET}.png" if number == 1 else f"{SHEET}_{number:02}.png"
        heading = f"{model}, page {number} of {len(pages)}" if len(pages) > 1 else str(model)
        page = slice(start, start + PER_PAGE)
        contact_sheet.draw(thumbnails[page], predictions.table[page], heading).save(folder / name)
    record = {
        "made_by": MADE_BY,
        "model": {name: getattr(model, name) for name in MODEL},
        "predictions": json.loads(predictions.table.to_json(orient="records", double_precision=6)),
        "skipped": [asdict(each) for each in predictions.skipped],
        "files": sorted([RECORD, *(path.name for path in folder.iterdir())]),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (folder / RECORD).write_text(text, encoding="utf-8")


def _as_cell(value: object) -> object:
    """An apostrophe before text that a spreadsheet would take for a formula."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


def previous_outputs(folder: Path) -> list[Path]:
    """The files of a previous prediction in ``folder``, which the next one replaces.

    Raises:
        UsageError: the folder has a file named like an output that its predictions.json does not list,
            or cannot be written to.
    """
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir() or not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        raise UsageError(f"output={folder}: {nearest} is not a folder that can be written to")
    listed = _listed(folder)
    present = [path for name in (RECORD, CSV, f"{SHEET}*.png") for path in folder.glob(name)]
    for path in sorted(present):
        if path.name not in listed:
            raise UsageError(
                f"output={folder}: {path.name} is not from a previous prediction; choose another "
                "folder, or move it away"
            )
    return present


def _listed(folder: Path) -> Collection[str]:
    """The files that a folder's predictions.json lists; none if no prediction wrote it."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return list(record["files"]) if record["made_by"] == MADE_BY else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def publish(source: Path, folder: Path, previous: Sequence[Path]) -> None:
    """Copy the files of ``source`` into ``folder`` and delete the previous outputs.

    A full disk leaves the previous outputs as they are.

    Raises:
        UsageError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as staging:
            copies = [Path(shutil.copy(path, staging)) for path in source.iterdir()]
            for path in previous:
                path.unlink()
            # The record first: if the process dies here, the next prediction knows the other files.
            for copy in sorted(copies, key=lambda copy: copy.name != RECORD):
                copy.replace(folder / copy.name)
    except OSError as error:
        raise UsageError(f"output={folder}: {error.strerror}") from error
