"""The entry point `demo`; DemoParameters says what it does."""

from cifar_mlflow.command_line import main
from cifar_mlflow.errors import DONE
from cifar_mlflow.parameters import DemoParameters


def demo(parameters: DemoParameters) -> int:
    from cifar_mlflow.demo.write import write_demo

    write_demo(parameters)
    return DONE


if __name__ == "__main__":
    main(DemoParameters, "demo", demo)
