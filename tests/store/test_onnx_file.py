"""ONNX files from anyone: they are loaded without TensorFlow, and what is unsafe is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.errors import UsageError
from cifar_mlflow.store import models
from tests import standin
from tests.exported import METADATA, onnx_model

Save = Callable[[onnx.ModelProto | bytes], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(model: onnx.ModelProto | bytes) -> Path:
        path = tmp_path / "a model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return path

    return save


def refusal(path: Path | str) -> str:
    with pytest.raises(UsageError) as caught:
        models.load_model(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_file_says_what_it_is_and_classifies(save: Save) -> None:
    loaded = models.load_model(str(save(onnx_model())))
    assert (loaded.classes, loaded.name, loaded.version) == (CLASSES, "mine", "3")
    assert (loaded.model_id, loaded.file) == ("m-1", "a model.onnx")
    assert str(loaded) == "mine version 3, a model.onnx"
    images = standin.batch(1, seed=1).images
    probabilities = loaded.predict(images)
    assert probabilities.shape == (10, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_names_in_a_file_can_be_printed(save: Save) -> None:
    hostile = {"classes": '["\\u001b[31mcat", "' + '", "'.join(CLASSES[1:]) + '"]'}
    loaded = models.load_model(str(save(onnx_model(metadata=METADATA.as_text() | hostile))))
    assert loaded.classes[0] == "\ufffd[31mcat"


def test_what_is_no_onnx_file_is_refused(save: Save, tmp_path: Path) -> None:
    assert "not an ONNX file" in refusal(save(b"a picture of a cat"))
    whole = onnx_model().SerializeToString()
    refusal(save(whole[: len(whole) // 2]))
    refusal(save(b""))
    other = tmp_path / "model.pt"
    other.write_bytes(whole)
    assert "not a file that ends in .onnx or .tflite" in refusal(other)
    assert "no such file or folder" in refusal(tmp_path / "absent.onnx")


def test_a_relative_path_that_leads_nowhere_says_where_it_begins(tmp_path: Path) -> None:
    assert f"no such file or folder in {tmp_path}" in refusal("absent.onnx")


def test_a_file_that_is_too_large_is_not_read(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "FILE_BYTES", 100)
    assert "; 100 are allowed" in refusal(save(onnx_model()))


@pytest.mark.parametrize(
    "metadata", [{}, {"classes": "cat, dog"}, {"classes": "[1, 2]", "image_size": "32"}]
)
def test_a_file_without_its_metadata_is_refused(save: Save, metadata: dict[str, str]) -> None:
    assert "no list of classes" in refusal(save(onnx_model(metadata=metadata)))


def test_a_file_with_other_classes_than_outputs_is_refused(save: Save) -> None:
    two = METADATA.as_text() | {"classes": '["cat", "dog"]'}
    assert "gives (None, 10), not probabilities (None, 2)" in refusal(
        save(onnx_model(metadata=two))
    )


def test_other_inputs_and_outputs_are_refused(save: Save) -> None:
    for wrong in (
        onnx_model(pixels=("image", TensorProto.UINT8, ["batch", 32, 32, 3])),
        onnx_model(pixels=("pixels", TensorProto.FLOAT, ["batch", 32, 32, 3])),
        onnx_model(probabilities="logits_2"),
    ):
        assert "not one input pixels" in refusal(save(wrong))
    for shape in ([1, 32, 32, 3], ["batch", "height", 32, 3]):
        wrong = onnx_model(pixels=("pixels", TensorProto.UINT8, shape))
        refusal(save(wrong))
    oblong = onnx_model(pixels=("pixels", TensorProto.UINT8, ["batch", 28, 32, 3]))
    assert "takes (None, 28, 32, 3), not images (None, size, size, 3)" in refusal(save(oblong))


def test_logits_are_no_probabilities(save: Save) -> None:
    model = onnx_model()
    model.graph.node[3].op_type = "Exp"
    assert "do not add up to 1" in refusal(save(model))


def test_custom_operators_are_refused(save: Save) -> None:
    custom = helper.make_node("Evil", ["logits"], ["more"], domain="mine")
    assert "the custom operator mine.Evil" in refusal(save(onnx_model([custom])))
    model = onnx_model()
    model.functions.append(
        helper.make_function(
            "mine",
            "Evil",
            ["a"],
            ["b"],
            [helper.make_node("Relu", ["a"], ["b"])],
            [helper.make_opsetid("", 18)],
        )
    )
    assert "operators of its own" in refusal(save(model))


def test_data_in_other_files_is_refused_wherever_it_is_mentioned(
    save: Save, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"1234")
    outside = numpy_helper.from_array(np.zeros(1, np.float32), "outside")
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="secret")
    weights = onnx_model()
    weights.graph.initializer.append(outside)
    for model in (weights, onnx_model([helper.make_node("Constant", [], ["more"], value=outside)])):
        assert "external data" in refusal(save(model))


def test_a_loop_is_refused(save: Save) -> None:
    body = helper.make_graph([], "body", [], [])
    loop = helper.make_node("Loop", ["", ""], [], body=body)
    assert "the operator Loop, which contains a graph" in refusal(save(onnx_model([loop])))


def test_a_small_file_that_asks_for_much_memory_is_refused(save: Save) -> None:
    model = onnx_model([helper.make_node("ConstantOfShape", ["sizes"], ["huge"])])
    model.graph.initializer.append(numpy_helper.from_array(np.array([10**6, 10**6]), "sizes"))
    assert "it computes 1,000,000," in refusal(save(model))
    # As many as there are images in the mean, which nobody knows beforehand.
    unknown = onnx_model(
        [
            helper.make_node("Cast", ["means"], ["whole"], to=TensorProto.INT64),
            helper.make_node("NonZero", ["whole"], ["places"]),
        ]
    )
    assert "NonZero, whose output has an unknown size" in refusal(save(unknown))
