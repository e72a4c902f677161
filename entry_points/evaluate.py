"""The entry point `evaluate`; EvaluateParameters says what it does."""

from cifar_mlflow.command_line import main
from cifar_mlflow.errors import DONE
from cifar_mlflow.parameters import EvaluateParameters


def evaluate(parameters: EvaluateParameters) -> int:
    from cifar_mlflow.evaluate import evaluate_models

    evaluate_models(parameters)
    return DONE


if __name__ == "__main__":
    main(EvaluateParameters, "evaluate", evaluate)
