"""Every test has its own home, cache and tracking store, and small data in place of CIFAR-10."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest

from cifar_mlflow import data
from tests import standin

PROJECT = Path(__file__).parent.parent
# The suite's own environment must not reach the code under test.
FOREIGN = ("CIFAR10_DIR", "CIFAR10_DIGEST", "XDG_CACHE_HOME", "MLFLOW_RUN_ID", "PYTHONPATH")
OURS = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


@dataclass(frozen=True)
class StandIn:
    folder: Path
    digest: str


@pytest.fixture(scope="session")
def standin_files(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    """200 training and 40 test images in the official file format."""
    folder = tmp_path_factory.mktemp("standin")
    return StandIn(folder, standin.write(folder))


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """This process's environment without what would change the code under test."""
    return {name: value for name, value in os.environ.items() if name not in FOREIGN + OURS}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """TensorFlow is configured once in a process, before any test makes it start."""
    from cifar_mlflow import training

    training.configure(1)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs a whole file, and all that share the studies of end_to_end/conftest.py."""
    for item in items:
        shared = "studies" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("studies" if shared else str(item.path)))


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Gives a folder a tracking store as MLflow makes it, and its URI.

    A copy, because MLflow takes a second for its migrations, and because two processes must not begin
    on no store at once.
    """
    original = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{original}").search_experiments()

    def make(folder: Path) -> str:
        database = shutil.copy(original, folder)
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(
                "UPDATE experiments SET artifact_location = ?", [f"{folder}/mlruns/0"]
            )
        return f"sqlite:///{database}"

    return make


@pytest.fixture(autouse=True)
def _own_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_store: Callable[[Path], str]
) -> None:
    # What a test before this one connected to; None stands for what the environment says.
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    for name in FOREIGN + OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)  # artifacts go to mlruns in the working directory
    monkeypatch.setenv("MLFLOW_TRACKING_URI", make_store(tmp_path))


@pytest.fixture
def small_cifar10(standin_files: StandIn, monkeypatch: pytest.MonkeyPatch) -> data.Cifar10:
    """The stand-in, loaded and verified as CIFAR-10 is."""
    monkeypatch.setenv("CIFAR10_DIGEST", standin_files.digest)
    return data.load(str(standin_files.folder))
