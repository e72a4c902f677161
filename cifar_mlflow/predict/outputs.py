"""The files that a prediction writes: a table, a record and contact sheets."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from cifar_mlflow.output_folder import OutputFolder
from cifar_mlflow.predict import contact_sheet
from cifar_mlflow.predict.contact_sheet import PER_PAGE
from cifar_mlflow.predict.images import Skipped
from cifar_mlflow.store.models import LoadedModel

CSV, RECORD, SHEET = "predictions.csv", "predictions.json", "contact_sheet"
FOLDER = OutputFolder("cifar_mlflow predict", RECORD, (RECORD, CSV, f"{SHEET}*.png"))
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
        "model": {name: getattr(model, name) for name in MODEL},
        "predictions": json.loads(predictions.table.to_json(orient="records", double_precision=6)),
        "skipped": [asdict(each) for each in predictions.skipped],
        **FOLDER.entries(folder),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (folder / RECORD).write_text(text, encoding="utf-8")


def _as_cell(value: object) -> object:
    """An apostrophe before text that a spreadsheet would take for a formula."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value
