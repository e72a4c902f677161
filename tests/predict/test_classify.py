import json
import os
from collections.abc import Callable
from pathlib import Path

import joblib
import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from mlflow.entities import Run
from PIL import Image

from cifar_mlflow.data.images import Skipped
from cifar_mlflow.errors import UsageError
from cifar_mlflow.parameters import PredictParameters
from cifar_mlflow.predict import classify, images
from cifar_mlflow.predict.outputs import Predictions
from cifar_mlflow.store import models
from cifar_mlflow.store.models import LoadedModel
from tests.conftest import Screen

CLASSES = ("dark", "middle", "bright", "other")


class Brightness:
    """A classifier: the class is how bright an image is."""

    input_shape = (None, 32, 32, 3)

    def predict_on_batch(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        level = pixels.mean(axis=(1, 2, 3)) / 255
        rest = np.full_like(level, 0.04)
        shares = np.stack([1 - level, 1 - abs(level - 0.5) * 2, level, rest], axis=1) + 0.01
        return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)


MODEL = LoadedModel("a/folder", None, None, None, CLASSES, Brightness())


# Classify


def test_the_table_has_the_three_most_probable_classes() -> None:
    probabilities = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0, 0]])
    table = classify.top_classes(["a.png", "b.png"], probabilities, CLASSES)
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
    table = classify.top_classes(["a.png"], np.array([[0.1, 0.9]]), ("cat", "dog"))
    assert list(table.columns) == ["file", "class", "probability", "class_2", "probability_2"]


def test_images_are_classified_in_order_and_damaged_ones_skipped(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{number:03}.png") for number in range(100)]
    for number, name in enumerate(names):
        Image.new("L", (40, 40), 255 * (number % 2)).save(name)
    Path(names[30]).write_bytes(b"damaged")
    predictions = classify.classify(MODEL, images.read_batches(names, 32))
    assert [each.file for each in predictions.skipped] == [names[30]]
    readable = [name for name in names if name != names[30]]
    assert predictions.table["file"].tolist() == readable
    expected = ["bright" if int(Path(name).stem) % 2 else "dark" for name in readable]
    assert predictions.table["class"].tolist() == expected
    levels = [np.asarray(each).mean() for each in predictions.thumbnails]
    assert levels == [255 * (name == "bright") for name in expected]


def test_the_contact_sheets_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "THUMBNAILS", 70)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    batches = images.read_batches([str(tmp_path / "a.png")] * 150, 32)
    predictions = classify.classify(MODEL, batches)
    assert (len(predictions.thumbnails), len(predictions.table)) == (70, 150)


# Predict, with the fake model in place of one from the store

Predict = Callable[..., Run]


