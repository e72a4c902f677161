from pathlib import Path

import keras
import numpy as np
import pytest

from cifar_mlflow.architectures import ARCHITECTURES, SMALLEST, Architecture
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES, IMAGE_SHAPE
from cifar_mlflow.training import network as networks
from cifar_mlflow.training.checkpoint import Arrays
from cifar_mlflow.training.network import layer_table, training_flop

pytestmark = pytest.mark.usefixtures("tensorflow")


def build(config: TrialConfig) -> keras.Sequential:
    return networks.build(config, IMAGE_SHAPE, len(CLASSES))


def classifier(config: TrialConfig, weights: Arrays) -> keras.Model:
    return networks.classifier(config, IMAGE_SHAPE, len(CLASSES), weights)


# Parameters of each layer that has any, in order; the paper prints those of small and deep.
PARAMETERS: dict[Architecture, list[int]] = {
    "small": [448, 4_640, 173_088, 330],
    "wide": [896, 18_496, 692_288, 650],
    "deep": [896, 18_496, 36_928, 65_600, 650],
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_layers_have_the_published_parameters(name: Architecture) -> None:
    config = TrialConfig(architecture=name)
    model = classifier(config, build(config).get_weights())
    counts = [layer.count_params() for layer in model.layers if layer.count_params()]
    assert counts == PARAMETERS[name]


def test_totals_are_those_that_the_paper_prints() -> None:
    assert build(TrialConfig(architecture="small")).count_params() == 178_506
    assert build(TrialConfig()).count_params() == 122_570


def test_the_layer_table_has_the_layers_with_shapes_and_parameters() -> None:
    table = layer_table(classifier(TrialConfig(), build(TrialConfig()).get_weights()))
    assert table["parameters"].sum() == 122_570
    convolutions = table[table["layer"] == "Conv2D"]
    assert convolutions["output_shape"].tolist() == ["30 x 30 x 32", "13 x 13 x 64", "4 x 4 x 64"]
    assert convolutions["parameters"].tolist() == [896, 18_496, 36_928]
    assert table["layer"].iloc[-1] == "Softmax"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hidden_layers_have_the_activation_and_the_last_gives_logits(name: Architecture) -> None:
    *hidden, last = [
        layer.activation.__name__
        for layer in build(TrialConfig(architecture=name, activation="sigmoid")).layers
        if hasattr(layer, "activation")
    ]
    # Where normalisation or pooling comes first, a layer of its own is the activation.
    assert set(hidden) - {"linear"} == {"sigmoid"}
    assert hidden[-1] == "sigmoid"
    assert last == "linear"


def test_the_classifier_takes_raw_pixels_and_gives_the_networks_probabilities() -> None:
    network = build(TrialConfig())
    model = classifier(TrialConfig(), network.get_weights())
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    probabilities = keras.ops.convert_to_numpy(model(images))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        probabilities, keras.ops.softmax(network(images.astype(np.float32))), atol=1e-6
    )
    assert model.inputs[0].dtype == "uint8"


def test_growing_images_need_a_network_that_takes_any_size() -> None:
    network = build(TrialConfig(architecture="airbench93", resolution="24-32"))
    for size in (24, 32):
        assert network(np.zeros((2, size, size, 3), np.uint8)).shape == (2, 10)


def test_the_classifier_of_a_growing_network_takes_images_of_full_size_alone() -> None:
    config = TrialConfig(architecture="airbench93", resolution="24-32")
    model = classifier(config, build(config).get_weights())
    assert model.input_shape == (None, 32, 32, 3)


def test_the_classifier_computes_in_float32_whatever_the_training_did() -> None:
    config = TrialConfig(precision="mixed_bfloat16")
    network = build(config)
    assert network.layers[1].compute_dtype == "bfloat16"
    model = classifier(config, network.get_weights())
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_test_time_augmentation_averages_the_logits_of_the_views(tmp_path: Path) -> None:
    config = TrialConfig(tta="flip-shift")
    network = build(config)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")

    def both(view: np.ndarray) -> np.ndarray:
        logits = [np.asarray(network(each)) for each in (view, view[:, :, ::-1])]
        return np.asarray(sum(logits)) / 2

    shifted = (both(padded[:, :32, :32]) + both(padded[:, 2:, 2:])) / 2
    for tta, logits in (("flip", both(images)), ("flip-shift", (both(images) + shifted) / 2)):
        model = classifier(TrialConfig(tta=tta), network.get_weights())
        expected = keras.ops.softmax(logits)
        np.testing.assert_allclose(model(images), expected, atol=1e-6)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
        np.testing.assert_array_equal(loaded(images), model(images))


def test_the_layer_table_of_an_augmented_model_lists_the_networks_layers() -> None:
    config = TrialConfig(tta="flip")
    weights = build(config).get_weights()
    plain = layer_table(classifier(TrialConfig(), weights))
    augmented = layer_table(classifier(config, weights))
    assert augmented["parameters"].sum() == plain["parameters"].sum() == 122_570


def test_operations_are_six_for_each_multiply_add_of_the_kernels() -> None:
    by_hand = 30 * 30 * 9 * 3 * 32 + 13 * 13 * 9 * 32 * 64 + 4 * 4 * 9 * 64 * 64 + 1024 * 64 + 640
    assert training_flop(build(TrialConfig()), 32) == 6 * by_hand


def test_smaller_images_cost_fewer_operations() -> None:
    network = build(TrialConfig(architecture="airbench93", resolution="24-32"))
    assert training_flop(network, 24) < 0.6 * training_flop(network, 32)


@pytest.mark.parametrize("name", ["small", "airbench93"])
def test_a_network_is_built_for_the_images_and_classes_of_the_data(name: Architecture) -> None:
    config = TrialConfig(architecture=name)
    network = networks.build(config, (64, 64, 3), 3)
    model = networks.classifier(config, (64, 64, 3), 3, network.get_weights())
    assert model.input_shape == (None, 64, 64, 3)
    assert model.output_shape == (None, 3)


def leaves_something(name: Architecture, size: int) -> bool:
    """Whether every layer of a network has an output, of images of this size."""
    try:
        network = networks.build(TrialConfig(architecture=name), (size, size, 3), 2)
    except ValueError:  # of a convolution without a place for its kernel
        return False
    return all(min(layer.output.shape[1:]) > 0 for layer in network.layers)


@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_no_network_takes_smaller_images_than_it_says(name: Architecture) -> None:
    assert leaves_something(name, SMALLEST[name])
    assert not leaves_something(name, SMALLEST[name] - 1)
