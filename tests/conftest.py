"""Every test has its own home, cache and working directory, and small data in place of CIFAR-10.

Nothing here imports TensorFlow or MLflow, which takes seconds: a test that needs them asks for the
fixture `tensorflow` or `store`.
"""

import gc
import io
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from cifar_mlflow import console
from cifar_mlflow.data import dataset, load
from cifar_mlflow.processes import Process, this_machine
from tests import standin

PROJECT = Path(__file__).parent.parent
# The suite's own environment must not reach the code under test.
FOREIGN = ("CIFAR10_DIR", "CIFAR10_DIGEST", "XDG_CACHE_HOME", "MLFLOW_RUN_ID", "PYTHONPATH")
OURS = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
# Before MLflow is imported: no test needs a network.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


# The groups of tests that take longest. Begun last, one of them would leave a core idle.
LONGEST = (
    "end_to_end/test_resuming.py",
    "studies",
    "end_to_end/test_server.py",
    "end_to_end/test_reproduce.py",
    "end_to_end/test_engines.py",
    "end_to_end/test_architectures.py",
    "end_to_end/test_refit.py",
    "training/test_fit.py",
    "report/test_page.py",
    "study/test_origin.py",
)


def group(item: pytest.Item) -> str:
    """What one process runs: a file, or the tests that share the studies of end_to_end/conftest.py."""
    shared = "studies" in getattr(item, "fixturenames", ())
    return "studies" if shared else str(item.path.relative_to(Path(__file__).parent))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks, and before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "end_to_end":
            item.add_marker("end_to_end")
        item.add_marker(pytest.mark.xdist_group(group(item)))
    turns = {name: turn for turn, name in enumerate(LONGEST)}
    items.sort(key=lambda item: turns.get(group(item), len(turns)))


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
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """This process's environment without what would change the code under test."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in FOREIGN + OURS and not name.startswith("PYTEST_")
    }
    # So that matplotlib looks for fonts once, and not in each process with an empty home.
    return kept | {"MPLCONFIGDIR": str(tmp_path_factory.mktemp("matplotlib"))}


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FOREIGN + OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)  # artifacts go to mlruns in the working directory
    # Without the fixture MLflow would create a database here, which takes it four seconds.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none://this-test-must-ask-for-the-fixture-store")


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Gives a folder a tracking store as MLflow creates it, and its URI.

    With the name of its file, and where its default experiment keeps artifacts, if others are wanted.

    A copy, because MLflow takes seconds for its migrations, and because two processes must not begin
    on no store at once.
    """
    import mlflow

    original = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{original}").search_experiments()

    def make(folder: Path, name: str = "mlflow.db", artifacts: str = "") -> str:
        database = shutil.copy(original, folder / name)
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(
                "UPDATE experiments SET artifact_location = ?", [artifacts or f"{folder}/mlruns/0"]
            )
        return f"sqlite:///{database}"

    return make


@pytest.fixture
def store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_store: Callable[..., str]
) -> Iterator[str]:
    """The URI of an empty tracking store of the test's own, which MLflow uses."""
    import mlflow

    # Forgets what a test connected to, so that MLflow asks the environment; drops the variable too.
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    uri = make_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    yield uri
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tensorflow() -> None:
    """TensorFlow, configured as for a trial with one thread, before its first operation."""
    from cifar_mlflow.training import fit

    fit.configure(1)
    # Keras collects garbage before it builds a network. That takes half a second where MLflow and others
    # have left a million objects, so what is alive now is not looked at again.
    gc.collect()
    gc.freeze()


@pytest.fixture
def small_cifar10(standin_files: StandIn, monkeypatch: pytest.MonkeyPatch) -> dataset.DataSet:
    """The stand-in, loaded and verified as CIFAR-10 is."""
    monkeypatch.setenv("CIFAR10_DIGEST", standin_files.digest)
    return load.load(str(standin_files.folder))


@pytest.fixture(scope="session")
def shared_cifar10(
    standin_files: StandIn, tmp_path_factory: pytest.TempPathFactory
) -> dataset.DataSet:
    """The same for fixtures that several tests share; not to be written to."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        environment.setenv("CIFAR10_DIGEST", standin_files.digest)
        return load.load(str(standin_files.folder))


Screen = Callable[..., io.StringIO]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Puts a screen in place of the terminal, and gives what it shows; by default a wide file."""

    def make(width: int = 1000, is_terminal: bool = False) -> io.StringIO:
        shown = io.StringIO()
        made = Console(file=shown, width=width, force_terminal=is_terminal, color_system=None)
        monkeypatch.setattr(console, "terminal", made)
        return shown

    return make


@pytest.fixture
def dead_process() -> Process:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return Process(this_machine(), process.pid, "")
