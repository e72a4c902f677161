"""Build the Keras model of an architecture."""

import pandas as pd

from cifar_mlflow.architectures import ARCHITECTURES, Architecture
from cifar_mlflow.backend import keras, layers
from cifar_mlflow.data.cifar10 import CLASSES, IMAGE_SHAPE


def build(architecture: Architecture, activation: str) -> keras.Sequential:
    """A fresh network from uint8 pixels (N, 32, 32, 3), which it scales to 0..1, to logits (N, 10)."""
    hidden = ARCHITECTURES[architecture](activation)
    pixels = keras.Input(IMAGE_SHAPE, dtype="uint8")
    return keras.Sequential(
        [pixels, layers.Rescaling(1 / 255), *hidden, layers.Dense(len(CLASSES))]
    )


def classifier(network: keras.Sequential) -> keras.Model:
    """The same network and weights, ending in probabilities: what is logged, served and loaded."""
    return keras.Model(network.inputs[0], layers.Softmax(name="probabilities")(network.outputs[0]))


def layer_table(model: keras.Model) -> pd.DataFrame:
    """A row for each layer: its class, the shape of its output for one image, its parameter count.

    Columns: layer (str), output_shape (str, such as ``30 x 30 x 32``), parameters (int).
    """
    return pd.DataFrame(
        {
            "layer": [type(layer).__name__ for layer in model.layers],
            "output_shape": [
                " x ".join(map(str, layer.output.shape[1:])) for layer in model.layers
            ],
            "parameters": [layer.count_params() for layer in model.layers],
        }
    )
