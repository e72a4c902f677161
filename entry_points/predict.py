"""Classify a person's own images."""

from rich.console import Console

from cifar_mlflow.command_line import DONE, FAILED, main
from cifar_mlflow.config import PredictParameters


def predict(parameters: PredictParameters) -> int:
    from cifar_mlflow.inference import run_inference

    return DONE if run_inference(parameters, Console()) else FAILED


if __name__ == "__main__":
    main(PredictParameters, "predict", predict)
