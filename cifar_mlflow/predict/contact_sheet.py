"""Draw contact sheets: many thumbnails on a page, each with its class and probability.

Pillow draws them, because it leaves every pixel of a thumbnail as it is.
"""

import math
from bisect import bisect
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from cifar_mlflow.predict.images import THUMBNAIL

COLUMNS = 10
PER_PAGE = COLUMNS * 10
MARGIN, GAP = 16, 12  # all lengths in pixels
HEADING, LINE = 28, 17
CELL = (THUMBNAIL + GAP, THUMBNAIL + 2 * LINE + GAP)
PAPER, INK, PALE, FRAME = "white", "#222222", "#666666", "#dddddd"


def draw(thumbnails: Sequence[Image.Image], table: pd.DataFrame, heading: str) -> Image.Image:
    """Draw one page of 1 to 100 thumbnails, in rows of at most 10.

    Args:
        thumbnails: RGB squares of at most 128 x 128 pixels.
        table: a row for each thumbnail, with the columns file, class and probability.
    """
    columns = min(COLUMNS, max(3, math.ceil(math.sqrt(len(thumbnails)))))
    rows = math.ceil(len(thumbnails) / columns)
    width = 2 * MARGIN + columns * CELL[0] - GAP
    page = Image.new("RGB", (width, 2 * MARGIN + HEADING + rows * CELL[1] - GAP), PAPER)
    pen = ImageDraw.Draw(page)

    def write(place: tuple[int, int], text: str, room: int, font: str, size: int, ink: str) -> None:
        loaded = _font(font, size)
        pen.text(place, _fit(text, loaded, room), ink, loaded)

    write((MARGIN, MARGIN), heading, width - 2 * MARGIN, "DejaVuSans-Bold", 14, INK)
    labels = table[["file", "class", "probability"]].itertuples(index=False)
    for number, (thumbnail, (file, name, probability)) in enumerate(zip(thumbnails, labels)):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * CELL[0], MARGIN + HEADING + row * CELL[1]
        spare = (THUMBNAIL - thumbnail.width) // 2
        pen.rectangle((left - 1, top - 1, left + THUMBNAIL, top + THUMBNAIL), PAPER, FRAME)
        page.paste(thumbnail, (left + spare, top + spare))
        below, label = top + THUMBNAIL + 3, f"{name} {probability:.2f}"
        write((left, below), label, THUMBNAIL, "DejaVuSans-Bold", 12, INK)
        write((left, below + LINE), Path(file).name, THUMBNAIL, "DejaVuSans", 10, PALE)
    return page


def _fit(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    """The text, with its middle left out where it is wider than ``room``."""
    if font.getlength(text) <= room:
        return text

    def keeping(letters: int) -> str:
        return text[: letters // 2] + "…" + text[len(text) - (letters - letters // 2) :]

    # Bisected, because the name of an image from the web may have thousands of letters.
    too_many = bisect(range(len(text)), room, key=lambda n: math.ceil(font.getlength(keeping(n))))
    return keeping(max(too_many - 1, 1))


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib, and has the letters of Europe's alphabets."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"), size)
