import numpy as np
import numpy.typing as npt
import pytest

pytestmark = pytest.mark.usefixtures("tensorflow")
IMAGES = np.random.default_rng(0).normal(size=(3, 11, 10, 4)).astype(np.float32)


def results(
    layers: list[object], weights: list[npt.NDArray[np.float32]]
) -> list[npt.NDArray[np.float32]]:
    """Outputs of a network of these layers with these weights, and its gradients by images and weights."""
    from cifar_mlflow.backend import keras, tf

    network = keras.Sequential([keras.Input(IMAGES.shape[1:]), *layers])
    network.set_weights(weights)
    images = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = network(images, training=True)
    upstream = np.random.default_rng(1).normal(size=outputs.shape).astype(np.float32)
    variables = [each.value for each in network.trainable_variables]
    gradients = tape.gradient(outputs, [images, *variables], upstream)
    return [np.asarray(each) for each in (outputs, *gradients)]


@pytest.mark.parametrize(
    "pooling", [{}, {"pool_size": 3, "strides": 2, "padding": "same"}], ids=str
)
@pytest.mark.parametrize(
    "activation", ["relu", "sigmoid", "tanh", "elu", "selu", "leaky_relu", "softplus", "linear"]
)
def test_outputs_and_gradients_are_the_same_whichever_comes_first(
    activation: str, pooling: dict[str, object]
) -> None:
    from cifar_mlflow.backend import layers
    from cifar_mlflow.training.pooling import pooled_first

    def hidden() -> list[object]:
        return [layers.Conv2D(6, 3, activation=activation), layers.MaxPooling2D(**pooling)]

    random = np.random.default_rng(2)
    weights = [random.normal(size=shape).astype(np.float32) for shape in ((3, 3, 4, 6), (6,))]
    ordered = pooled_first(hidden())
    assert [type(layer).__name__ for layer in ordered] == [
        "Conv2D",
        "MaxPooling2D",
        "BiasedActivation",
    ]
    for computed, expected in zip(
        results(ordered, weights), results(hidden(), weights), strict=True
    ):
        np.testing.assert_allclose(computed, expected, atol=1e-6 * np.abs(expected).max())


def test_the_initial_weights_are_those_of_keras_own_layers() -> None:
    from cifar_mlflow.backend import keras
    from cifar_mlflow.config import TrialConfig
    from cifar_mlflow.training.network import build

    networks = []
    for for_use in (False, True):
        keras.utils.set_random_seed(7)
        networks.append(build(TrialConfig(), (32, 32, 3), 10, for_use=for_use))
    ordered, plain = (network.get_weights() for network in networks)
    assert len(networks[0].layers) > len(networks[1].layers)
    for one, other in zip(ordered, plain, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "gelu"},
        {"activation": "silu"},
        {"activation": np.negative},  # a function that Keras does not know
        {"use_bias": False},
        {"trainable": False},
        {"bias_initializer": "ones"},
        {"bias_regularizer": "l2"},
        {"activity_regularizer": "l2"},
    ],
    ids=str,
)
def test_other_convolutions_stay_as_they_are(options: dict[str, object]) -> None:
    from cifar_mlflow.backend import layers
    from cifar_mlflow.training.pooling import pooled_first

    hidden = [layers.Conv2D(6, 3, **options), layers.MaxPooling2D(), layers.Dense(3)]
    assert pooled_first(hidden) == hidden


def test_only_the_pooling_right_after_a_convolution_moves() -> None:
    from cifar_mlflow.backend import layers
    from cifar_mlflow.training.pooling import pooled_first

    hidden = [
        layers.MaxPooling2D(),
        layers.Conv2D(6, 3),
        layers.AveragePooling2D(2),
        layers.MaxPooling2D(),
        layers.Conv2D(6, 3),
        layers.Conv2D(6, 3),
    ]
    assert pooled_first(hidden) == hidden
