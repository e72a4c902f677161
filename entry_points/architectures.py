"""The entry point `architectures`; ArchitecturesParameters says what it does."""

from cifar_mlflow.command_line import main
from cifar_mlflow.parameters import ArchitecturesParameters
from cifar_mlflow.study.command import plan_or_run

if __name__ == "__main__":
    main(ArchitecturesParameters, "architectures", plan_or_run)
