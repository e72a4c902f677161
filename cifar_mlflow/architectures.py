"""The networks by name: the hidden layers of each.

To add one, write its function and list it in ARCHITECTURES. Keras is imported only when a network is
built, because the command line takes the names from here and has to start without it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from keras import Layer


def small(activation: str) -> list["Layer"]:
    """The paper's first network: 178,506 parameters."""
    from cifar_mlflow.backend import layers

    return [
        layers.Conv2D(16, 3, activation=activation),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, activation=activation),
        layers.Flatten(),
        layers.Dense(32, activation=activation),
    ]


def wide(activation: str) -> list["Layer"]:
    """The paper's second network, twice as wide as the first: 712,330 parameters."""
    from cifar_mlflow.backend import layers

    return [
        layers.Conv2D(32, 3, activation=activation),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation=activation),
        layers.Flatten(),
        layers.Dense(64, activation=activation),
    ]


def deep(activation: str) -> list["Layer"]:
    """The paper's third network, one convolution deeper than the second: 122,570 parameters."""
    from cifar_mlflow.backend import layers

    return [
        layers.Conv2D(32, 3, activation=activation),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation=activation),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation=activation),
        layers.Flatten(),
        layers.Dense(64, activation=activation),
    ]


ARCHITECTURES: dict[str, Callable[[str], list["Layer"]]] = {
    function.__name__: function for function in (small, wide, deep)
}
if TYPE_CHECKING:
    Architecture = str  # a type checker takes no Literal that is computed
else:
    Architecture = Literal[*ARCHITECTURES]
