"""Disturb studies of small trainings on a stand-in for CIFAR-10, and tell what became of them.

    python -m drills.faults kills | memory | disk | read-only | race

``disk`` and ``read-only`` mount small file systems, and so need root on Linux.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from tests import standin

PROJECT = Path(__file__).parent.parent
STUDY = {
    "architecture": "small",
    "activation": "relu",
    "batch_size": "16,32",
    "optimizer": "sgd,adam",
    "epochs": "100",
    "keep": "best",
}
KILLS = 20


class Place:
    """A folder with its own home, data and tracking store."""

    def __init__(self, folder: Path, store: Path | None = None):
        data = folder / "data"
        digest = standin.write(data, images_per_class=8)
        self.store = store or folder
        self.environment = os.environ | {
            "HOME": str(folder),
            "CIFAR10_DIR": str(data),
            "CIFAR10_DIGEST": digest,
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.store}/mlflow.db",
        }

    def start(self, study: dict[str, str]) -> subprocess.Popen[str]:
        given = [word for item in study.items() for word in ("-P", "=".join(item))]
        return subprocess.Popen(
            ["mlflow", "run", str(PROJECT), "-e", "grid", "--env-manager", "local", *given],
            cwd=self.store,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, study: dict[str, str]) -> int:
        process = self.start(study)
        shown, _ = process.communicate()
        print("\n".join(f"  | {line}" for line in shown.splitlines() if " INFO mlflow" not in line))
        print(f"  exit code {process.returncode}")
        return process.returncode

    def runs(self) -> list[Run]:
        os.chdir(self.store)  # where the first to open the store puts the artifacts
        return list(
            MlflowClient(self.environment["MLFLOW_TRACKING_URI"]).search_runs(
                ["0"], order_by=["start_time ASC"]
            )
        )

    def count(self) -> str:
        words = sorted(f"{run.data.tags.get('kind', '?')} {run.info.status}" for run in self.runs())
        return ", ".join(f"{words.count(word)} x {word}" for word in dict.fromkeys(words))

    def results(self) -> list[tuple[str, ...]]:
        """Of each trial, once for each time that it was finished."""
        names = ("test_loss", "test_accuracy", "kept_val_loss", "train_loss", "kept_epoch")
        return [
            (run.info.run_name, *(repr(run.data.metrics[name]) for name in names))
            for run in self.runs()
            if run.data.tags.get("kind") == "trial" and run.info.status == "FINISHED"
        ]


def kills(folder: Path) -> None:
    """Whole process trees killed at random moments, and the study run again until it is done."""
    whole = Place(folder / "whole")
    began = time.time()
    assert whole.run(STUDY) == 0
    seconds = time.time() - began
    expected = sorted(whole.results())
    moments = random.Random(0)
    kill = rounds = 0
    while kill < KILLS:
        rounds += 1
        place = Place(folder / f"round {rounds}")
        place.runs()
        code = -signal.SIGKILL
        while code:
            process = place.start(STUDY)
            wait = moments.uniform(0.25, 0.75) * seconds
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                kill += 1
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            code = process.returncode
            print(f"round {rounds}, kill {kill}, after {wait:.1f} s, code {code}: {place.count()}")
        client = MlflowClient(place.environment["MLFLOW_TRACKING_URI"])
        versions = len(client.search_model_versions())
        print(
            f"round {rounds} done: {len(place.results())} of {len(expected)} trials finished, "
            f"results equal: {sorted(place.results()) == expected}, model versions: {versions}"
        )


def memory(folder: Path) -> None:
    """A worker may have no more address space than it has in its third epoch."""
    place = Place(folder)
    place.runs()
    process = place.start(STUDY | {"batch_size": "16"})
    worker = 0
    while not worker:
        time.sleep(0.2)
        trials = [run for run in place.runs() if run.data.metrics.get("epoch", 0) >= 3]
        worker = int(trials[0].data.tags["process"]) if trials else 0
    used = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(worker, resource.RLIMIT_AS, (used, used))
    print(f"worker {worker} may not have more than the {used / 1e9:.1f} GB that it has")
    shown, _ = process.communicate()
    print("\n".join(f"  | {line}" for line in shown.splitlines() if " INFO mlflow" not in line))
    print(f"  exit code {process.returncode}; {place.count()}")


@contextmanager
def mounted(point: Path, options: str) -> Iterator[Path]:
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def disk(folder: Path) -> None:
    """The store's file system gets full while trials run; then there is room again."""
    with mounted(folder / "disk", "size=24m") as point:
        place = Place(folder / "home", store=point)
        place.runs()
        process = place.start(STUDY)
        while not any(run.data.metrics.get("epoch", 0) >= 10 for run in place.runs()):
            time.sleep(0.2)
        with (point / "filler").open("wb") as file:
            try:
                while True:
                    file.write(bytes(65536))
                    file.flush()
            except OSError as error:
                print(f"the disk is full: {error}")
        shown, _ = process.communicate()
        print("\n".join(f"  | {x}" for x in shown.splitlines() if " INFO mlflow" not in x))
        print(f"  exit code {process.returncode}; readable: {place.count()}")
        (point / "filler").unlink()
        print("there is room again")
        place.run(STUDY)
        print(place.count())


def read_only(folder: Path) -> None:
    """The folder of the artifacts cannot be written."""
    place = Place(folder / "home")
    place.runs()
    with mounted(folder / "home" / "mlruns", "ro"):
        place.run(STUDY)
        print(place.count())


def race(folder: Path) -> None:
    """Two people start the same study at once, on a fresh database; then once more."""
    place = Place(folder)
    for _ in range(2):
        both = [place.start(STUDY) for _ in range(2)]
        for number, process in enumerate(both, 1):
            shown, _ = process.communicate()
            print(f"command {number}, exit code {process.returncode}, its last lines:")
            lines = [line for line in shown.splitlines() if " INFO mlflow" not in line]
            print("\n".join(f"  | {line[:200]}" for line in lines[-3:]))
        print(place.count())


DRILLS = {"kills": kills, "memory": memory, "disk": disk, "read-only": read_only, "race": race}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        DRILLS[sys.argv[1]](Path(temporary))
