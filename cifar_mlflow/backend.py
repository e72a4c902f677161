"""TensorFlow and Keras, imported here and nowhere else.

Their C++ code writes to stderr while it loads, whatever its log level is.
"""

from cifar_mlflow.console import hushed

with hushed():
    import keras
    import tensorflow as tf
    from keras import layers

__all__ = ["keras", "layers", "tf"]
