import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from cifar_mlflow import export
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.errors import UsageError
from cifar_mlflow.evaluate import EvaluatedModel
from cifar_mlflow.export import Measurement, Variant, check_source, describe_model, first_failure
from cifar_mlflow.parameters import ExportParameters
from cifar_mlflow.store import registry, tracking
from cifar_mlflow.store.models import Lineage, LoadedModel
from tests.conftest import Screen, StandIn
from tests.exported import random_classifier

KERAS = Measurement(bytes=500_000, max_difference=0, agreement=1, test_accuracy=0.7)


class Network:
    input_shape = (None, 32, 32, 3)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict_on_batch(self, images: Any) -> Any:
        self.batches.append(len(images))
        return np.full((len(images), 10), 0.1, np.float32)


def model(digest: str | None = "abc", file: str | None = None) -> EvaluatedModel:
    loaded = LoadedModel("models:/mine/3", "m-1", "mine", "3", CLASSES, Network(), file)
    return EvaluatedModel(loaded, Lineage("a trial", 0.2, digest, "CIFAR-10", "1"))


def test_a_wrong_conversion_fails_and_says_which_limit_it_misses() -> None:
    good = replace(KERAS, max_difference=1e-7)
    assert first_failure({"keras": KERAS, "onnx": good}, 10_000) is None
    wrong = {"keras": KERAS, "onnx": good, "litert": replace(good, max_difference=2e-4)}
    line = "litert: a probability differs from that of Keras by 2e-04; the limit is 1e-04"
    assert first_failure(wrong, 10_000) == line
    assert first_failure({"keras": KERAS, "onnx": replace(good, max_difference=math.nan)}, 10_000)


def test_an_int8_file_fails_by_the_accuracy_it_loses_and_not_by_differences() -> None:
    rounded = replace(KERAS, max_difference=0.3, test_accuracy=0.6901)
    assert first_failure({"keras": KERAS, "onnx-int8": rounded}, 10_000) is None
    assert (
        first_failure({"keras": KERAS, "onnx-int8": replace(rounded, test_accuracy=0.8)}, 10_000)
        is None
    )
    worse = {"keras": KERAS, "onnx-int8": replace(rounded, test_accuracy=0.689)}
    assert first_failure(worse, 10_000) == (
        "onnx-int8: its test accuracy 0.6890 is 0.0110 below that of Keras; the limit is 0.01, or one image"
    )


def test_an_int8_file_may_lose_one_image_however_few_there_are() -> None:
    all_right = replace(KERAS, test_accuracy=1)
    one_wrong, two_wrong = (replace(all_right, test_accuracy=1 - lost / 30) for lost in (1, 2))
    assert first_failure({"keras": all_right, "onnx-int8": one_wrong}, images=30) is None
    assert first_failure({"keras": all_right, "onnx-int8": two_wrong}, images=30)


def test_variants_have_a_file_each() -> None:
    names = {(str(each), each.file) for each in (Variant("onnx", True), Variant("litert", False))}
    assert names == {("onnx-int8", "model-int8.onnx"), ("litert", "model.tflite")}


def test_times_are_of_an_image_alone_and_in_64_however_few_images_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "SECONDS", 0)
    network = Network()
    times = export.milliseconds(network, np.zeros((10, 32, 32, 3), np.uint8))
    assert min(times) > 0
    assert network.batches == [1] * (1 + export.RUNS) + [64] * (1 + export.RUNS)


def test_an_exported_file_and_a_model_of_other_data_are_refused(small_cifar10: DataSet) -> None:
    with pytest.raises(
        UsageError, match="this is an exported file; give the model that it was exported from"
    ):
        check_source(model(small_cifar10.digest, file="model.onnx"), small_cifar10)
    with pytest.raises(UsageError, match=r"trained on other data \(SHA-256 abc\)"):
        check_source(model("abc"), small_cifar10)
    for known in (model(small_cifar10.digest), model(None)):
        check_source(known, small_cifar10)


def test_a_file_says_what_its_model_was_trained_on_only_if_that_is_known(
    small_cifar10: DataSet,
) -> None:
    known = describe_model(model(small_cifar10.digest), small_cifar10)
    assert (known.model_name, known.model_version, known.model_id) == ("mine", "3", "m-1")
    assert (known.data_digest, known.image_size) == (small_cifar10.digest, 32)
    folder = EvaluatedModel(LoadedModel("a/folder", "m-1", None, None, CLASSES, Network()), None)
    for without in (folder, model(None)):
        unknown = describe_model(without, small_cifar10)
        assert (unknown.data_set, unknown.data_digest, unknown.license) == ("", "", "unknown")
    assert describe_model(folder, small_cifar10).model_id == ""


@pytest.mark.usefixtures("store", "tensorflow")
def test_a_file_that_misses_its_limit_is_kept_nowhere_and_the_run_says_why(
    small_cifar10: DataSet,
    standin_files: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    screen: Screen,
) -> None:
    shown = screen()
    config = TrialConfig(architecture="small")
    with tracking.tracked_run("trial", config.name):
        tracking.log_dataset(small_cifar10, "training")
        tracking.log_model(random_classifier(config), small_cifar10, {}, config.model_dump())
        uri = mlflow.get_run(mlflow.active_run().info.run_id).data.tags["model_uri"]  # type: ignore[union-attr]
    mlflow.register_model(uri, "mine")
    monkeypatch.setattr(export, "FLOAT_DIFFERENCE", 1e-12)
    monkeypatch.setattr(export, "SECONDS", 0)
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)  # the threads that TensorFlow has
    parameters = ExportParameters(
        model="models:/mine/1", formats=("onnx",), data_dir=str(standin_files.folder),
        output=tmp_path / "exported",
    )  # fmt: skip
    failure = export.export_model(parameters)
    assert failure
    assert failure.startswith("onnx: a probability differs from that of Keras by ")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"], "tags.kind = 'export'")
    assert (run.info.status, run.data.tags["end_reason"]) == ("FAILED", failure)
    assert 0 <= run.data.metrics["onnx_max_difference"] < 1e-5
    assert not client.list_artifacts(run.info.run_id)
    assert registry.FORMATS not in client.get_model_version("mine", "1").tags
    assert not (tmp_path / "exported").exists()
    assert "onnx " in shown.getvalue()
