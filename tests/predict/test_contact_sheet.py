import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cifar_mlflow.predict import contact_sheet
from cifar_mlflow.predict.contact_sheet import PER_PAGE
from cifar_mlflow.predict.images import THUMBNAIL


def noise(count: int, side: int = THUMBNAIL) -> list[Image.Image]:
    """Thumbnails of which none looks like another."""
    pixels = np.random.default_rng(0).integers(0, 200, (count, side, side, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in pixels]


def table(count: int, **columns: object) -> pd.DataFrame:
    files = [f"in/{number}.png" for number in range(count)]
    return pd.DataFrame({"file": files, "class": "cat", "probability": 0.5} | columns)


def holds(page: Image.Image, thumbnail: Image.Image) -> bool:
    """Whether the page shows these very pixels somewhere."""
    whole, part = np.asarray(page), np.asarray(thumbnail)
    starts = np.argwhere((whole == part[0, 0]).all(axis=2))
    height, width = part.shape[:2]
    return any(
        np.array_equal(whole[row : row + height, column : column + width], part)
        for row, column in starts
    )


@pytest.mark.parametrize(
    ("count", "side"), [(1, THUMBNAIL), (3, 100), (14, THUMBNAIL), (PER_PAGE, THUMBNAIL)]
)
def test_every_thumbnail_is_shown_pixel_by_pixel(count: int, side: int) -> None:
    thumbnails = noise(count, side)
    page = contact_sheet.draw(thumbnails, table(count), "a model")
    some = {0, count // 3, count // 2, count - 1}
    assert all(holds(page, thumbnails[number]) for number in some)


def test_heading_class_probability_and_file_are_written() -> None:
    thumbnails = noise(1)
    tables = [
        table(1),
        table(1, **{"class": "dog"}),
        table(1, probability=0.6),
        table(1, file=["other.png"]),
    ]
    pages = [contact_sheet.draw(thumbnails, each, "a model") for each in tables]
    pages.append(contact_sheet.draw(thumbnails, table(1), "another"))
    assert len({page.tobytes() for page in pages}) == 5


def test_a_long_name_keeps_its_beginning_and_its_end_within_its_column() -> None:
    thumbnails = noise(2)
    name = "beginning" + "m" * 100 + "end.png"
    long, short = (
        np.asarray(contact_sheet.draw(thumbnails, table(2, file=[first, "1.png"]), "a model"))
        for first in (name, "0.png")
    )
    second_column = contact_sheet.MARGIN + contact_sheet.CELL[0] - 1
    np.testing.assert_array_equal(long[:, second_column:], short[:, second_column:])
    fitted = contact_sheet._fit(name, contact_sheet._font("DejaVuSans", 10), THUMBNAIL)
    assert fitted.startswith("begin")
    assert fitted.endswith("end.png")
