"""The files that a prediction leaves in a person's folder: written whole, and over nobody's work."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from cifar_mlflow.errors import UsageError
from cifar_mlflow.predict import contact_sheet
from cifar_mlflow.predict.contact_sheet import PER_PAGE, Cell
from cifar_mlflow.predict.images import Skipped

CSV, RECORD, SHEET = "predictions.csv", "predictions.json", "contact_sheet"
MADE_BY = "cifar_mlflow predict"


def write(
    folder: Path,
    heading: str,
    model: Mapping[str, object],
    predictions: pd.DataFrame,
    skipped: Sequence[Skipped],
    cells: Sequence[Cell],
) -> None:
    """Write table, record and contact sheet into an empty folder.

    In the table, a name that a spreadsheet would take for a formula has an apostrophe in front.

    Args:
        heading: of each page of the contact sheet.
        model: what the record says of the model.
        predictions: columns file, class, probability, and class_2, probability_2 and so on.
        cells: what the contact sheet shows, 100 on a page.
    """
    table = predictions.apply(lambda column: column.map(_cell))
    table.to_csv(folder / CSV, index=False, float_format="%.6f")
    pages = range(0, len(cells), PER_PAGE)
    for number, start in enumerate(pages, 1):
        name = f"{SHEET}.png" if number == 1 else f"{SHEET}_{number:02}.png"
        title = f"{heading}, page {number} of {len(pages)}" if len(pages) > 1 else heading
        contact_sheet.draw(cells[start : start + PER_PAGE], title).save(folder / name)
    record = {
        "made_by": MADE_BY,
        "model": model,
        "predictions": [_nested(row) for row in predictions.to_dict("records")],
        "skipped": [asdict(each) for each in skipped],
        "files": {path.name: _sha256(path) for path in sorted(folder.iterdir())},
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (folder / RECORD).write_text(text, encoding="utf-8")


def _cell(value: object) -> object:
    """What a spreadsheet shows as it is, whatever the names of files and classes are."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


def _nested(row: Mapping[Any, Any]) -> dict[str, object]:
    """A row of the table, its classes as a list."""
    ranks = [name.removeprefix("class") for name in row if name.startswith("class")]
    top = [
        {"class": row[f"class{rank}"], "probability": round(row[f"probability{rank}"], 6)}
        for rank in ranks
    ]
    return {"file": row["file"], **top[0], "top": top}


def former(folder: Path) -> list[str]:
    """The names of a former prediction's files in a folder, which a new one may replace.

    Raises:
        UsageError: files of these names are there that no prediction left so, or the folder cannot be
            written to.
    """
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"output={folder}: {nearest} is not a folder that can be written to")
    known = _recorded(folder)
    present = [folder / RECORD, folder / CSV, *sorted(folder.glob(f"{SHEET}*.png"))]
    present = [path for path in present if path.exists()]
    for path in present:
        if path.name not in known or known[path.name] not in ("", _sha256(path)):
            raise UsageError(
                f"output={folder}: {path.name} there is not a former prediction's, or was changed "
                "since; choose another folder, or move it away"
            )
    return [path.name for path in present]


def _recorded(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file by its name, as the folder's record has it; nothing without one."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {**record["files"], RECORD: ""} if record["made_by"] == MADE_BY else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # no record of ours


def publish(source: Path, folder: Path, replaced: Collection[str]) -> None:
    """Put the files of ``source`` into a folder, all or none, in place of the ``replaced`` ones.

    Raises:
        UsageError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as staging:
            copies = [Path(shutil.copy(path, staging)) for path in sorted(source.iterdir())]
            for name in {*replaced} - {copy.name for copy in copies}:
                (folder / name).unlink(missing_ok=True)
            for copy in copies:
                copy.replace(folder / copy.name)
    except OSError as error:
        raise UsageError(f"output={folder}: {error.strerror}") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
