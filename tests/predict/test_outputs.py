import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cifar_mlflow.errors import UsageError
from cifar_mlflow.predict import outputs
from cifar_mlflow.predict.contact_sheet import Cell
from cifar_mlflow.predict.images import Skipped

PREDICTIONS = pd.DataFrame(
    {
        "file": ["a.png", "b, c.png"],
        "class": ["cat", "dog"],
        "probability": [0.75, 0.5],
        "class_2": ["dog", "cat"],
        "probability_2": [0.25, 0.5],
    }
)
CELL = Cell(Image.new("RGB", (128, 128)), "cat 0.75", "a.png")

Leave = Callable[..., Path]


@pytest.fixture
def leave(tmp_path: Path) -> Leave:
    """Leaves results in a folder, as one prediction after another does."""

    def leave(pictures: int = 1, folder: str = "out") -> Path:
        scratch, output = tmp_path / "scratch", tmp_path / folder
        scratch.mkdir()
        replaced = outputs.former(output)
        skipped = [Skipped("d.png", "the file is empty")]
        outputs.write(scratch, "a model", {"name": "mine"}, PREDICTIONS, skipped, [CELL] * pictures)
        outputs.publish(scratch, output, replaced)
        for path in scratch.iterdir():
            path.unlink()
        scratch.rmdir()
        return output

    return leave


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        outputs.former(folder)
    assert str(caught.value).startswith(f"output={folder}: ")
    return str(caught.value)


def test_results_are_a_table_a_record_and_a_contact_sheet(leave: Leave) -> None:
    output = leave()
    assert names(output) == ["contact_sheet.png", "predictions.csv", "predictions.json"]
    pd.testing.assert_frame_equal(pd.read_csv(output / "predictions.csv"), PREDICTIONS)
    record = json.loads((output / "predictions.json").read_text())
    assert record["model"] == {"name": "mine"}
    assert record["predictions"][0] == {
        "file": "a.png",
        "class": "cat",
        "probability": 0.75,
        "top": [{"class": "cat", "probability": 0.75}, {"class": "dog", "probability": 0.25}],
    }
    assert record["skipped"] == [{"file": "d.png", "reason": "the file is empty"}]


def test_no_cell_of_the_table_is_a_formula(tmp_path: Path) -> None:
    names = ['=HYPERLINK("x").png', "+1.png", "-1.png", "@SUM(1).png", "\ta.png", "a=1.png"]
    table = pd.DataFrame({"file": names, "class": "=1+1", "probability": -0.5})
    outputs.write(tmp_path, "a model", {}, table, [], [CELL])
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert written["file"].tolist() == [*(f"'{name}" for name in names[:5]), "a=1.png"]
    assert set(written["class"]) == {"'=1+1"}
    assert set(written["probability"]) == {-0.5}
    record = json.loads((tmp_path / "predictions.json").read_text())
    assert [each["file"] for each in record["predictions"]] == names


def test_a_hundred_pictures_fill_a_page(leave: Leave) -> None:
    sheets = [name for name in names(leave(201)) if name.endswith(".png")]
    assert sheets == ["contact_sheet.png", "contact_sheet_02.png", "contact_sheet_03.png"]


def test_a_folder_is_made_with_its_parents(leave: Leave) -> None:
    assert "predictions.csv" in names(leave(folder="a/b/c"))


def test_results_replace_former_ones_and_leave_other_files_alone(leave: Leave) -> None:
    output = leave(201)
    (output / "notes.txt").write_text("mine")
    (output / "contact_sheet_03.png").unlink()
    assert names(leave(1)) == [
        "contact_sheet.png",
        "notes.txt",
        "predictions.csv",
        "predictions.json",
    ]


def test_files_of_others_are_never_replaced(tmp_path: Path) -> None:
    for name in ("predictions.csv", "predictions.json", "contact_sheet_07.png"):
        path = tmp_path / name
        for text in ("{}", "[]", '{"made_by": "someone", "files": {}}', '{"made_by": 1}'):
            path.write_text(text)
            assert f"{name} there is not a former prediction's" in refusal(tmp_path)
        path.unlink()


def test_results_that_were_changed_are_not_replaced(leave: Leave) -> None:
    output = leave()
    with (output / "predictions.csv").open("a") as table:
        table.write("a.png,a note\n")
    assert "predictions.csv" in refusal(output)
    assert (output / "predictions.csv").read_text().endswith("a note\n")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "absent")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "broken"):
        assert "is not a folder that can be written to" in refusal(folder)


def test_what_cannot_be_written_leaves_the_former_results(
    leave: Leave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = leave()
    before = {name: (output / name).read_bytes() for name in names(output)}
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "predictions.csv").write_text("new")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(UsageError, match="No space left on device"):
        outputs.publish(tmp_path / "new", output, names(output))
    assert {name: (output / name).read_bytes() for name in names(output)} == before
