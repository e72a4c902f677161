import pandas as pd

from cifar_mlflow.describe_data import imbalance, outline
from tests import standin


def counts(*train: int) -> pd.DataFrame:
    names = pd.Index(standin.EMPTY.classes[: len(train)], name="class")
    return pd.DataFrame({"train": train, "test": 1}, index=names)


def test_equal_classes_are_said_to_be_equal() -> None:
    assert outline(standin.EMPTY, counts(5, 5)) == [
        ("Images", "32 x 32 pixels, 10 classes"),
        ("Balance", "every class has 5 training images"),
    ]


def test_the_largest_and_the_smallest_class_are_compared() -> None:
    _, (_, text) = outline(standin.EMPTY, counts(10, 25, 4))
    assert text.startswith("automobile has 6.3 times as many training images as bird, 25 and 4;")
    assert "class_weights=balanced" in text


def test_a_class_without_training_images_is_no_division_by_zero() -> None:
    assert imbalance(counts(7, 0)) == 7
