"""Batch normalization and activations in fewer passes over memory than Keras' own, and with less kept.

Keras makes them of many operations, each of which writes its whole result. benchmarks/layers.py
compares the two. The results differ by rounding.
"""

from collections.abc import Callable
from functools import cache

from cifar_mlflow.backend import keras, layers, tf

Activation = Callable[[tf.Tensor], tf.Tensor]


class FusedBatchNormalization(layers.BatchNormalization):  # type: ignore[misc]  # Keras has no types
    """A `keras.layers.BatchNormalization` of images, with a training step in one TensorFlow operation."""

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        trains = training and self.trainable and mask is None
        if not (trains and inputs.shape.rank == 4 and faster(inputs)):
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma if self.scale else tf.ones(channels),
            offset=self.beta if self.center else tf.zeros(channels),
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        # It divides by one less than the number of values, Keras by this number.
        values = tf.cast(tf.size(inputs) // channels, tf.float32)
        variance *= (values - 1) / values
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return outputs


class FusedActivation(layers.Activation):  # type: ignore[misc]
    """A `keras.layers.Activation` that XLA computes in one pass, and its gradient in another."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return fused(self.activation)(inputs) if faster(inputs) else super().call(inputs)


def faster(inputs: tf.Tensor) -> bool:
    """Whether it is known to be faster; on GPUs and in other precisions nobody has measured it."""
    return inputs.dtype == tf.float32 and not tf.config.get_visible_devices("GPU")


def with_fused(layer: keras.Layer) -> keras.Layer:
    """The same layer, not built yet, as one of those above if they can compute it."""
    if type(layer) is layers.BatchNormalization:
        computable = layer.axis == -1 and not (layer.renorm or layer.synchronized)
        return FusedBatchNormalization.from_config(layer.get_config()) if computable else layer
    if type(layer) is layers.Activation and tf.test.is_built_with_xla():
        return FusedActivation.from_config(layer.get_config())
    return layer


@cache
def fused(activation: Activation) -> Activation:
    """A function of one tensor, and its gradient, each compiled by XLA for the CPU.

    The gradient computes the function again, so that only its input is kept since the forward pass.
    """
    forward = tf.function(activation, jit_compile=True)

    @tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
    def backward(inputs: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = activation(inputs)
        return tape.gradient(outputs, inputs, upstream)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def both(inputs: tf.Tensor) -> tuple[tf.Tensor, Activation]:
        return forward(inputs), lambda upstream: backward(inputs, upstream)

    computed: Activation = both
    return computed
