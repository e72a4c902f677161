"""Max pooling before the bias and the activation of a convolution, which then cost a quarter.

Adding a bias and applying a monotonic activation keeps the largest output the largest. So the order makes
no difference, except where rounding makes two outputs equal: then the gradient may go to the other one.
"""

from collections.abc import Sequence

from cifar_mlflow.backend import keras, layers, tf

# The other activations of a trial, gelu and silu, are not.
MONOTONIC = frozenset(
    {"relu", "sigmoid", "tanh", "elu", "selu", "leaky_relu", "softplus", "linear"}
)


class BiasedActivation(layers.Activation):  # type: ignore[misc]  # Keras has no types
    """Adds a bias to each channel and applies an activation: the end of a `keras.layers.Conv2D`."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.bias = self.add_weight(shape=input_shape[-1:], initializer="zeros", name="bias")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return super().call(tf.nn.bias_add(inputs, self.bias))


def pooled_first(hidden: Sequence[keras.Layer]) -> list[keras.Layer]:
    """The same layers, not built yet, with each max pooling before the bias and the activation."""
    ordered: list[keras.Layer] = []
    for layer in hidden:
        if type(layer) is layers.MaxPooling2D and ordered and movable(ordered[-1]):
            convolution = ordered.pop()
            # The initializer itself, because a copy of it would draw other weights.
            products = convolution.get_config() | {
                "use_bias": False,
                "activation": None,
                "kernel_initializer": convolution.kernel_initializer,
            }
            rest = BiasedActivation(
                convolution.activation,
                name=f"{convolution.name}_bias",
                dtype=convolution.dtype_policy,
            )
            ordered += [layers.Conv2D.from_config(products), layer, rest]
        else:
            ordered.append(layer)
    return ordered


def movable(layer: keras.Layer) -> bool:
    """Whether it is a convolution whose bias and activation can come after the pooling instead."""
    return (
        type(layer) is layers.Conv2D
        and layer.use_bias
        and layer.trainable
        and layer.data_format == "channels_last"
        and getattr(layer.activation, "__name__", None) in MONOTONIC
        and type(layer.bias_initializer) is keras.initializers.Zeros
        and not (layer.bias_regularizer or layer.bias_constraint or layer.activity_regularizer)
    )
