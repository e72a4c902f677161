"""Fetch and verify CIFAR-10, and log what it looks like: the entry point data."""

from cifar_mlflow.analysis import figures
from cifar_mlflow.console import say
from cifar_mlflow.data.load import load
from cifar_mlflow.parameters import DataParameters
from cifar_mlflow.store import tracking


def describe_data(parameters: DataParameters) -> None:
    """Log an example of each class, the number of images of each class, and the digest.

    Raises:
        DataError: the data cannot be found, downloaded or verified.
    """
    data = load(parameters.data_dir, parameters.image_size)
    say("Data", str(data))
    with tracking.tracked_run("data"):
        tracking.log_parameters(parameters)
        tracking.log_dataset(data, "source")
        tracking.log_files(
            figures={
                "class_examples.png": figures.class_examples(data.examples("train"), data.classes)
            },
            tables={"class_counts.csv": data.class_counts()},
        )
