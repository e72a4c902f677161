import numpy as np
import pytest
from PIL import Image

from cifar_mlflow.predict import contact_sheet
from cifar_mlflow.predict.contact_sheet import PER_PAGE, Cell
from cifar_mlflow.predict.images import THUMBNAIL


def cells(count: int, side: int = THUMBNAIL) -> list[Cell]:
    """Cells of noise, so that none looks like another."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 200, (count, side, side, 3), dtype=np.uint8)
    return [Cell(Image.fromarray(each), "cat 0.50", f"in/{n}.png") for n, each in enumerate(pixels)]


def holds(page: Image.Image, thumbnail: Image.Image) -> bool:
    """Whether the page shows these very pixels somewhere."""
    whole, part = np.asarray(page), np.asarray(thumbnail)
    starts = np.argwhere((whole == part[0, 0]).all(axis=2))
    height, width = part.shape[:2]
    return any(
        np.array_equal(whole[row : row + height, column : column + width], part)
        for row, column in starts
    )


@pytest.mark.parametrize("count", [1, 3, 14, PER_PAGE])
def test_every_thumbnail_is_shown_pixel_by_pixel(count: int) -> None:
    shown = cells(count)
    page = contact_sheet.draw(shown, "a model")
    some = {0, count // 3, count // 2, count - 1}
    assert all(holds(page, shown[number].thumbnail) for number in some)


def test_a_small_thumbnail_is_shown_whole() -> None:
    (cell,) = cells(1, side=100)
    assert holds(contact_sheet.draw([cell], "a model"), cell.thumbnail)


def test_words_change_what_is_seen() -> None:
    (cell,) = cells(1)
    pages = [
        contact_sheet.draw([each], heading)
        for each, heading in (
            (cell, "a model"),
            (cell, "another"),
            (Cell(cell.thumbnail, "dog 0.50", cell.file), "a model"),
            (Cell(cell.thumbnail, cell.title, "other.png"), "a model"),
        )
    ]
    assert len({page.tobytes() for page in pages}) == 4


def test_a_long_name_keeps_its_beginning_and_its_end_within_its_column() -> None:
    first, second = cells(2)
    long = Cell(first.thumbnail, first.title, "in/" + "beginning" + "m" * 100 + "end.png")
    page = np.asarray(contact_sheet.draw([long, second], "a model"))
    short = np.asarray(contact_sheet.draw([first, second], "a model"))
    second_column = contact_sheet.MARGIN + contact_sheet.CELL[0] - 1
    np.testing.assert_array_equal(page[:, second_column:], short[:, second_column:])
    fitted = contact_sheet._fitted("beginning" + "m" * 100 + "end.png", "DejaVuSans", 10, THUMBNAIL)
    assert fitted.startswith("begin")
    assert fitted.endswith("end.png")
