import keras
import numpy as np
import pytest

from cifar_mlflow.architectures import ARCHITECTURES, Architecture
from cifar_mlflow.training.network import build, classifier, layer_table

pytestmark = pytest.mark.usefixtures("tensorflow")


# Parameters of each layer that has any, in order; the paper prints those of small and deep.
PARAMETERS: dict[Architecture, list[int]] = {
    "small": [448, 4_640, 173_088, 330],
    "wide": [896, 18_496, 692_288, 650],
    "deep": [896, 18_496, 36_928, 65_600, 650],
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_layers_have_the_published_parameters(name: Architecture) -> None:
    network = build(name, "relu")
    counts = [layer.count_params() for layer in network.layers if layer.count_params()]
    assert counts == PARAMETERS[name]


def test_totals_are_those_that_the_paper_prints() -> None:
    assert build("small", "relu").count_params() == 178_506
    assert build("deep", "relu").count_params() == 122_570


def test_the_layer_table_has_the_layers_with_shapes_and_parameters() -> None:
    table = layer_table(classifier(build("deep", "relu")))
    assert table["parameters"].sum() == 122_570
    convolutions = table[table["layer"] == "Conv2D"]
    assert convolutions["output_shape"].tolist() == ["30 x 30 x 32", "13 x 13 x 64", "4 x 4 x 64"]
    assert convolutions["parameters"].tolist() == [896, 18_496, 36_928]
    assert table["layer"].iloc[-1] == "Softmax"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hidden_layers_have_the_activation_and_the_last_gives_logits(name: Architecture) -> None:
    *hidden, last = [
        layer.activation.__name__
        for layer in build(name, "sigmoid").layers
        if hasattr(layer, "activation")
    ]
    assert set(hidden) == {"sigmoid"}
    assert last == "linear"


def test_the_classifier_takes_raw_pixels_and_gives_the_networks_probabilities() -> None:
    network = build("deep", "relu")
    model = classifier(network)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    probabilities = keras.ops.convert_to_numpy(model(images))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        probabilities, keras.ops.softmax(network(images.astype(np.float32))), atol=1e-6
    )
    assert model.inputs[0].dtype == "uint8"
