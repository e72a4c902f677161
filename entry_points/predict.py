"""Classify a person's own images."""

from cifar_mlflow.command_line import main
from cifar_mlflow.errors import DONE, FAILED
from cifar_mlflow.parameters import PredictParameters


def predict(parameters: PredictParameters) -> int:
    from cifar_mlflow.predict.classify import run_inference

    return DONE if run_inference(parameters) else FAILED


if __name__ == "__main__":
    main(PredictParameters, "predict", predict)
