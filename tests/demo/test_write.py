"""The entry point `demo` in this process; the runtime is a stand-in in the cache, so no network is needed."""

import base64
import errno
import gzip
import hashlib
import re
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import onnxruntime
import pytest
from platformdirs import user_cache_path

from cifar_mlflow.analysis import metrics
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.demo import runtime, write
from cifar_mlflow.demo.write import as_onnx, write_demo
from cifar_mlflow.errors import UsageError
from cifar_mlflow.parameters import DemoParameters
from cifar_mlflow.store import query, tracking
from cifar_mlflow.store.models import LoadedModel
from cifar_mlflow.store.runs import TrackedRun
from tests import standin
from tests.conftest import Screen
from tests.html_page import Page


@pytest.fixture
def _cached_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files in the cache in place of ONNX Runtime Web, and no npm."""
    folder = user_cache_path("cifar_mlflow") / f"onnxruntime-web-{runtime.VERSION}"
    folder.mkdir(parents=True)
    for name in runtime.SHA256:
        (folder / name).write_bytes(name.encode())
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in runtime.SHA256}
    monkeypatch.setattr(runtime, "SHA256", digests)
    monkeypatch.setenv("PATH", "")


@pytest.fixture
def trial(store: str, tensorflow: None, small_cifar10: DataSet) -> TrackedRun:
    """A trial with a tiny network, registered as champion, whose predictions of 40 images are known."""
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    hidden = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    network = keras.Model(pixels, keras.layers.Dense(10, activation="softmax")(hidden))
    test = small_cifar10.examples("test")
    probabilities = network.predict_on_batch(test.images)
    table = metrics.prediction_table(probabilities, test.labels, small_cifar10.classes)
    with tracking.tracked_run("trial", "tiny") as run:
        tracking.log_dataset(small_cifar10, "training")
        tracking.log_model(network, small_cifar10, {}, TrialConfig().model_dump())
        tracking.log_files(tables={"predictions.parquet": table})
    logged = query.read(run.run_id)
    assert logged.model_uri
    version = mlflow.register_model(logged.model_uri, "cifar10-cnn").version
    mlflow.MlflowClient().set_registered_model_alias("cifar10-cnn", "champion", version)
    return logged


@pytest.mark.usefixtures("_cached_runtime")
def test_the_page_has_the_champion_and_what_the_store_knows_of_it(
    trial: TrackedRun, screen: Screen, tmp_path: Path
) -> None:
    terminal = screen()
    write_demo(DemoParameters(output=Path("demo.html")))
    html = Path("demo.html").read_text()
    assert f"Page      {tmp_path}/demo.html, " in terminal.getvalue()
    page = Page(html)
    assert page.faults == []
    predictions = query.read_table(trial.run_id, "predictions.parquet")
    accuracy = float((predictions["true"] == predictions["predicted"]).mean())
    assert f"Test accuracy {100 * accuracy:.1f} % (95 % interval " in page.text
    assert "on 40 test images" in page.text
    assert "Trained on a stand-in for CIFAR-10" in page.text
    assert "cifar10-cnn version 1 answers with the likeliest of 10 classes" in page.text

    packed = re.findall(r'id="model">(.*?)</script>', html)[0]
    session = onnxruntime.InferenceSession(gzip.decompress(base64.b64decode(packed)))
    images = standin.batch(1, seed=3).images
    (probabilities,) = session.run(["probabilities"], {"pixels": images})
    expected = mlflow.pyfunc.load_model("models:/cifar10-cnn@champion").predict(images)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)

    (run,) = query.search("0", "tags.kind = 'demo'")
    assert query.read_file(run.run_id, "demo.html") == html.encode()
    inputs = mlflow.get_run(run.run_id).inputs
    assert inputs
    assert [f"models:/{used.model_id}" for used in inputs.model_inputs] == [trial.model_uri]


@pytest.mark.usefixtures("_cached_runtime")
@pytest.mark.usefixtures("trial")
def test_an_exported_onnx_file_is_put_in_as_it_is() -> None:
    write_demo(DemoParameters(output=Path("first.html")))
    packed = re.findall(r'id="model">(.*?)</script>', Path("first.html").read_text())[0]
    Path("mine.onnx").write_bytes(gzip.decompress(base64.b64decode(packed)))
    write_demo(DemoParameters(model="mine.onnx", output=Path("second.html")))
    html = Path("second.html").read_text()
    assert re.findall(r'id="model">(.*?)</script>', html)[0] == packed
    text = Page(html).text
    assert "test images, before it was exported" in text
    assert "Model cifar10-cnn version 1, mine.onnx" in text


def test_an_exported_file_in_another_format_is_refused_in_one_line() -> None:
    unused: Any = None
    model = LoadedModel("my/model.tflite", None, None, None, ("a", "b"), unused, "model.tflite")
    with pytest.raises(UsageError) as caught:
        as_onnx(model, Path("my/model.tflite"))
    assert str(caught.value) == (
        "my/model.tflite: the page cannot run this format; give the model itself, or an .onnx file"
    )


@pytest.mark.usefixtures("trial", "_cached_runtime")
def test_a_page_that_cannot_be_written_ends_its_run_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write, "write_whole", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_demo(DemoParameters(output=Path("demo.html")))
    (run,) = query.search("0", "tags.kind = 'demo'")
    assert run.status == "FAILED"


@pytest.mark.usefixtures("trial")
def test_without_a_model_or_a_runtime_nothing_is_written_and_no_run_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    for model, said in (("models:/absent/1", "absent"), ("models:/cifar10-cnn/1", "install npm")):
        with pytest.raises(UsageError) as caught:
            write_demo(DemoParameters(model=model, output=Path("demo.html")))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not Path("demo.html").exists()
    assert not query.search("0", "tags.kind = 'demo'")
