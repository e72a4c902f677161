"""The entry point `data`; DataParameters says what it does."""

from cifar_mlflow.command_line import main
from cifar_mlflow.errors import DONE
from cifar_mlflow.parameters import DataParameters


def data(parameters: DataParameters) -> int:
    from cifar_mlflow.describe_data import describe_data

    describe_data(parameters)
    return DONE


if __name__ == "__main__":
    main(DataParameters, "data", data)
