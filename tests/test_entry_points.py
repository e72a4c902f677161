"""The scripts of entry_points/ in this process: what goes wrong is one line and an exit code.

That they run under `mlflow run` is held in tests/end_to_end, except of `demo`, which downloads its runtime:
drills/demo.py tries a page that it wrote.
"""

import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import mlflow
import pytest

from cifar_mlflow.errors import DONE, FAILED, MISUSED
from cifar_mlflow.formatting import as_text
from cifar_mlflow.parameters import TrainParameters
from tests.conftest import StandIn

pytestmark = pytest.mark.usefixtures("store")


class Ended(NamedTuple):
    code: object
    output: str
    errors: str


Script = Callable[..., Ended]


@pytest.fixture
def script(
    standin_files: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Script]:
    """Runs an entry point with parameters, on the stand-in for CIFAR-10."""
    monkeypatch.setenv("CIFAR10_DIR", str(standin_files.folder))
    monkeypatch.setenv("CIFAR10_DIGEST", standin_files.digest)
    monkeypatch.setattr("cifar_mlflow.command_line.quieten", lambda: None)
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)  # the threads that TensorFlow has
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(entry: str, **parameters: str) -> Ended:
        arguments = [f"--{name}={value}" for name, value in parameters.items()]
        monkeypatch.setattr(sys, "argv", [entry, *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_module(f"entry_points.{entry}", run_name="__main__")
        return Ended(end.value.code, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_damaged_file_is_named_in_one_line_and_nothing_is_tracked(
    script: Script, standin_files: StandIn, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in standin_files.folder.iterdir():
        content = path.read_bytes()
        cut = len(content) // 2 if path.name == "data_batch_2" else len(content)
        (folder / path.name).write_bytes(content[:cut])
    code, _, errors = script("data", data_dir=str(folder))
    (line,) = errors.splitlines()
    assert code == MISUSED
    assert line.startswith(f"data: {folder}/data_batch_2: not a CIFAR-10 batch, or damaged")
    assert not mlflow.MlflowClient().search_runs(["0"])


def test_a_dry_run_of_the_paper_plans_both_parts_and_tracks_nothing(script: Script) -> None:
    code, output, _ = script("reproduce", dry_run="true")
    assert code == DONE
    assert "3 trials, 60 epochs in all" in output
    assert "12 trials, 240 epochs in all" in output
    assert not mlflow.MlflowClient().search_runs(["0"])


def test_where_no_image_is_found_predict_ends_in_one_line(script: Script, tmp_path: Path) -> None:
    code, output, errors = script("predict", images="absent.png")
    assert (code, output) == (MISUSED, "")
    assert errors == f"predict: absent.png: no such file or folder (in {tmp_path})\n"


def test_a_page_for_a_model_that_is_not_there_ends_in_one_line(script: Script) -> None:
    code, _, errors = script("demo", output="page.html")
    assert code == MISUSED
    assert errors.startswith("demo: ")
    assert errors.count("\n") == 1
    assert not Path("page.html").exists()


def test_a_study_that_is_not_there_is_one_line_and_no_page_is_written(
    script: Script, tmp_path: Path
) -> None:
    output = tmp_path / "nothing.html"
    code, _, errors = script("report", run_id="0" * 32, output=str(output))
    (line,) = errors.splitlines()
    assert code == MISUSED
    assert line.startswith(f"report: run_id={'0' * 32}: no such run")
    assert not output.exists()
    assert {run.info.status for run in mlflow.MlflowClient().search_runs(["0"])} <= {"FAILED"}


@pytest.mark.usefixtures("tensorflow")
def test_a_model_that_is_not_there_is_one_line_that_names_those_that_are(script: Script) -> None:
    client = mlflow.MlflowClient()
    client.create_registered_model("cifar10-cnn")
    for alias in ("champion", "challenger"):
        version = client.create_model_version("cifar10-cnn", source="elsewhere").version
        client.set_registered_model_alias("cifar10-cnn", alias, version)
    code, _, errors = script("evaluate", model="models:/cifar10-cnn@best")
    (line,) = errors.splitlines()
    assert code == MISUSED
    assert line.startswith("evaluate: ")
    assert "models:/cifar10-cnn@best" in line
    assert "cifar10-cnn (@challenger, @champion; newest version 2)" in line


@pytest.mark.usefixtures("tensorflow")
def test_a_loss_that_diverges_fails_the_run_and_keeps_the_traceback(script: Script) -> None:
    code, _, errors = script(
        "train", architecture="small", optimizer="adam", learning_rate="1e20", threads="1"
    )
    assert code == FAILED
    assert errors == "train: Diverged: the training loss is nan in epoch 1\n"
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED"
    assert "Diverged" in mlflow.artifacts.load_text(f"{run.info.artifact_uri}/traceback.txt")


def test_a_training_counts_one_epoch_and_one_thread_and_logs_every_parameter(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("not trained here")

    monkeypatch.setattr("cifar_mlflow.study.trial.train_and_log", refuse)
    code, output, errors = script("train", epochs="1", threads="1")
    assert code == FAILED
    assert "relu-32-sgd-deep-epochs=1, 1 epoch, 1 thread\n" in output
    assert errors == "train: ValueError: not trained here\n"
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    values = TrainParameters(epochs=1, threads=1).model_dump()
    assert run.data.params == {name: as_text(value) for name, value in values.items()}
