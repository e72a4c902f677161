"""LiteRT files from anyone: what is unsafe, or no classifier of images, is refused."""

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cifar_mlflow import formats
from cifar_mlflow.errors import UsageError
from cifar_mlflow.store import litert_file, models
from tests.exported import METADATA

pytestmark = pytest.mark.usefixtures("tensorflow")
Make = Callable[..., Path]


def convert(
    function: Any, pixels: str = "pixels", kind: str = "uint8", flex: bool = False
) -> bytes:
    """A LiteRT model of a function of images, without metadata."""
    from cifar_mlflow.backend import tf

    module = tf.Module()
    specification = tf.TensorSpec((None, 32, 32, 3), kind, pixels)
    module.serve = tf.function(function, input_signature=[specification])
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serve": module.serve})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if flex:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.SELECT_TF_OPS]
        content: bytes = converter.convert()
    return content


def classify(pixels: Any) -> dict[str, Any]:
    """Ten classes by the mean colour."""
    from cifar_mlflow.backend import tf

    means = tf.reduce_mean(tf.cast(pixels, tf.float32), axis=(1, 2))
    return {"probabilities": tf.nn.softmax(means @ tf.ones((3, 10)))}


@pytest.fixture(scope="module")
def content() -> bytes:
    return convert(classify)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(content: bytes, metadata: Mapping[str, object] = METADATA.as_text()) -> Path:
        file = io.BytesIO(content)
        with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("metadata.json", json.dumps(metadata))
        path = tmp_path / "a model.tflite"
        path.write_bytes(file.getvalue())
        return path

    return make


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        models.load_model(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_file_says_what_it_is(content: bytes, make: Make) -> None:
    loaded = models.load_model(str(make(content)))
    assert str(loaded) == "mine version 3, a model.tflite"


def test_what_is_no_litert_file_is_refused(content: bytes, make: Make, tmp_path: Path) -> None:
    assert "not a LiteRT file" in refusal(make(b"a picture of a cat"))
    refusal(make(content[: len(content) // 2]))
    empty = tmp_path / "empty.tflite"
    empty.touch()
    assert "not a LiteRT file" in refusal(empty)


def test_a_file_without_metadata_is_refused(content: bytes, make: Make, tmp_path: Path) -> None:
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(content)
    for path in (bare, make(content, {}), make(content, {"classes": ["cat"]})):
        assert "its metadata has no list of classes" in refusal(path)
    large = make(content, {"classes": "a" * litert_file.METADATA_BYTES})
    assert large.stat().st_size < litert_file.METADATA_BYTES / 10
    assert "metadata.json has" in refusal(large)


def test_other_inputs_and_outputs_are_refused(make: Make) -> None:
    assert "not one with the input pixels" in refusal(make(convert(classify, pixels="image")))
    assert "it takes float32 and gives float32" in refusal(make(convert(classify, kind="float32")))


def test_an_operator_that_is_not_built_in_is_refused(make: Make) -> None:
    refused = refusal(make(convert(classify, flex=True)))
    assert "has an operator that is not built into LiteRT" in refused


def test_a_loop_is_refused(make: Make) -> None:
    from cifar_mlflow.backend import tf

    def endless(pixels: Any) -> dict[str, Any]:
        given = classify(pixels)["probabilities"]
        (turned,) = tf.while_loop(lambda value: tf.reduce_sum(value) > 0, lambda v: [v], [given])
        return {"probabilities": turned}

    assert "such as a loop" in refusal(make(convert(endless)))


def test_a_file_that_asks_for_much_memory_is_refused(
    content: bytes, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "VALUES", 100)
    assert "; the limit is 100" in refusal(make(content))
