from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet

pytestmark = pytest.mark.usefixtures("tensorflow")
Convolution = Callable[[object, object], object]


def results(
    convolution: Convolution, count: int, height: int, width: int
) -> list[npt.NDArray[np.float32]]:
    """Outputs and both gradients for random images; how many there are is not known when it is traced."""
    from cifar_mlflow.backend import tf

    random = np.random.default_rng(0)
    images = random.normal(size=(count, height, width, 4)).astype(np.float32)
    kernel = random.normal(size=(3, 3, 4, 5)).astype(np.float32)
    upstream = random.normal(size=(count, height, width, 5)).astype(np.float32)

    @tf.function(
        input_signature=[tf.TensorSpec((None, height, width, 4)), tf.TensorSpec(kernel.shape)]
    )
    def compute(images, kernel):  # type: ignore[no-untyped-def]
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            outputs = convolution(images, kernel)
        return outputs, *tape.gradient(outputs, [images, kernel], upstream)

    return [np.asarray(each) for each in compute(images, kernel)]


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (2, 3), (4, 5), (6, 6), (7, 7), (15, 9), (31, 31)]
)
def test_outputs_and_gradients_are_those_of_tensorflow(height: int, width: int) -> None:
    from cifar_mlflow.backend import tf
    from cifar_mlflow.training.winograd import convolve

    theirs = results(lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), 3, height, width)
    for ours, expected in zip(results(convolve, 3, height, width), theirs, strict=True):
        np.testing.assert_allclose(ours, expected, atol=5e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("size", "products"), [(3, 5), (6, 8), (7, 11), (15, 21), (31, 43)])
def test_a_line_takes_two_products_more_than_outputs_for_each_tile(
    size: int, products: int
) -> None:
    from cifar_mlflow.training.winograd import line_transforms

    line, kernel, outputs = line_transforms(size)
    assert line.shape == (products, size)
    assert kernel.shape == (products, 3)
    assert outputs.shape == (size, products)
    x, k = np.arange(size) ** 2 % 7, np.array([1, -2, 4])
    convolved = np.correlate(np.pad(x, 1), k, "valid")
    np.testing.assert_allclose(outputs @ ((line @ x) * (kernel @ k)), convolved, atol=1e-4)


def test_a_layer_computes_what_keras_computes_with_its_bias_and_activation() -> None:
    from cifar_mlflow.backend import layers
    from cifar_mlflow.training.winograd import FEWEST_CHANNELS, WinogradConv2D, with_winograd

    images = np.random.default_rng(0).normal(size=(2, 7, 7, FEWEST_CHANNELS)).astype(np.float32)
    plain = layers.Conv2D(
        3, 3, padding="same", activation="relu", bias_initializer="ones", name="plain"
    )
    ours = with_winograd(plain)
    assert type(ours) is WinogradConv2D
    expected = plain(images)
    ours.build(images.shape)
    ours.set_weights(plain.get_weights())
    assert ours.name == "plain"
    np.testing.assert_allclose(ours(images), expected, atol=1e-4)
    assert not np.array_equal(ours(images), expected)  # it was computed in another way


@pytest.mark.parametrize(
    ("channels", "dtype", "gpus"),
    [(3, "float32", []), (64, "bfloat16", []), (64, "float32", ["0"])],
    ids=["few channels", "bfloat16", "GPU"],
)
def test_where_it_would_not_be_faster_a_layer_is_keras_own(
    channels: int, dtype: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cifar_mlflow.backend import layers, tf
    from cifar_mlflow.training import winograd

    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: gpus)
    monkeypatch.setattr(winograd, "convolve", lambda images, kernel: pytest.fail("it was used"))
    options = {"padding": "same", "kernel_initializer": "ones", "dtype": dtype}
    images = tf.random.stateless_normal((2, 5, 5, channels), seed=(0, 0))
    layer = winograd.WinogradConv2D(2, 3, **options)
    expected = layers.Conv2D(2, 3, **options)(images)
    np.testing.assert_array_equal(np.asarray(layer(images)), np.asarray(expected))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"padding": "valid"},
        {"strides": 2},
        {"dilation_rate": 2},
        {"groups": 2},
    ],
    ids=str,
)
def test_other_convolutions_stay_as_they_are(options: dict[str, object]) -> None:
    from cifar_mlflow.backend import layers
    from cifar_mlflow.training.winograd import with_winograd

    layer = layers.Conv2D(4, **{"kernel_size": 3, "padding": "same"} | options)
    assert with_winograd(layer) is layer


def test_images_of_each_size_are_convolved_so_while_they_grow(
    small_cifar10: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cifar_mlflow.training import fit, winograd

    sizes = []
    original = winograd.convolve

    def convolve(images: object, kernel: object) -> object:
        sizes.append(images.shape[1])  # type: ignore[attr-defined]
        return original(images, kernel)

    monkeypatch.setattr(winograd, "convolve", convolve)
    growing = TrialConfig(
        architecture="airbench93", resolution="16-32", epochs=2, validation_fraction=0
    )
    fit.train(growing, small_cifar10, on_epoch=lambda checkpoint: None)
    # Of 16 pixels 7, 3 and 1 are left after each pooling; of 32 pixels 15, 7 and 3.
    assert set(sizes) == {15, 7, 3, 1}
