"""Contact sheets: many pictures on a page, and below each what a model says of it.

Drawn with Pillow, which leaves every pixel of a thumbnail as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from cifar_mlflow.predict.images import THUMBNAIL

COLUMNS = 10
PER_PAGE = COLUMNS * 10
MARGIN, GAP = 16, 12  # pixels, as all lengths here
HEADING, LINE = 28, 17
CELL = (THUMBNAIL + GAP, THUMBNAIL + 2 * LINE + GAP)
PAPER, INK, PALE, FRAME = "white", "#222222", "#666666", "#dddddd"


@dataclass(frozen=True)
class Cell:
    thumbnail: Image.Image  # at most 128 x 128 pixels
    title: str
    file: str


def draw(cells: Sequence[Cell], heading: str) -> Image.Image:
    """One page of 1 to 100 cells, in rows of at most 10."""
    columns = min(COLUMNS, max(3, math.ceil(math.sqrt(len(cells)))))
    rows = math.ceil(len(cells) / columns)
    width = 2 * MARGIN + columns * CELL[0] - GAP
    page = Image.new("RGB", (width, 2 * MARGIN + HEADING + rows * CELL[1] - GAP), PAPER)
    pen = ImageDraw.Draw(page)
    heading = _fitted(heading, "DejaVuSans-Bold", 14, width - 2 * MARGIN)
    pen.text((MARGIN, MARGIN), heading, INK, _font("DejaVuSans-Bold", 14))
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * CELL[0], MARGIN + HEADING + row * CELL[1]
        spare = (THUMBNAIL - cell.thumbnail.width) // 2
        pen.rectangle((left - 1, top - 1, left + THUMBNAIL, top + THUMBNAIL), PAPER, FRAME)
        page.paste(cell.thumbnail, (left + spare, top + spare))
        for line, (text, font, size, colour) in enumerate(
            (
                (cell.title, "DejaVuSans-Bold", 12, INK),
                (Path(cell.file).name, "DejaVuSans", 10, PALE),
            )
        ):
            place = (left, top + THUMBNAIL + 3 + line * LINE)
            pen.text(place, _fitted(text, font, size, THUMBNAIL), colour, _font(font, size))
    return page


def _fitted(text: str, font: str, size: int, width: int) -> str:
    """Text that is no wider than ``width``; of a long one the beginning and the end."""
    length = _font(font, size).getlength
    kept = len(text)
    fitted = text
    while length(fitted) > width and kept > 1:
        kept -= 1
        fitted = text[: kept // 2] + "…" + text[len(text) - (kept - kept // 2) :]
    return fitted


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib; it has the letters of Europe's alphabets."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"), size)
