import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from cifar_mlflow.data.images import Skipped
from cifar_mlflow.errors import UsageError
from cifar_mlflow.predict import outputs
from cifar_mlflow.predict.outputs import Predictions
from cifar_mlflow.store.models import LoadedModel

TABLE = pd.DataFrame(
    {
        "file": ["a.png", "b, c.png"],
        "class": ["cat", "dog"],
        "probability": [0.75, 0.5],
        "class_2": ["dog", "cat"],
        "probability_2": [0.25, 0.5],
    }
)
SKIPPED = [Skipped("d.png", "the file is empty")]
UNUSED: Any = None  # in place of a network
MODEL = LoadedModel("models:/mine/1", "m-1", "mine", "1", ("cat", "dog"), UNUSED)

Leave = Callable[..., Path]


@pytest.fixture
def leave(tmp_path: Path) -> Leave:
    """Writes outputs to a folder, as one prediction after another does."""

    def leave(images: int = 1, folder: str = "out") -> Path:
        output = tmp_path / folder
        previous = outputs.FOLDER.previous(output)
        table = pd.concat([TABLE] * images, ignore_index=True)[:images]
        thumbnails = [Image.new("RGB", (128, 128))] * images
        with tempfile.TemporaryDirectory() as scratch:
            outputs.write(Path(scratch), MODEL, Predictions(table, SKIPPED, thumbnails))
            outputs.FOLDER.publish(Path(scratch), output, previous)
        return output

    return leave


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        outputs.FOLDER.previous(folder)
    assert str(caught.value).startswith(f"output={folder}: ")
    return str(caught.value)


def test_outputs_are_a_table_a_record_and_a_contact_sheet(leave: Leave) -> None:
    output = leave(2, folder="a/b/c")
    files = ["contact_sheet.png", "predictions.csv", "predictions.json"]
    assert names(output) == files
    pd.testing.assert_frame_equal(pd.read_csv(output / "predictions.csv"), TABLE)
    assert json.loads((output / "predictions.json").read_text()) == {
        "made_by": "cifar_mlflow predict",
        "model": {
            "uri": "models:/mine/1",
            "model_id": "m-1",
            "name": "mine",
            "version": "1",
            "classes": ["cat", "dog"],
        },
        "predictions": TABLE.to_dict("records"),
        "skipped": [{"file": "d.png", "reason": "the file is empty"}],
        "files": files,
    }


def test_no_cell_of_the_table_is_a_formula(tmp_path: Path) -> None:
    names = ['=HYPERLINK("x").png', "+1.png", "-1.png", "@SUM(1).png", "\ta.png", "a=1.png"]
    table = pd.DataFrame({"file": names, "class": "=1+1", "probability": -0.5})
    outputs.write(tmp_path, MODEL, Predictions(table, [], [Image.new("RGB", (128, 128))]))
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert written["file"].tolist() == [*(f"'{name}" for name in names[:5]), "a=1.png"]
    assert set(written["class"]) == {"'=1+1"}
    assert set(written["probability"]) == {-0.5}
    record = json.loads((tmp_path / "predictions.json").read_text())
    assert [each["file"] for each in record["predictions"]] == names


def test_a_hundred_images_fill_a_page(leave: Leave) -> None:
    sheets = [name for name in names(leave(201)) if name.endswith(".png")]
    assert sheets == ["contact_sheet.png", "contact_sheet_02.png", "contact_sheet_03.png"]


def test_outputs_replace_the_previous_ones_and_leave_other_files_alone(leave: Leave) -> None:
    output = leave(201)
    (output / "notes.txt").write_text("mine")
    (output / "contact_sheet_03.png").unlink()
    leave(1)
    assert names(output) == [
        "contact_sheet.png",
        "notes.txt",
        "predictions.csv",
        "predictions.json",
    ]
    assert len(pd.read_csv(output / "predictions.csv")) == 1


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.json", "contact_sheet_07.png"])
def test_the_users_own_files_are_never_replaced(leave: Leave, tmp_path: Path, name: str) -> None:
    for text in ("{}", "[]", '{"made_by": "someone", "files": []}', '{"made_by": 1}'):
        (tmp_path / name).write_text(text)
        assert f"{name} is not an output of cifar_mlflow predict" in refusal(tmp_path)
    if name.endswith("png"):  # which the record of a real prediction does not list either
        shutil.copy(tmp_path / name, leave())
        assert name in refusal(tmp_path / "out")


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "absent")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "broken"):
        assert "is not a folder that can be written to" in refusal(folder)


def test_a_full_disk_leaves_the_previous_outputs(
    leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = leave(101)
    before = {name: (output / name).read_bytes() for name in names(output)}

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(UsageError, match="No space left on device"):
        leave(1)
    assert {name: (output / name).read_bytes() for name in names(output)} == before


def test_a_command_that_dies_while_it_replaces_outputs_does_not_block_the_next(
    leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, unlink, deleted = leave(101), Path.unlink, list[Path]()

    def dies(path: Path) -> None:
        if deleted:
            raise KeyboardInterrupt
        unlink(path)
        deleted.append(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", dies)
        leave(1)
    assert len(names(output)) == 3
    leave(1)
    assert names(output) == ["contact_sheet.png", "predictions.csv", "predictions.json"]
