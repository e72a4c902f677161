import numpy as np
import numpy.typing as npt
import pytest

pytestmark = pytest.mark.usefixtures("tensorflow")
IMAGES = np.random.default_rng(0).normal(2, 3, (5, 4, 3, 6)).astype(np.float32)


def step(layer: object, pixels: object = IMAGES) -> list[npt.NDArray[np.float32]]:
    """A training step: outputs, gradients by images and weights, and all variables after it.

    How many images there are is not known when it is traced.
    """
    from cifar_mlflow.backend import tf

    images = tf.convert_to_tensor(pixels)
    layer.build(images.shape)  # type: ignore[attr-defined]
    for variable in layer.variables:  # type: ignore[attr-defined]
        variable.assign(np.linspace(0.5, 2, variable.shape[0]))

    @tf.function(input_signature=[tf.TensorSpec((None, *images.shape[1:]), images.dtype)])
    def compute(images):  # type: ignore[no-untyped-def]
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)  # type: ignore[operator]
            upstream = tf.random.stateless_normal(tf.shape(outputs), (0, 0), dtype=outputs.dtype)
        weights = [each.value for each in layer.trainable_variables]  # type: ignore[attr-defined]
        return outputs, *tape.gradient(outputs, [images, *weights], upstream)

    return [np.asarray(each) for each in (*compute(images), *layer.variables)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options",
    [
        {"scale": False},
        {"center": False},
        {"momentum": 0.6, "epsilon": 0.1},
    ],
    ids=str,
)
def test_a_step_of_batch_normalization_is_keras_own(options: dict[str, object]) -> None:
    from cifar_mlflow.backend import layers
    from cifar_mlflow.training.fused import FusedBatchNormalization, with_fused

    plain = layers.BatchNormalization(**options, name="plain")
    ours = with_fused(plain)
    assert type(ours) is FusedBatchNormalization
    assert ours.name == "plain"
    results = step(ours), step(plain)
    for computed, expected in zip(*results, strict=True):
        np.testing.assert_allclose(computed, expected, atol=1e-5 * np.abs(expected).max())
    assert not np.array_equal(results[0][0], results[1][0])  # it was computed in another way


def test_batch_normalization_is_keras_own_where_it_does_not_train() -> None:
    from cifar_mlflow.backend import layers
    from cifar_mlflow.training.fused import FusedBatchNormalization

    frozen = FusedBatchNormalization(trainable=False)
    expected = layers.BatchNormalization()(IMAGES)
    np.testing.assert_array_equal(FusedBatchNormalization()(IMAGES, training=False), expected)
    np.testing.assert_array_equal(frozen(IMAGES, training=True), expected)


@pytest.mark.parametrize("activation", ["gelu", "silu", "relu", "tanh", "leaky_relu"])
def test_an_activation_and_its_gradient_are_keras_own(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cifar_mlflow.backend import layers
    from cifar_mlflow.training import fused

    compiled = []
    original = fused.fused

    def recorded(function: fused.Activation) -> fused.Activation:
        compiled.append(function)
        return original(function)

    monkeypatch.setattr(fused, "fused", recorded)
    plain = layers.Activation(activation, name="plain")
    ours = fused.with_fused(plain)
    assert type(ours) is fused.FusedActivation
    assert ours.name == "plain"
    for computed, expected in zip(step(ours), step(plain), strict=True):
        np.testing.assert_allclose(computed, expected, atol=1e-5 * np.abs(expected).max())
    assert set(compiled) == {plain.activation}


@pytest.mark.parametrize(("dtype", "gpus"), [("bfloat16", []), ("float32", ["0"])])
def test_in_another_precision_and_on_a_gpu_both_are_keras_own(
    dtype: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cifar_mlflow.backend import layers, tf
    from cifar_mlflow.training import fused

    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: gpus)
    monkeypatch.setattr(fused, "fused", lambda activation: pytest.fail("it was used"))
    images = tf.cast(IMAGES, dtype)
    for plain in (
        layers.BatchNormalization(dtype=dtype),
        layers.Activation("gelu", dtype=dtype),
    ):
        for computed, expected in zip(
            step(fused.with_fused(plain), images), step(plain, images), strict=True
        ):
            np.testing.assert_array_equal(computed, expected)


def test_features_without_height_and_width_are_normalised_by_keras() -> None:
    from cifar_mlflow.backend import layers
    from cifar_mlflow.training.fused import FusedBatchNormalization

    features = IMAGES.reshape(-1, IMAGES.shape[-1])
    for computed, expected in zip(
        step(FusedBatchNormalization(), features),
        step(layers.BatchNormalization(), features),
        strict=True,
    ):
        np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize(
    "options", [{"axis": 1}, {"renorm": True}, {"synchronized": True}], ids=str
)
def test_other_batch_normalization_stays_as_it_is(options: dict[str, object]) -> None:
    from cifar_mlflow.backend import layers
    from cifar_mlflow.training.fused import with_fused

    layer = layers.BatchNormalization(**options)
    assert with_fused(layer) is layer


def test_without_xla_activations_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from cifar_mlflow.backend import layers, tf
    from cifar_mlflow.training.fused import with_fused

    monkeypatch.setattr(tf.test, "is_built_with_xla", lambda: False)
    layer = layers.Activation("gelu")
    assert with_fused(layer) is layer
