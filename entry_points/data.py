"""Fetch and verify CIFAR-10; log class examples, class counts and the digest."""

from rich.console import Console

from cifar_mlflow.command_line import DONE, main
from cifar_mlflow.config import DataParameters


def data(parameters: DataParameters) -> int:
    from cifar_mlflow import figures, tracking
    from cifar_mlflow.data import class_counts, load
    from cifar_mlflow.terminal import say

    found = load(parameters.data_dir)
    say(Console(), "Data", str(found))
    with tracking.tracked_run("data"):
        tracking.log_parameters(parameters)
        tracking.log_dataset(found, "source")
        tracking.log_files(
            figures={"class_examples.png": figures.class_examples(found.examples("train"))},
            tables={"class_counts.csv": class_counts(found)},
        )
    return DONE


if __name__ == "__main__":
    main(DataParameters, "data", data)