@pytest.fixture
def predict(
    store: str, tensorflow: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Predict:
    """Runs `predict` in a folder with bright.png and damaged.png, and gives its run."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)  # as many threads as TensorFlow has here
    monkeypatch.setattr(models, "load_model", lambda uri, threads: MODEL)
    Image.new("RGB", (40, 30), "white").save(tmp_path / "bright.png")
    (tmp_path / "damaged.png").write_text("damaged")

    def run(images: str, output: str = "predictions") -> Run:
        classify.predict(PredictParameters.model_validate({"images": images, "output": output}))
        return runs()[0]

    return run


def runs() -> list[Run]:
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert isinstance(found, list)
    return found


def test_an_unreadable_image_is_named_and_counted_and_the_run_is_finished(
    predict: Predict, screen: Screen
) -> None:
    shown = screen()
    run = predict("damaged.png,absent.png,bright.png")
    assert run.info.status == "FINISHED"
    assert (run.data.metrics["images"], run.data.metrics["skipped"]) == (1, 2)
    assert run.data.metrics["images_per_second"] > 0
    assert "| bright&ensp; | 1&ensp; | 0." in run.data.tags["mlflow.note.content"]
    reason = "damaged.png: not an image in a format that can be read"
    assert f"- {reason}" in run.data.tags["mlflow.note.content"]
    assert f"Skipped   {reason}" in shown.getvalue()
    record = json.loads(Path("predictions", "predictions.json").read_text())
    assert [each["file"] for each in record["skipped"]] == ["absent.png", "damaged.png"]


def test_the_run_and_the_folder_have_the_same_files(predict: Predict) -> None:
    Path("photos").mkdir()
    Path("bright.png").rename("photos/bright.png")
    predict("photos", output="photos/out")
    run = predict("photos", output="photos/out")  # the previous contact sheet is not an image
    table = pd.read_csv("photos/out/predictions.csv")
    assert table["file"].tolist() == ["photos/bright.png"]
    artifacts = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id))
    files = {path.name: path.read_bytes() for path in Path("photos/out").iterdir()}
    assert {path.name: path.read_bytes() for path in artifacts.iterdir()} == files
    assert files.keys() == {"contact_sheet.png", "predictions.csv", "predictions.json"}


def test_an_odd_name_or_a_password_does_no_harm(predict: Predict, screen: Screen) -> None:
    shown = screen()
    odd = os.fsdecode(b"caf\xe9.png")
    Path("bright.png").rename(odd)
    run = predict(f"{odd},http://me:secret@[::1,~nobody-else/a.png")
    table = pd.read_csv("predictions/predictions.csv")
    assert table["file"].tolist() == ["caf\ufffd.png"]
    assert run.data.params["images"] == "caf\ufffd.png,http://[::1,~nobody-else/a.png"
    record = Path("predictions", "predictions.json").read_text()
    assert "secret" not in shown.getvalue() + record + str(run.data.tags)


def test_if_no_image_can_be_read_it_is_an_error_and_nothing_is_written(
    predict: Predict, screen: Screen
) -> None:
    shown = screen()
    with pytest.raises(UsageError, match=r"^absent.png: no such file or folder \(in .*\)$"):
        predict("absent.png")
    assert runs() == []
    with pytest.raises(UsageError, match="^no image could be read$"):
        predict("damaged.png,absent.png")
    assert shown.getvalue().count("Skipped") == 2
    assert runs()[0].info.status == "FAILED"
    assert "no image could be read" in runs()[0].data.tags["end_reason"]
    assert not Path("predictions").exists()


def test_a_circular_link_is_no_folder_to_write_to(predict: Predict) -> None:
    Path("circle").symlink_to("circle")
    with pytest.raises(UsageError, match="circle is not a folder that can be written to"):
        predict("bright.png", output="circle")
    assert runs() == []


def test_the_users_files_are_an_error_before_anything_is_read(predict: Predict) -> None:
    Path("mine").mkdir()
    Path("mine", "predictions.csv").write_text("mine")
    with pytest.raises(
        UsageError, match="predictions.csv is not an output of cifar_mlflow predict"
    ):
        predict("bright.png", output="mine")
    assert Path("mine", "predictions.csv").read_text() == "mine"
    assert runs() == []


# Show


Shown = Callable[..., str]


@pytest.fixture
def shown(screen: Screen) -> Shown:
    """What the terminal shows of predictions."""

    def show(predictions: Predictions, width: int = 100) -> str:
        text = screen(width)
        classify.show(predictions, Path("/out"))
        return text.getvalue()

    return show


def some(count: int, skipped: int = 0) -> Predictions:
    probabilities = np.tile([0.1, 0.6, 0.3], (count, 1))
    table = classify.top_classes([f"{n}.png" for n in range(count)], probabilities, ("a", "b", "c"))
    thumbnails = [Image.new("RGB", (128, 128))] * min(count, classify.THUMBNAILS)
    lost = [Skipped(f"{number}.jpg", "the file is empty") for number in range(skipped)]
    return Predictions(table, lost, thumbnails)


def test_few_images_get_a_line_each(shown: Shown) -> None:
    predictions = some(2)
    predictions.table.loc[0, "file"] = "photos/[red]holiday[/red].png"
    lines = shown(predictions).splitlines()
    assert lines[0].split() == ["file", "class", "probability", "second", "third"]
    assert lines[1].split() == [
        "photos/[red]holiday[/red].png",
        *("b", "0.60", "c", "0.30", "a", "0.10"),
    ]
    assert lines[-1].split() == ["Results", "/out/contact_sheet.png"]


def test_class_names_are_shown_as_they_are(shown: Shown) -> None:
    few, many = some(1), some(30)
    for predictions in (few, many):
        predictions.table.replace({"b": "[link=x]b[/link]", "c": "[/c] :cat:"}, inplace=True)
    assert "[link=x]b[/link]  0.60         [/c] :cat: 0.30" in shown(few)
    assert "[link=x]b[/link]  30" in shown(many)


def test_a_long_name_is_folded_and_hides_no_class(shown: Shown) -> None:
    predictions = some(1)
    predictions.table.loc[0, "file"] = "folder/" * 30 + "end.png"
    lines = shown(predictions).splitlines()
    assert lines[1].split()[1:] == ["b", "0.60", "c", "0.30", "a", "0.10"]
    assert "end.png" in lines[-4]


def test_many_images_are_counted_by_class_the_most_frequent_first(shown: Shown) -> None:
    predictions = some(3000)
    predictions.table.loc[:9, "class"] = "a"
    text = shown(predictions)
    assert [line.split() for line in text.splitlines()[:3]] == [
        ["class", "images", "mean", "probability"],
        ["b", "2,990", "0.60"],
        ["a", "10", "0.60"],
    ]
    assert "/out/contact_sheet.png (10 pages, the first 1,000 images)" in text
    assert "/out/contact_sheet.png (2 pages)" in shown(some(101))


def test_skipped_images_are_listed_with_a_reason_up_to_a_limit(shown: Shown) -> None:
    lines = [line for line in shown(some(1, skipped=30)).splitlines() if line.startswith("Skipped")]
    assert lines[0] == "Skipped   0.jpg: the file is empty"
    assert lines[20:] == ["Skipped   and 10 more"]


def test_a_description_shows_names_as_they_are() -> None:
    predictions = some(1, skipped=1)
    predictions.table.replace({"b": "![b](https://example.org/b.png)"}, inplace=True)
    predictions.skipped[0] = Skipped("a`b.jpg", "the file is empty")
    html = (
        MarkdownIt("commonmark")
        .enable("table")
        .render(classify.description("my*model*", predictions))
    )
    assert "classified by my*model*</p>" in html
    assert ">![b](https://example.org/b.png)\u2002</td>" in html
    assert "<li>a`b.jpg: the file is empty</li>" in html
