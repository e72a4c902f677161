"""The entry point `grid`; GridParameters says what it does."""

from cifar_mlflow.command_line import main
from cifar_mlflow.parameters import GridParameters
from cifar_mlflow.study.command import plan_or_run

if __name__ == "__main__":
    main(GridParameters, "grid", plan_or_run)
