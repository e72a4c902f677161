"""Every test has its own home, cache and tracking store, and small data in place of CIFAR-10."""

import io
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from rich.console import Console

from cifar_mlflow import console
from cifar_mlflow.data import cifar10, load
from cifar_mlflow.processes import Process, this_machine
from cifar_mlflow.store import claims, tracking
from cifar_mlflow.store.runs import HOST, KIND, PLAN_KEY
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
    from cifar_mlflow.training import fit

    fit.configure(1)


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
def small_cifar10(standin_files: StandIn, monkeypatch: pytest.MonkeyPatch) -> cifar10.Cifar10:
    """The stand-in, loaded and verified as CIFAR-10 is."""
    monkeypatch.setenv("CIFAR10_DIGEST", standin_files.digest)
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


# Studies that were interrupted, in the test's own store ------------------------------------------

PLAN = "0123456789ab"
Leave = Callable[..., str]
Start = Callable[..., list[claims.UnfinishedRun]]


@pytest.fixture
def dead_process() -> Process:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return Process(this_machine(), process.pid, "")


@pytest.fixture
def leave(dead_process: Process) -> Leave:
    """A run as its process left it when it was killed; tags that are given replace the usual ones."""

    def make(kind: str = "grid", plan: str = PLAN, **tags: str) -> str:
        client = mlflow.MlflowClient()
        run_id = str(client.create_run("0", run_name=kind).info.run_id)
        for name, value in {
            KIND: kind,
            HOST: platform.node(),
            **tracking.process_tags(dead_process),
            PLAN_KEY: plan,
            claims.CLAIM: claims.HELD,
            claims.HEARTBEAT: "2026-11-24T12:00:00.000+00:00",
            **tags,
        }.items():
            client.set_tag(run_id, name, value)
        return run_id

    return make


@pytest.fixture
def study() -> Iterator[Start]:
    """Starts a study's command, and gives what it resumes."""
    with ExitStack() as stack:

        def start(resume: str = "auto") -> list[claims.UnfinishedRun]:
            run = stack.enter_context(tracking.tracked_run("grid"))
            claim = claims.claim(run, PLAN, resume)
            return stack.enter_context(claim)

        yield start
