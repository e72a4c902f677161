"""The entry point `reproduce`; ReproduceParameters says what it does."""

from cifar_mlflow.command_line import main
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.parameters import ReproduceParameters
from cifar_mlflow.study.command import plan_or_run


def reproduce(parameters: ReproduceParameters) -> int:
    if parameters.dry_run:
        # The grid is of the network that the comparison will find the best.
        networks, usual = parameters.architectures(), parameters.grid(TrialConfig().architecture)
        return max(plan_or_run(networks), plan_or_run(usual))

    from cifar_mlflow.reproduce import reproduce  # takes seconds to import

    return reproduce(parameters)


if __name__ == "__main__":
    main(ReproduceParameters, "reproduce", reproduce)
