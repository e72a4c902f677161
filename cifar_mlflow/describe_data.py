"""Fetch or read a data set, and log what it looks like: the entry point data."""

from cifar_mlflow.analysis import figures
from cifar_mlflow.console import Lines, lines_markdown, say, say_lines
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.data.load import load
from cifar_mlflow.formatting import markdown_table, number
from cifar_mlflow.parameters import DataParameters
from cifar_mlflow.store import tracking


def describe_data(parameters: DataParameters) -> None:
    """Log an example of each class, the number of images of each class, and the digest.

    Raises:
        DataError: the data cannot be found, downloaded, read or verified.
    """
    data = load(parameters.data_dir, parameters.image_size)
    say("Data", str(data))
    counts = data.class_counts()
    rows = [[str(name), f"{train:,}", f"{test:,}"] for name, train, test in counts.itertuples()]
    lines = outline(data)
    say_lines(lines)
    with tracking.tracked_run("data"):
        tracking.log_parameters(parameters)
        tracking.log_dataset(data, "source")
        tracking.log_metrics({"imbalance": imbalance(data)})
        tracking.log_files(
            figures={
                "class_examples.png": figures.class_examples(data.examples("train"), data.classes)
            },
            tables={"class_counts.csv": counts},
        )
        table = markdown_table(["class", "train", "test"], rows, align="lrr")
        tracking.describe(f"{data}\n\n{lines_markdown(lines)}\n\n{table}")


def imbalance(data: DataSet) -> float:
    """How many times as many training images the largest class has as the smallest (1, if that has none)."""
    train = data.class_counts()["train"]
    return float(train.max() / max(train.min(), 1))


def outline(data: DataSet) -> Lines:
    """The classes, the size of the images, and how unevenly they are spread over the classes."""
    height, width, _ = data.image_shape
    train = data.class_counts()["train"]
    times = imbalance(data)
    balance = "every class has as many training images"
    if times > 1:
        balance = (
            f"{train.idxmax()} has {number(times, 1)} times as many training images as {train.idxmin()}, "
            f"{train.max():,} and {train.min():,}; class_weights=balanced makes all classes count alike"
        )
    return [
        ("Images", f"{height} x {width} pixels, {len(data.classes)} classes"),
        ("Balance", balance),
    ]
