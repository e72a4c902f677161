"""Classify the user's own images."""

from cifar_mlflow.command_line import main
from cifar_mlflow.errors import DONE
from cifar_mlflow.parameters import PredictParameters


def predict(parameters: PredictParameters) -> int:
    from cifar_mlflow.predict import classify

    classify.predict(parameters)
    return DONE


if __name__ == "__main__":
    main(PredictParameters, "predict", predict)
