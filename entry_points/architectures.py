"""Compare the networks: train, evaluate and track each of them; name the best."""

from cifar_mlflow.command_line import main
from cifar_mlflow.config import ArchitecturesParameters
from entry_points.grid import grid

if __name__ == "__main__":
    # A study like the grid; its parameters tell what is its own.
    main(ArchitecturesParameters, "architectures", grid)
