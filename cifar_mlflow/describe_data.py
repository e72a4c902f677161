"""Fetch or read a data set, and log what it looks like: the entry point data."""

import pandas as pd

from cifar_mlflow.analysis import figures
from cifar_mlflow.console import Lines, lines_markdown, say_lines
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.data.load import load
from cifar_mlflow.formatting import literal_markdown, markdown_table, number
from cifar_mlflow.parameters import DataParameters
from cifar_mlflow.store import tracking


def describe_data(parameters: DataParameters) -> None:
    """Log an example of each class, the number of images of each class, and the digest.

    Raises:
        DataError: the data cannot be found, downloaded, read or verified.
    """
    data = load(parameters.data_dir, parameters.image_size)
    counts = data.class_counts()
    lines = [("Data", str(data)), *outline(data, counts)]
    say_lines(lines)
    rows = [
        [literal_markdown(str(name)), f"{train:,}", f"{test:,}"]
        for name, train, test in counts.itertuples()
    ]
    with tracking.tracked_run("data"):
        tracking.log_parameters(parameters)
        tracking.log_dataset(data, "source")
        tracking.log_metrics({"imbalance": imbalance(counts)})
        tracking.log_files(
            figures={
                "class_examples.png": figures.class_examples(data.examples("train"), data.classes)
            },
            tables={"class_counts.csv": counts},
        )
        table = markdown_table(["class", "train", "test"], rows, align="lrr")
        tracking.describe(f"{lines_markdown(lines)}\n\n{table}")


def imbalance(counts: pd.DataFrame) -> float:
    """How many times as many training images the largest class has as the smallest.

    Args:
        counts: of `DataSet.class_counts`. A class without a training image counts as one with one.
    """
    return float(counts["train"].max() / max(counts["train"].min(), 1))


def outline(data: DataSet, counts: pd.DataFrame) -> Lines:
    """The number of classes, the size of the images, and how unevenly they are spread over the classes."""
    height, width, _ = data.image_shape
    train = counts["train"]
    balance = f"every class has {train.min():,} training images"
    if train.max() > train.min():
        balance = (
            f"{train.idxmax()} has {number(imbalance(counts), 1)} times as many training images as "
            f"{train.idxmin()}, {train.max():,} and {train.min():,}; with class_weights=balanced all "
            "classes count alike"
        )
    return [
        ("Images", f"{height} x {width} pixels, {len(data.classes)} classes"),
        ("Balance", balance),
    ]
