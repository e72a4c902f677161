"""Entry points as a user runs them: `mlflow run`, in a folder of one's own, on a small data set."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.study.trial import TrialOptions, run_trial
from tests.conftest import PROJECT, StandIn

HANGS_AFTER = 900  # seconds
QUICK = {"epochs": "2", "architecture": "small"}
GATE = Path(__file__).parent / "gate"
BEGUN: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True, scope="module")
def _end_what_was_begun() -> Iterator[None]:
    yield
    while BEGUN:
        process = BEGUN.pop()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def shown_by(process: subprocess.Popen[str]) -> str:
    """What a command shows until it ends, and its output is closed by its last process."""
    return process.communicate(timeout=HANGS_AFTER)[0]


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[Any], log: Path | None = None
) -> None:
    """Wait for a condition; fails if the process ends before it holds, or if it never holds."""
    patience = time.monotonic() + HANGS_AFTER
    while not condition():
        said = log.read_text() if log else "its output was not read"
        assert process.poll() is None, f"the process ended too early: {said}"
        assert time.monotonic() < patience, "the process hangs"
        time.sleep(0.2)


@dataclass(frozen=True)
class User:
    """A user's folder, with an empty home and a tracking store in it."""

    folder: Path
    environment: dict[str, str]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.environment["MLFLOW_TRACKING_URI"])

    def mlflow_run(
        self,
        entry: str,
        parameters: Mapping[str, str],
        *options: str,
        project: str | Path = PROJECT,
    ) -> list[str]:
        """The command `mlflow run`."""
        given = [word for item in parameters.items() for word in ("-P", "=".join(item))]
        command = [sys.executable, "-m", "mlflow", "run", str(project), "-e", entry]
        return [*command, "--env-manager", "local", *options, *given]

    def script(self, entry: str, parameters: Mapping[str, str]) -> list[str]:
        """The command that `mlflow run` starts after some four seconds; it exits with its own code."""
        given = [f"--{name}={value}" for name, value in parameters.items()]
        return [sys.executable, "-m", f"entry_points.{entry}", *given]

    def finish(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Both streams are one text in ``stdout``."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HANGS_AFTER,
        )

    def run(
        self,
        entry: str,
        parameters: Mapping[str, str],
        *options: str,
        project: str | Path = PROJECT,
    ) -> subprocess.CompletedProcess[str]:
        """Run an entry point with `mlflow run` to its end."""
        return self.finish(self.mlflow_run(entry, parameters, *options, project=project))

    def run_script(
        self, entry: str, parameters: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run an entry point without `mlflow run` to its end."""
        return self.finish(self.script(entry, parameters))

    def begin(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command in a process group of its own, which does not outlive the tests of a file."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        BEGUN.append(process)
        return process

    def start(self, command: Sequence[str], until: Callable[[], bool]) -> subprocess.Popen[str]:
        """Start a command, and wait for a condition."""
        process = self.begin(command)
        wait_until(until, process)
        return process

    def start_trials(self, command: Sequence[str], trials: int) -> subprocess.Popen[str]:
        """Start a command, and wait until so many trials have finished an epoch."""
        return self.start(command, lambda: len(self.begun()) >= trials)

    def begun(self) -> list[Run]:
        """The runs of trials that have finished an epoch."""
        return self.runs("metrics.val_accuracy >= 0")

    def held_after(self, epoch: int, name: str = "") -> "User":
        """The same user, whose trainings wait after an epoch until `open_gate` is called.

        Args:
            name: only trials wait whose name contains it.
        """
        gate = {
            "GATE": str(self.folder / "gate"),
            "GATE_EPOCH": str(epoch),
            "GATE_NAME": name,
            "PYTHONPATH": f"{GATE}{os.pathsep}{self.environment['PYTHONPATH']}",
        }
        return replace(self, environment=self.environment | gate)

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    def beyond_gate(self) -> int:
        """The number of trials that have trained the next epoch; they have not logged it, or just now."""
        return len(list(self.folder.glob("gate passed by *")))

    def runs(self, where: str = "") -> list[Run]:
        """All runs of every experiment, the oldest first."""
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, where, order_by=["start_time ASC"]))

    def children(self, parent: Run) -> dict[str, Run]:
        """The newest child of each name."""
        where = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        return {run.info.run_name: run for run in self.runs(where)}

    def artifacts(self, run: Run) -> set[str]:
        return {found.path for found in self.client.list_artifacts(run.info.run_id)}

    def read(self, run: Run, artifact: str) -> Path:
        return Path(self.client.download_artifacts(run.info.run_id, artifact))


@pytest.fixture(scope="session")
def new_user(
    tmp_path_factory: pytest.TempPathFactory,
    clean_environment: dict[str, str],
    standin_files: StandIn,
    make_store: Callable[..., str],
) -> Callable[[], User]:
    def make() -> User:
        folder = tmp_path_factory.mktemp("a user")  # a space in the path is no accident
        environment = clean_environment | {
            "HOME": str(folder / "home"),
            # `python` in MLproject's commands is the interpreter that runs the tests.
            "PATH": f"{Path(sys.executable).parent}:{clean_environment['PATH']}",
            "PYTHONPATH": str(PROJECT),  # for scripts, which run in the user's folder
            "MLFLOW_TRACKING_URI": make_store(folder),
            "CIFAR10_DIR": str(standin_files.folder),
            "CIFAR10_DIGEST": standin_files.digest,
        }
        return User(folder, environment)

    return make


@pytest.fixture
def user(new_user: Callable[[], User]) -> User:
    return new_user()


TIMES = {"train_seconds", "images_per_second", "epoch_seconds"}


def outcome(run: Run) -> dict[str, float]:
    """A trial's metrics, except the times that it took."""
    return {name: value for name, value in run.data.metrics.items() if name not in TIMES}


Alone = Callable[[TrialConfig], dict[str, float]]


@pytest.fixture
def alone(store: str, tensorflow: None, small_cifar10: DataSet) -> Alone:
    """Trains a configuration in this process, without an interruption; gives its outcome."""

    def train(config: TrialConfig) -> dict[str, float]:
        run = run_trial(config, small_cifar10, TrialOptions(threads=1), "auto")
        assert run.status == "FINISHED"
        return outcome(MlflowClient(store).get_run(run.run_id))

    return train


@dataclass(frozen=True)
class Studies:
    """A user who ran the same small grid twice, and what the terminal showed of each."""

    user: User
    first: Run
    second: Run
    shown: tuple[str, str]

    @property
    def best(self) -> Run:
        """The first study's best trial, whose model is the champion."""
        return self.user.client.get_run(self.first.data.tags["best_run_id"])

    @property
    def other(self) -> Run:
        children = self.user.children(self.first).values()
        (other,) = [run for run in children if run.info.run_id != self.best.info.run_id]
        return other

    @property
    def champion_id(self) -> str:
        assert self.best.outputs
        return str(self.best.outputs.model_outputs[0].model_id)


@pytest.fixture(scope="session")
def studies(new_user: Callable[[], User]) -> Studies:
    """On two workers, then on one; the second registers the challenger. Modules may add runs."""
    user = new_user()
    grid = QUICK | {"activation": "relu", "batch_size": "32", "optimizer": "sgd,adam"}
    grid |= {"threads": "1"}
    one = user.run("grid", grid | {"workers": "2"})
    assert one.returncode == 0, one.stdout
    other = user.run_script("grid", grid | {"workers": "1"})
    assert other.returncode == 0, other.stdout
    first, second = user.runs("tags.kind = 'grid'")
    return Studies(user, first, second, (one.stdout, other.stdout))
