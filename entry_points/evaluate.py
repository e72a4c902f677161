"""Evaluate any model on the test set or the validation part; compare two on the same images."""

from rich.console import Console

from cifar_mlflow.command_line import DONE, main
from cifar_mlflow.config import EvaluateParameters


def evaluate(parameters: EvaluateParameters) -> int:
    from cifar_mlflow.assessment import assess

    assess(parameters, Console())
    return DONE


if __name__ == "__main__":
    main(EvaluateParameters, "evaluate", evaluate)
