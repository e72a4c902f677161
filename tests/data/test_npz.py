from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_mlflow.data.user_data import read_user_data
from cifar_mlflow.errors import DataError
from tests.conftest import Screen
from tests.digits import digits

IMAGES, LABELS = digits(6)
ORDER = np.random.default_rng(0).permutation(len(LABELS))
MIXED = {"images": IMAGES[ORDER], "labels": LABELS[ORDER]}


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_user_data(path, 16)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_arrays_have_the_names_that_people_give_them(tmp_path: Path, names: tuple[str]) -> None:
    parts = (IMAGES[::2], LABELS[::2], IMAGES[1::2], LABELS[1::2])
    data = read_user_data(write(tmp_path / "own digits.npz", **dict(zip(names, parts))), 16)
    assert data.name == "own digits"
    assert data.classes == tuple("0123456789")
    assert data.class_counts().to_numpy().tolist() == [[3, 3]] * 10


@pytest.mark.parametrize("validation", ["x_validation", "x_val", "x_valid"])
def test_arrays_of_validation_images_validate(tmp_path: Path, validation: str) -> None:
    arrays = {"x_train": IMAGES[::2], "y_train": LABELS[::2], validation: IMAGES[1::2]}
    path = write(tmp_path / "a.npz", **arrays, **{validation.replace("x", "y"): LABELS[1::2]})
    train, held_out, test = read_user_data(path, 16).split(0.01)
    assert len(held_out.labels) == 30
    assert len(train.labels) + len(test.labels) == 30
    assert set(test.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("X", "y")])
def test_images_without_parts_are_divided_by_their_content(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    first = read_user_data(write(tmp_path / "a.npz", **dict(zip(names, MIXED.values()))), 16)
    path = write(tmp_path / "b.npz", **dict(zip(names, (IMAGES, LABELS))))
    assert read_user_data(path, 16).digest == first.digest  # the order makes no difference
    assert first.class_counts().sum(axis=1).tolist() == [6] * 10
    assert first.class_counts().min().min() > 0


@pytest.mark.parametrize("grey", [IMAGES, IMAGES[..., None], np.stack([IMAGES] * 3, axis=-1)])
def test_grey_images_get_three_equal_channels(tmp_path: Path, grey: Any) -> None:
    images = (
        read_user_data(write(tmp_path / "a.npz", x=grey, y=LABELS), 16).examples("train").images
    )
    reference = read_user_data(write(tmp_path / "b.npz", x=IMAGES, y=LABELS), 16)
    np.testing.assert_array_equal(images[..., 0], images[..., 1])
    means = sorted(images.mean(axis=(1, 2, 3)))
    whole = np.concatenate([reference.examples(part).images for part in ("train", "test")])
    assert set(means) <= set(whole.mean(axis=(1, 2, 3)))


def test_large_images_are_cropped_around_their_centre(tmp_path: Path) -> None:
    images = np.zeros((6, 600, 900, 3), np.uint8)
    images[:, :, 150:750] = 200
    images += np.arange(6, dtype=np.uint8)[:, None, None, None]
    data = read_user_data(write(tmp_path / "a.npz", x=images, y=[0, 0, 0, 1, 1, 1]), 16)
    assert data.examples("train").images.min() >= 200


def test_classes_are_named_in_the_file_or_by_their_labels(tmp_path: Path) -> None:
    names = np.array([f"digit {label}" for label in range(10)])
    for key in ("classes", "class_names"):
        path = write(tmp_path / f"{key}.npz", **MIXED, **{key: names})
        assert read_user_data(path, 16).classes == tuple(names)
    encoded = write(tmp_path / "bytes.npz", **MIXED, classes=names.astype(bytes))
    assert read_user_data(encoded, 16).classes == tuple(names)
    text = write(tmp_path / "text.npz", images=IMAGES, labels=names[LABELS])
    assert read_user_data(text, 16).classes == tuple(names)
    tens = write(tmp_path / "tens.npz", images=IMAGES, labels=LABELS[:, None].astype(np.int64) * 10)
    assert read_user_data(tens, 16).classes == tuple(str(10 * label) for label in range(10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGES / 255}, "images is float64 (60, 8, 8); expected uint8"),
        ({"images": IMAGES.reshape(60, 64)}, "images is uint8 (60, 64); expected uint8"),
        ({"images": np.stack([IMAGES] * 3, axis=1)}, "images is uint8 (60, 3, 8, 8); expected"),
        ({"images": np.asfortranarray(IMAGES)}, "in Fortran's order; expected uint8"),
        ({"images": IMAGES[:, :0]}, "images is uint8 (60, 0, 8); expected uint8"),
        ({"images": IMAGES[1:]}, "images has 59 images, and labels 60 labels"),
        ({"labels": LABELS / 1.0}, "labels is float64 (60,); expected whole numbers or text"),
        ({"labels": np.eye(10)[LABELS].astype(int)}, "labels is int64 (60, 10); expected"),
        (
            {"labels": LABELS * 0},
            "the number of classes is 1 (0); expected 2 to 256, one for each label",
        ),
        (
            {"labels": np.array([{}] * 60)},
            "labels has Python objects; expected whole numbers or text",
        ),
        ({"classes": np.array(["a", "b"])}, "labels should be from 0 to 1"),
        (
            {"labels": np.array(["true", "false"])[LABELS % 2]},
            "the class name 'true' is reserved for a column of the results; choose another",
        ),
        ({"classes": np.array(["a", "A"])}, "'a' and 'A' differ only in case"),
        ({"classes": np.array([{}])}, "classes has Python objects; expected whole numbers or text"),
        ({"classes": np.array(["a", "a"])}, "two classes are called 'a'"),
    ],
)
def test_arrays_that_are_not_as_they_should_be_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in refusal(write(tmp_path / "a.npz", **MIXED | changes))


def test_no_part_is_left_out_silently(tmp_path: Path, screen: Screen) -> None:
    train = {"x_train": IMAGES[::2], "y_train": LABELS[::2]}
    typing_error = write(tmp_path / "a.npz", **train, x_test=IMAGES[1::2], y_tset=LABELS[1::2])
    assert refusal(typing_error).endswith("it has x_test, but no y_test")
    twice = write(tmp_path / "b.npz", **train, Train_images=IMAGES, train_labels=LABELS)
    assert refusal(twice).endswith("x_train and Train_images are both train images")
    shown = screen()
    read_user_data(write(tmp_path / "c.npz", **train, names=LABELS, images=IMAGES), 16)
    assert "Ignored   other arrays in the file: names, images" in shown.getvalue()


def test_a_file_without_images_says_what_it_has(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "a.npz", pixels=IMAGES, targets=LABELS))
    assert "expected x_train, y_train" in message
    assert message.endswith("found pixels, targets")
    only_test = write(tmp_path / "b.npz", x_test=IMAGES, y_test=LABELS)
    assert refusal(only_test).endswith("found x_test, y_test")


@pytest.mark.parametrize("damage", [lambda content: content[:1000], lambda content: b"text", None])
def test_a_damaged_file_is_named(tmp_path: Path, damage: Any) -> None:
    path = write(tmp_path / "a.npz", **MIXED)
    content = bytearray(path.read_bytes())
    if damage:
        path.write_bytes(damage(content))
    else:  # in the middle of an image: its checksum tells
        content[2000:2100] = bytes(100)
        path.write_bytes(content)
    assert "not a readable .npz file" in refusal(path)
