"""TensorFlow and Keras, imported here and nowhere else.

Their C++ code writes to stderr while it loads, whatever its log level is.
"""

import gc

from cifar_mlflow.console import hushed

gc.disable()  # imports leave hardly any garbage
with hushed():
    import keras
    import tensorflow as tf
    from keras import layers
gc.enable()

# Keras collects garbage before each network, which takes half a second with the million objects of the
# modules imported so far. They live as long as the process, so the collector need not look at them.
gc.freeze()

__all__ = ["keras", "layers", "tf"]
