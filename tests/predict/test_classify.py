from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from cifar_mlflow.console import say
from cifar_mlflow.predict import classify
from cifar_mlflow.predict.classify import Inference
from cifar_mlflow.predict.contact_sheet import Cell
from cifar_mlflow.predict.images import Skipped
from cifar_mlflow.store.models import LoadedModel
from tests.conftest import Screen

CLASSES = ("dark", "middle", "bright", "other")


class Brightness:
    """Stands for a Keras model: the class is how bright a picture is."""

    def predict_on_batch(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        level = pixels.mean(axis=(1, 2, 3)) / 255
        rest = np.full_like(level, 0.04)
        shares = np.stack([1 - level, 1 - abs(level - 0.5) * 2, level, rest], axis=1) + 0.01
        return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)


MODEL = LoadedModel("models:/m-1", "m-1", None, None, CLASSES, Brightness())


Shown = Callable[..., str]


@pytest.fixture
def shown(screen: Screen) -> Shown:
    """What is shown of a result."""

    def show(found: Inference, width: int = 100) -> str:
        text = screen(width)
        classify.tell(found, found.skipped, Path("/out"))
        return text.getvalue()

    return show


def made_up(count: int) -> Inference:
    probabilities = np.tile([0.1, 0.6, 0.3], (count, 1))
    table = classify.top([f"{n}.png" for n in range(count)], probabilities, ("a", "b", "c"))
    cell = Cell(Image.new("RGB", (128, 128)), "b 0.60", "0.png")
    return Inference(table, [], [cell] * min(count, classify.SHOWN))


def test_the_table_has_the_three_most_probable_classes() -> None:
    probabilities = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0, 0]])
    table = classify.top(["a.png", "b.png"], probabilities, CLASSES)
    assert table.to_dict("records")[0] == {
        "file": "a.png",
        "class": "other",
        "probability": 0.4,
        "class_2": "bright",
        "probability_2": 0.3,
        "class_3": "middle",
        "probability_3": 0.2,
    }
    assert table["class"][1] == "dark"  # the first of equals


def test_a_model_of_two_classes_gives_two() -> None:
    table = classify.top(["a.png"], np.array([[0.1, 0.9]]), ("cat", "dog"))
    assert list(table.columns) == ["file", "class", "probability", "class_2", "probability_2"]


def test_pictures_are_classified_in_order_and_what_is_damaged_is_skipped(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{number:03}.png") for number in range(100)]
    for number, name in enumerate(names):
        Image.new("L", (40, 40), 255 * (number % 2)).save(name)
    Path(names[30]).write_bytes(b"damaged")
    told: list[int] = []
    found = classify.classify(MODEL, names, told.append)
    assert sum(told) == 100
    assert [each.file for each in found.skipped] == [names[30]]
    kept = [name for name in names if name != names[30]]
    assert found.predictions["file"].tolist() == kept
    expected = ["bright" if int(Path(name).stem) % 2 else "dark" for name in kept]
    assert found.predictions["class"].tolist() == expected
    assert [cell.file for cell in found.cells] == kept
    assert {cell.title.split()[0] for cell in found.cells} == {"bright", "dark"}


def test_where_nothing_can_be_read_the_table_is_empty(tmp_path: Path) -> None:
    found = classify.classify(MODEL, [str(tmp_path / "absent.png")], lambda count: None)
    assert found.predictions.empty
    assert len(found.skipped) == 1


def test_the_contact_sheet_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "SHOWN", 70)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    names = [str(tmp_path / "a.png")] * 150
    found = classify.classify(MODEL, names, lambda count: None)
    assert (len(found.cells), len(found.predictions)) == (70, 150)


def test_few_pictures_are_told_one_by_one(shown: Shown) -> None:
    found = made_up(2)
    found.predictions.loc[0, "file"] = "photos/[red]holiday[/red].png"
    lines = shown(found).splitlines()
    assert lines[0].split() == ["file", "class", "probability", "second", "third"]
    assert lines[1].split() == [
        "photos/[red]holiday[/red].png",
        *("b", "0.60", "c", "0.30", "a", "0.10"),
    ]
    assert lines[-1].split() == ["Results", "/out/contact_sheet.png"]


def test_names_of_classes_are_shown_as_they_are(shown: Shown) -> None:
    few, many = made_up(1), made_up(30)
    for found in (few, many):
        found.predictions.replace({"b": "[link=x]b[/link]", "c": "[/c] :cat:"}, inplace=True)
    assert "[link=x]b[/link]  0.60         [/c] :cat: 0.30" in shown(few)
    assert "[link=x]b[/link]  30" in shown(many)


def test_a_line_is_said_as_it_is(screen: Screen) -> None:
    shown = screen(20, is_terminal=True)
    say("Skipped", "[red]x[/red]:cat:\x1b[31m http://me:secret@host/a.png")
    assert shown.getvalue() == ("Skipped   [red]x[/red]:cat:\ufffd[31m http://host/a.png\n")


def test_a_long_name_keeps_its_end(shown: Shown) -> None:
    found = made_up(1)
    found.predictions.loc[0, "file"] = "x" * 200 + "/end.png"
    assert "…" in shown(found)
    assert "x/end.png " in shown(found)


def test_many_pictures_are_told_by_class(shown: Shown) -> None:
    text = shown(made_up(3000))
    assert "b      3,000     0.60" in text
    assert "/out/contact_sheet.png (10 pages, the first 1,000 pictures)" in text
    assert "/out/contact_sheet.png (2 pages)" in shown(made_up(101))


def test_what_was_skipped_is_told_with_its_reason_up_to_a_limit(shown: Shown) -> None:
    skipped = [Skipped(f"{number}.png", "the file is empty") for number in range(30)]
    found = Inference(made_up(1).predictions, skipped, made_up(1).cells)
    lines = [line for line in shown(found).splitlines() if line.startswith("Skipped")]
    assert lines[0] == "Skipped   0.png: the file is empty"
    assert lines[20:] == ["Skipped   and 10 more"]
    described = classify.markdown("a model", found.predictions, skipped)
    assert "| b&ensp; | 1&ensp; | 0.60 |" in described
    assert "- `0.png: the file is empty`" in described


def test_classes_are_counted_the_most_frequent_first() -> None:
    predictions = pd.DataFrame(
        {"class": ["cat", "dog", "dog", "ant"], "probability": [0.5, 0.4, 0.8, 0.3]}
    )
    counts = classify.by_class(predictions)
    assert counts.index.tolist() == ["dog", "ant", "cat"]
    np.testing.assert_allclose(counts.to_numpy()[0], [2, 0.6])
