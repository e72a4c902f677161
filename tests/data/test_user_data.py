import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image
from platformdirs import user_cache_path

from cifar_mlflow.data import load, user_data
from cifar_mlflow.data.collection import Picture
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.data.user_data import read_user_data
from cifar_mlflow.errors import DataError
from cifar_mlflow.predict import images as predicted
from tests.conftest import Screen
from tests.digits import write_folders

PARTS = ("train", "validation", "test")


def read(path: Path, image_size: int = 16) -> DataSet:
    return read_user_data(path, image_size)


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert not list(user_cache_path("cifar_mlflow").glob("partial-*"))
    return message


def contents(images: Iterable[Any]) -> list[bytes]:
    return [bytes(image.data) for image in images]


def parts(data: DataSet, validation_fraction: float = 0.25) -> dict[bytes, str]:
    """The part of each image, by its pixels."""
    splits = data.split(validation_fraction)
    return {
        pixels: name
        for name, part in zip(PARTS, splits, strict=True)
        for pixels in contents(np.ascontiguousarray(part.images))
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 images of each digit, in a folder for each."""
    write_folders(tmp_path / "digits", 20)
    return tmp_path / "digits"


@pytest.fixture
def may_not_decode(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """After it is called no image can be decoded."""

    def fail(*_: object) -> NoReturn:
        raise AssertionError("an image is decoded again")

    return lambda: monkeypatch.setattr(Picture, "of", fail)


# What a folder becomes


def test_a_folder_for_each_class_is_a_data_set(folder: Path) -> None:
    data = read(folder)
    assert (data.name, data.source) == ("digits", str(folder))
    assert data.classes == tuple("0123456789")
    assert data.image_shape == (16, 16, 3)
    assert data.class_counts().sum(axis=1).tolist() == [20] * 10
    images, labels = data.examples("train")
    assert images.shape == (len(labels), 16, 16, 3)
    np.testing.assert_array_equal(images[..., 0], images[..., 2])  # grey, in three equal channels


@pytest.mark.parametrize("size", [16, 32, 128])
def test_images_of_any_size_and_shape_have_the_pixels_that_predict_sees(
    tmp_path: Path, size: int
) -> None:
    random = np.random.default_rng(0)
    shapes = [(7, 9), (16, 16), (33, 200), (128, 64), (600, 500), (1100, 1300)]
    files = []
    for name in ("cat", "dog"):
        for number, shape in enumerate(shapes):
            file = tmp_path / "pets" / name / f"{number}.{'jpg' if number % 2 else 'png'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(noise).resize(shape).save(file)
            files.append(str(file))
    expected = {predicted.read(file, size).pixels.tobytes() for file in files}  # type: ignore[union-attr]
    assert parts(read(tmp_path / "pets", size)).keys() == expected
    assert len(expected) == len(files)


def test_images_in_folders_of_a_class_count_and_hidden_ones_do_not(folder: Path) -> None:
    before = read(folder).digest
    (folder / "3" / "more").mkdir()
    (folder / "3" / "0-0060.bmp").rename(folder / "3" / "more" / "a.PNG")
    shutil.copy(folder / "4" / "0-0080.bmp", folder / "4" / ".hidden.png")
    (folder / ".git").mkdir()
    assert read(folder).digest == before


# Parts


def test_a_fifth_tests_and_the_fraction_validates(folder: Path) -> None:
    found = list(parts(read(folder)).values())
    assert len(found) == 200
    assert (
        25 <= found.count("test") <= 55
    )  # 40 are expected; the hash depends on Pillow's PNG files
    assert 25 <= found.count("validation") <= 55


def test_an_image_keeps_its_part_when_files_are_added_renamed_or_moved(
    folder: Path, tmp_path: Path
) -> None:
    write_folders(folder, 30, start=20)
    before = read(folder)
    moved = tmp_path / "elsewhere" / "other"
    shutil.copytree(folder, moved)
    for number, file in enumerate(sorted(moved.rglob("*.bmp"), reverse=True)):
        file.rename(file.with_name(f"{number}.bmp"))
    renamed = read(moved)
    assert renamed.digest == before.digest
    assert renamed.name == "other"
    write_folders(folder, 20, start=50)
    added = parts(read(folder))
    assert len(added) == 700
    assert {pixels: added[pixels] for pixels in parts(before)} == parts(before)


def test_each_class_of_three_images_has_one_in_each_part(tmp_path: Path) -> None:
    write_folders(tmp_path / "digits", 3)
    for part in read(tmp_path / "digits").split(0.01):
        assert part.labels.tolist().count(7) == 1
        assert len(part.labels) == 10


def test_only_content_decides_the_order_of_images(folder: Path) -> None:
    labels = read(folder).examples("train").labels
    changes = np.count_nonzero(np.diff(labels.astype(int)))
    assert changes > len(labels) / 2  # sorted by class there would be 9


@pytest.mark.parametrize("validation", [None, "validation", "val", "Valid"])
@pytest.mark.parametrize("test", [None, "test"])
def test_given_parts_are_kept_and_others_come_from_the_training_images(
    tmp_path: Path, validation: str | None, test: str | None
) -> None:
    given = [("train", 12), (validation, 3), (test, 2)]
    start = 0
    for name, of_each in given:
        if name:
            write_folders(tmp_path / name, of_each, start)
            start += of_each
    data = read(tmp_path)
    train, validating, testing = data.split(0.2)
    if validation:
        assert len(validating.labels) == 30
    if test:
        assert len(testing.labels) == 20
    total = sum(of_each for name, of_each in given if name) * 10
    assert len(train.labels) + len(validating.labels) + len(testing.labels) == total
    for part in (train, validating, testing):
        assert set(part.labels.tolist()) == set(range(10))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for label, name in enumerate(("bus", "train")):
        write_folders(tmp_path / "all", 3, label * 3)
        (tmp_path / "all").rename(tmp_path / name)
        for digit in range(10):
            for file in (tmp_path / name / str(digit)).iterdir():
                file.rename(tmp_path / name / f"{digit}-{file.name}")
            (tmp_path / name / str(digit)).rmdir()
    assert read(tmp_path).classes == ("bus", "train")


@pytest.mark.parametrize("name", ["CIFAR-10", "cifar10", "cifar_10"])
def test_a_folder_called_cifar10_is_not_taken_for_the_official_files(
    tmp_path: Path, name: str
) -> None:
    write_folders(tmp_path / name, 3)
    data = read(tmp_path / name)
    assert data.title == f"{name} (own images)"
    assert data.model_name == "cifar10-own-images-cnn"


# Copies


def test_an_image_in_two_parts_stays_in_the_first(tmp_path: Path, screen: Screen) -> None:
    shown = screen()
    for part, start, of_each in (("train", 0, 4), ("validation", 4, 3), ("test", 7, 3)):
        write_folders(tmp_path / part, of_each, start)
    copied = tmp_path / "train" / "0" / "0-0000.bmp"
    shutil.copy(copied, tmp_path / "test" / "0" / "same file.png")
    Image.open(copied).save(tmp_path / "test" / "0" / "same pixels.png")
    shutil.copy(tmp_path / "validation" / "0" / "4-0000.bmp", tmp_path / "test" / "0" / "v.png")
    shutil.copy(copied, tmp_path / "validation" / "0" / "t.png")
    data = read(tmp_path)
    assert [len(part.labels) for part in data.split(0.2)] == [40, 30, 30]
    assert "Copies    4 images left out: the same image is in an earlier part" in shown.getvalue()


def test_copies_share_a_part_where_parts_are_not_given(folder: Path, screen: Screen) -> None:
    shown = screen()
    for file in list(folder.rglob("*.bmp")):
        Image.open(file).save(file.with_suffix(".png"))
    data = read(folder)
    train, validation, test = (set(contents(part.images)) for part in data.split(0.25))
    assert len(train) + len(validation) + len(test) == 200
    assert not train & validation | train & test | validation & test
    assert data.class_counts().sum().sum() == 400
    assert shown.getvalue() == ""


def test_an_image_in_several_classes_is_named(folder: Path, screen: Screen) -> None:
    shown = screen()
    shutil.copy(folder / "3" / "0-0060.bmp", folder / "8" / "three.png")
    read(folder)
    named = f"such as {folder}/3/0-0060.bmp and {folder}/8/three.png"
    assert f"Copies    1 image in several classes, {named}" in shown.getvalue()


def test_images_that_look_alike_in_two_parts_are_counted(tmp_path: Path, screen: Screen) -> None:
    shown = screen()
    for part, start in (("train", 0), ("test", 4)):
        write_folders(tmp_path / part, 4, start)
    for number in (0, 1):
        file = tmp_path / "train" / "5" / f"0-{20 + number:04}.bmp"
        Image.open(file).resize((64, 64)).save(
            tmp_path / "test" / "5" / f"{number}.jpg", quality=95
        )
    Image.new("L", (8, 8), 10).save(tmp_path / "train" / "5" / "dark.png")
    Image.new("L", (8, 8), 240).save(tmp_path / "test" / "5" / "bright.png")  # no structure at all
    read(tmp_path)
    assert "Similar   2 images kept that look like one of an earlier part" in shown.getvalue()


# Odd files


def test_odd_files_are_read_or_named_with_a_count(folder: Path, screen: Screen) -> None:
    shown = screen()
    size = len(read(folder).examples("train").labels)
    Image.new("CMYK", (40, 30), (0, 200, 200, 0)).save(folder / "0" / "cmyk.jpg")
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "0" / "animated.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (40, 30), (0, 0, 0, 0)).save(folder / "0" / "transparent.png")
    for number in range(7):
        (folder / "1" / f"text{number}.png").write_text("no image")
    whole = (folder / "2" / "0-0040.bmp").read_bytes()
    (folder / "2" / "cut off.png").write_bytes(whole[: len(whole) // 2])
    (folder / "2" / "empty.png").touch()
    (folder / "2" / "link.png").symlink_to(folder / "nowhere")
    (folder / "2" / "IMG_1.HEIC").touch()
    (folder / "2" / "Thumbs.db").touch()
    Image.new("L", (8, 8)).save(folder / "cover.png")
    data = read(folder)
    assert data.class_counts().sum(axis=1).tolist() == [23] + [20] * 9
    assert size < len(data.examples("train").labels) + len(data.examples("test").labels)
    lines = shown.getvalue().splitlines()
    assert lines[:3] == [
        "Ignored   2 files without an image's suffix (.db, .heic)",
        "Ignored   1 image outside the classes' folders",
        "Skipped   10 of 213 images, which cannot be read",
    ]
    assert f"Skipped   {folder}/1/text0.png: not an image in a format that can be read" in lines
    assert len(lines) == 3 + user_data.LISTED


def test_what_is_odd_is_said_again_when_it_comes_from_the_cache(
    folder: Path, screen: Screen, may_not_decode: Callable[[], None]
) -> None:
    (folder / "1" / "text.png").write_text("no image")
    first = screen()
    read(folder)
    may_not_decode()
    (folder / "1" / "notes.txt").touch()
    again = screen()
    read(folder)
    ignored = "Ignored   1 file without an image's suffix (.txt)\n"
    assert again.getvalue() == ignored + first.getvalue() != ignored


# Refusals


def test_a_folder_without_two_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wrapped").mkdir()
    assert "the number of classes is 0; expected 2 to 256" in refusal(tmp_path / "wrapped")
    write_folders(tmp_path / "wrapped" / "inside", 2)
    assert "the number of classes is 1 (inside)" in refusal(tmp_path / "wrapped")
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "nowhere")


def test_what_was_left_out_is_said_before_a_class_that_lacks_images_is_refused(
    folder: Path, screen: Screen
) -> None:
    for image in (folder / "1").iterdir():
        image.write_text("<html>")
    shown = screen()
    assert "the class '1' has 0 different training images" in refusal(folder)
    assert shown.getvalue().startswith("Skipped   20 of 200 images, which cannot be read")


def test_more_classes_than_a_label_can_name_are_refused(tmp_path: Path) -> None:
    for number in range(257):
        (tmp_path / str(number)).mkdir()
    assert "the number of classes is 257" in refusal(tmp_path)


def test_a_class_without_an_image_is_refused(folder: Path) -> None:
    (folder / "ten").mkdir()
    (folder / "ten" / "notes.txt").touch()
    with pytest.raises(DataError, match=f"{folder}/ten: no image in this class's folder"):
        read(folder)


def test_names_that_differ_only_in_case_are_refused(folder: Path) -> None:
    for name in ("Cat", "cat"):
        shutil.copytree(folder / "0", folder / name)
    assert "the classes 'Cat' and 'cat' differ only in case" in refusal(folder)


def test_a_class_that_is_too_small_to_divide_is_refused(folder: Path) -> None:
    for file in sorted((folder / "6").iterdir())[2:]:
        file.write_text("no image")
    for copy in ("a.png", "b.png"):
        shutil.copy(folder / "6" / "0-0120.bmp", folder / "6" / copy)
    assert "the class '6' has 2 different training images; it needs 3" in refusal(folder)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("train", "the class '6' has 0 different training images; it needs 2"),
        ("test", "the class '6' has no image in test"),
    ],
)
def test_a_class_that_is_missing_in_a_part_is_refused(
    tmp_path: Path, part: str, message: str
) -> None:
    for name, start in (("train", 0), ("test", 4)):
        write_folders(tmp_path / name, 4, start)
    shutil.rmtree(tmp_path / part / "6")
    assert message in refusal(tmp_path)


def test_a_test_image_that_is_also_a_training_image_is_no_test_image_of_its_class(
    tmp_path: Path,
) -> None:
    for name in ("train", "test"):
        write_folders(tmp_path / name, 4)
    message = (
        "the class '0' has no image in test: all 4 images there are copies of images in another"
    )
    assert message in refusal(tmp_path)


def test_a_layout_that_is_not_clear_is_refused(tmp_path: Path) -> None:
    write_folders(tmp_path / "test", 2)
    assert "the folder train is missing beside test" in refusal(tmp_path)
    for name in ("train", "val"):
        write_folders(tmp_path / name, 2, 2)
    (tmp_path / "extra").mkdir()
    allowed = "allowed are train, validation (or val, valid) and test"
    with pytest.raises(DataError, match="extra: is not a part") as caught:
        read(tmp_path)
    assert allowed in str(caught.value)
    (tmp_path / "extra").rename(tmp_path / "valid")
    with pytest.raises(DataError, match="valid: is a part that another folder has too"):
        read(tmp_path)


# The cache


def test_images_are_decoded_once(folder: Path, may_not_decode: Callable[[], None]) -> None:
    first = read(folder)
    may_not_decode()
    assert read(folder) == first


@pytest.mark.parametrize("changed", ["content", "size", "file"])
def test_what_has_changed_is_decoded_again(folder: Path, changed: str) -> None:
    first = read(folder)
    file = folder / "3" / "0-0060.bmp"
    if changed == "content":  # with the same size and time
        times, content = file.stat(), bytearray(file.read_bytes())
        other = (folder / "8" / "0-0160.bmp").read_bytes()
        file.write_bytes(other[: len(content)].ljust(len(content), b"\0"))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif changed == "file":
        file.unlink()
    again = read(folder, 24 if changed == "size" else 16)
    assert again.digest != first.digest


def test_damage_in_the_cache_is_repaired(folder: Path, screen: Screen) -> None:
    first = read(folder)
    shown = screen()
    for name in ("classes.json", "train_positions.npy", "test_images.npy"):
        file = first.folder / name
        file.write_bytes(file.read_bytes()[:-1] + b"\x99")
        assert read(folder) == first
        assert "was damaged" in shown.getvalue()
    (entry,) = first.folder.parent.glob("*.json")
    entry.write_text("{")
    assert read(folder) == first


def test_the_digest_is_of_images_and_class_names(folder: Path) -> None:
    first = read(folder)
    (folder / "3").rename(folder / "33")
    assert read(folder).digest != first.digest


def test_another_machine_reads_the_same_images_or_says_that_it_lacks_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read(folder)
    elsewhere = tmp_path / "machine" / "cache"
    shutil.move(user_cache_path("cifar_mlflow"), elsewhere / "cifar_mlflow")
    assert load.on_this_host(data) == data  # decoded again where the images are
    shutil.rmtree(data.folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere))
    moved = load.on_this_host(data)
    assert moved == replace(data, folder=elsewhere / "cifar_mlflow" / data.digest)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    (folder / "0" / "0-0000.bmp").unlink()
    with pytest.raises(DataError, match=f"{folder}: these images are missing on"):
        load.on_this_host(data)
