"""The networks by name. Each takes raw uint8 pixels (N, 32, 32, 3) and gives 10 logits (N, 10)."""

from collections.abc import Callable

import pandas as pd

from cifar_mlflow.backend import keras, layers
from cifar_mlflow.config import Architecture
from cifar_mlflow.data.cifar10 import CLASSES, IMAGE_SHAPE


def small(activation: str) -> list[layers.Layer]:
    """The study's first network: 178,506 parameters."""
    return [
        layers.Conv2D(16, 3, activation=activation),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, activation=activation),
        layers.Flatten(),
        layers.Dense(32, activation=activation),
    ]


def wide(activation: str) -> list[layers.Layer]:
    """The study's second network, twice as wide as the first: 712,330 parameters."""
    return [
        layers.Conv2D(32, 3, activation=activation),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation=activation),
        layers.Flatten(),
        layers.Dense(64, activation=activation),
    ]


def deep(activation: str) -> list[layers.Layer]:
    """The study's third network, one convolution deeper than the second: 122,570 parameters."""
    return [
        layers.Conv2D(32, 3, activation=activation),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation=activation),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation=activation),
        layers.Flatten(),
        layers.Dense(64, activation=activation),
    ]


ARCHITECTURES: dict[Architecture, Callable[[str], list[layers.Layer]]] = {
    "small": small,
    "wide": wide,
    "deep": deep,
}


def build(architecture: Architecture, activation: str) -> keras.Sequential:
    """A fresh network that rescales RGB 0..255 to 0..1 first and ends in logits."""
    hidden = ARCHITECTURES[architecture](activation)
    pixels = keras.Input(IMAGE_SHAPE, dtype="uint8")
    return keras.Sequential(
        [pixels, layers.Rescaling(1 / 255), *hidden, layers.Dense(len(CLASSES))]
    )


def classifier(network: keras.Sequential) -> keras.Model:
    """The same network and weights, ending in probabilities: what is logged, served and loaded."""
    return keras.Model(network.inputs[0], layers.Softmax(name="probabilities")(network.outputs[0]))


def layer_table(model: keras.Model) -> pd.DataFrame:
    """A row for each layer: its kind, the shape of its output for one image, its parameters."""
    return pd.DataFrame(
        {
            "layer": [type(layer).__name__ for layer in model.layers],
            "output_shape": [
                " x ".join(map(str, layer.output.shape[1:])) for layer in model.layers
            ],
            "parameters": [layer.count_params() for layer in model.layers],
        }
    )
