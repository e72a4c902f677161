"""The networks by name: the hidden layers of each.

To add one, write its function and list it in ARCHITECTURES. Keras is imported only when a network is
built, because the command line takes the names from here and has to start without it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from keras import Layer

# Names of layers whose initial weights depend on the training images, or on the layer before.
WHITENING, IDENTITY = "whitening", "identity"


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


def airbench93(activation: str) -> list["Layer"]:
    """Jordan's network for 93 % (arXiv 2404.00498), 0.57 million parameters."""
    return _airbench(activation, 64, 128, 128)


def airbench94(activation: str) -> list["Layer"]:
    """Jordan's network for 94 %, twice as wide: 1.97 million parameters."""
    return _airbench(activation, 64, 256, 256)


def airbench95(activation: str) -> list["Layer"]:
    """Jordan's network for 95 %: 4.6 million parameters."""
    return _airbench(activation, 128, 384, 384)


def _airbench(activation: str, *widths: int) -> list["Layer"]:
    """Three blocks of two convolutions on whitened 2 x 2 patches; takes images of any size.

    `initial.initialise` sets the layers named whitening and identity. Running statistics follow within
    a few steps (momentum 0.6), because a training has only a few hundred. Pooling comes before the
    normalisation, which is then four times cheaper.
    """
    from cifar_mlflow.backend import layers

    def convolution(width: int, name: str) -> "Layer":
        return layers.Conv2D(width, 3, padding="same", use_bias=False, name=name)

    def normalised() -> list["Layer"]:
        normalisation = layers.BatchNormalization(momentum=0.6, epsilon=1e-6, scale=False)
        return [normalisation, layers.Activation(activation)]

    hidden = [layers.Conv2D(24, 2, trainable=False, name=WHITENING), layers.Activation(activation)]
    for number, width in enumerate(widths):
        hidden += [
            convolution(width, f"{IDENTITY}_{number}_0"),
            layers.MaxPooling2D(),
            *normalised(),
            convolution(width, f"{IDENTITY}_{number}_1"),
            *normalised(),
        ]
    # Small features make small logits at first: otherwise the head learns before the convolutions do.
    return [*hidden, layers.GlobalMaxPooling2D(), layers.Rescaling(1 / 8)]


ARCHITECTURES: dict[str, Callable[[str], list["Layer"]]] = {
    function.__name__: function
    for function in (small, wide, deep, airbench93, airbench94, airbench95)
}
# The others flatten their features.
ANY_SIZE = frozenset({"airbench93", "airbench94", "airbench95"})
# Height and width, in pixels, of the smallest images of which anything is left after the last pooling.
SMALLEST = {"small": 8, "wide": 8, "deep": 18} | dict.fromkeys(ANY_SIZE, 9)
if TYPE_CHECKING:
    Architecture = str  # a type checker takes no Literal that is computed
else:
    Architecture = Literal[*ARCHITECTURES]
