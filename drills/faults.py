"""Inject faults into studies of small trainings on stand-in data, and print what happens.

    python -m drills.faults kills | search-kills | orphans | namespaces | memory | outage | disk |
        read-only | race
    CIFAR10_DIR=… python -m drills.faults real-kills

``real-kills`` trains on the real CIFAR-10, for hours. ``disk`` and ``read-only`` mount small file
systems, and ``namespaces`` creates a PID namespace, so they need root on Linux.
"""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from mlflow.entities import Run

from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST
from tests import standin
from tests.end_to_end.conftest import User
from tests.end_to_end.servers import free_port, tracking_server

STUDY = {
    "architecture": "small",
    "activation": "relu",
    "batch_size": "16,32",
    "optimizer": "sgd,adam",
    "epochs": "100",
    "keep": "best",
}
REAL_STUDY = STUDY | {"batch_size": "64,128", "epochs": "3"}
SEARCH = {
    "architecture": "small",
    "learning_rate": "log:0.0003..0.03",
    "batch_size": "16,32",
    "optimizer": "sgd,adam",
    "rungs": "2,6,18",
    "trials": "18",
    "finalists": "2",
    "replicates": "2",
}
OF_A_TRIAL = "tags.trial_key != ''"


class Place(User):
    """A folder with its own home and tracking store; ``store`` may be elsewhere."""

    @classmethod
    def make(cls, folder: Path, store: Path | None = None, data: Path | None = None) -> Self:
        """``data`` is a folder with the real CIFAR-10; without it the place has stand-in data of its own."""
        digest = CIFAR10_DIGEST
        if data is None:
            data = folder / "data"
            digest = standin.write(data, images_per_class=8)
        store = store or folder
        store.mkdir(parents=True, exist_ok=True)
        place = cls(
            store,
            {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
            | {
                "HOME": str(folder),
                "CIFAR10_DIR": str(data),
                "CIFAR10_DIGEST": digest,
                "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db",
            },
        )
        with chdir(store):  # where artifacts go; creates the store before two processes do
            place.runs()
        return place

    def wait_for(self, *processes: subprocess.Popen[str]) -> int:
        """Wait for studies and print their output; gives the exit code of the last."""
        for shown, process in [(process.communicate()[0], process) for process in processes]:
            lines = [line for line in shown.splitlines() if " INFO mlflow" not in line]
            print("\n".join(f"  | {line}" for line in lines), f"\n  exit code {process.returncode}")
        print(f"  {self.count()}")
        return processes[-1].returncode

    def trials_past(self, epoch: int) -> list[Run]:
        return self.runs(f"metrics.epoch >= {epoch}")

    def count(self) -> str:
        words = sorted(f"{run.data.tags.get('kind', '?')} {run.info.status}" for run in self.runs())
        return ", ".join(f"{words.count(word)} x {word}" for word in dict.fromkeys(words))

    def command(self) -> int:
        """The process id of the newest command."""
        return int(self.runs("tags.plan_key != ''")[-1].data.tags["process"])

    def kill(self, process: subprocess.Popen[str], chance: random.Random) -> str:
        """Kill some of the processes that `mlflow run` started; says which."""
        running = self.runs(f"{OF_A_TRIAL} and attributes.status = 'RUNNING'")
        # A killed command leaves such runs until the next one has taken its trials over.
        training = [run for run in running if Path("/proc", run.data.tags["process"]).exists()]
        victim = chance.choice(["the command", "a worker", "all"])
        if victim == "all" or not training:  # the command may not have written its process id yet
            os.killpg(process.pid, signal.SIGKILL)
            return "all"
        worker = int(chance.choice(training).data.tags["process"])
        os.kill(worker if victim == "a worker" else self.command(), signal.SIGKILL)
        return victim

    def count_processes(self) -> int:
        """The number of this place's processes that still run 10 seconds later (Linux)."""
        time.sleep(10)
        home = f"HOME={self.environment['HOME']}".encode()
        count = 0
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended, or is another user's
                count += home in environment.read_bytes().split(b"\0")
        return count

    def results(self) -> list[tuple[str, ...]]:
        """The metrics of each trial that finished or was stopped, and the best trial of each finished study.

        A trial that was finished twice is there twice. A study that was killed may have named its best
        trial already; it does not count.
        """
        names = ("epoch", "train_loss", "val_loss", "kept_val_loss", "test_loss", "test_accuracy")
        trials = [
            (run.info.run_name, *(repr(run.data.metrics.get(name)) for name in names))
            for run in self.runs(OF_A_TRIAL)
            if run.info.status in ("FINISHED", "SCHEDULED")
        ]
        ended = "tags.best_trial != '' and attributes.status = 'FINISHED'"
        best = [(run.data.tags["best_trial"],) for run in self.runs(ended)]
        return sorted([*trials, *best])

    def epochs_trained_twice(self) -> int:
        """The number of epochs that a trial has trained or logged more than once.

        A run that resumed another has copies of its epochs, which took the same time to the last bit.
        """
        seconds: dict[tuple[str, int], set[float]] = defaultdict(set)
        twice = 0
        for run in self.runs(OF_A_TRIAL):
            points = self.client.get_metric_history(run.info.run_id, "epoch_seconds")
            twice += len(points) - len({point.step for point in points})
            for point in points:
                seconds[run.data.tags["trial_key"], point.step].add(point.value)
        return twice + sum(len(different) - 1 for different in seconds.values())


def kills(folder: Path) -> None:
    """SIGKILL the command, one worker or all processes, at random moments, until the study is done."""
    kill_studies(folder, "grid", STUDY, kills=20)


def real_kills(folder: Path) -> None:
    """The same on the real CIFAR-10, with a hundred kills."""
    if "CIFAR10_DIR" not in os.environ:
        sys.exit("real-kills: set CIFAR10_DIR to the folder with CIFAR-10")
    kill_studies(
        folder, "grid", REAL_STUDY, kills=100, data=Path(os.environ["CIFAR10_DIR"]).resolve()
    )


def search_kills(folder: Path) -> None:
    """The same with searches; each command runs on an engine at random."""
    kill_studies(folder, "search", SEARCH, kills=30, engines=("loky", "dask", "ray"))


def kill_studies(
    folder: Path,
    entry: str,
    parameters: Mapping[str, str],
    kills: int,
    engines: Sequence[str] = ("loky",),
    data: Path | None = None,
) -> None:
    """Kill studies until there were so many kills, and compare each with an undisturbed one.

    Args:
        engines: of the commands that are killed; the undisturbed one runs on loky.
        data: a folder with the real CIFAR-10; stand-in data without it.
    """
    whole = Place.make(folder / "whole", data=data)
    began = time.time()
    assert whole.wait_for(whole.begin(whole.mlflow_run(entry, parameters))) == 0
    seconds = time.time() - began
    expected = whole.results()
    chance = random.Random()
    kill = rounds = 0
    while kill < kills:
        rounds += 1
        place = Place.make(folder / f"round {rounds}", data=data)
        # The kill may come after the study has finished, while `mlflow run` still runs.
        while not place.runs(f"tags.kind = '{entry}' and attributes.status = 'FINISHED'"):
            engine = chance.choice(engines)
            process = place.begin(place.mlflow_run(entry, {**parameters, "engine": engine}))
            wait = chance.uniform(0.25, 0.75) * seconds
            killed = "nothing"
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                kill += 1
                killed = place.kill(process, chance)
            process.communicate()
            print(
                f"round {rounds}, kill {kill}, {engine}, {killed} after {wait:.1f} s, exit code "
                f"{process.returncode}, processes left: {place.count_processes()}: {place.count()}",
                flush=True,
            )
        versions = len(place.client.search_model_versions())
        running = len(place.runs("attributes.status = 'RUNNING'"))
        print(
            f"round {rounds} done: {len(place.results())} of {len(expected)} results, "
            f"equal: {place.results() == expected}, epochs trained twice: "
            f"{place.epochs_trained_twice()}, model versions: {versions}, runs left RUNNING: {running}",
            flush=True,
        )


def orphans(folder: Path) -> None:
    """Kill the command alone, on each engine, and count the processes left after 10 s."""
    for engine in ("loky", "dask", "ray"):
        place = Place.make(folder / engine)
        process = place.start_trials(place.mlflow_run("grid", STUDY | {"engine": engine}), trials=2)
        os.kill(place.command(), signal.SIGKILL)
        process.communicate()
        print(f"{engine}: processes left: {place.count_processes()}: {place.count()}", flush=True)


def namespaces(folder: Path) -> None:
    """Run two commands on one store, each in its own PID namespace, like containers on one host."""
    place = Place.make(folder)
    process = place.start_trials(place.mlflow_run("grid", STUDY), trials=2)
    namespace = ["unshare", "--pid", "--fork", "--mount-proc"]
    second = subprocess.run(
        [*namespace, *place.mlflow_run("grid", STUDY)],
        cwd=place.folder,
        env=place.environment,
        check=False,
        capture_output=True,
        text=True,
    )
    print(f"the second ends with exit code {second.returncode}: {second.stderr.splitlines()[-2:]}")
    place.wait_for(process)


def memory(folder: Path) -> None:
    """Limit a worker's address space to what it uses in its third epoch."""
    place = Place.make(folder)
    process = place.start(
        place.mlflow_run("grid", STUDY | {"batch_size": "16"}), lambda: bool(place.trials_past(3))
    )
    worker = int(place.trials_past(3)[0].data.tags["process"])
    used = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(worker, resource.RLIMIT_AS, (used, used))
    print(f"worker {worker} may not have more than the {used / 1e9:.1f} GB that it has")
    place.wait_for(process)


def outage(folder: Path) -> None:
    """Stop the tracking server for a minute during training."""
    place = Place.make(folder)
    port = free_port()
    database, artifacts = f"sqlite:///{folder}/server.db", ("--artifacts-destination", str(folder))
    with tracking_server(place, database, *artifacts, port=port) as remote:
        process = remote.start_trials(
            remote.mlflow_run("grid", STUDY | {"epochs": "300"}), trials=2
        )
    began = time.time()
    time.sleep(60)
    with tracking_server(place, database, *artifacts, port=port) as remote:
        print(f"the server was away for {time.time() - began:.0f} s")
        remote.wait_for(process)
        whole = list(range(1, 301))
        for run in remote.runs("tags.kind = 'trial'"):
            points = remote.client.get_metric_history(run.info.run_id, "val_accuracy")
            print(f"{run.info.run_name}: curve whole: {[point.step for point in points] == whole}")


@contextmanager
def mounted(point: Path, options: str) -> Iterator[Path]:
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def disk(folder: Path) -> None:
    """Fill the store's file system while trials run, then free it."""
    with mounted(folder / "disk", "size=24m") as point:
        place = Place.make(folder / "home", store=point)
        process = place.start(place.mlflow_run("grid", STUDY), lambda: bool(place.trials_past(10)))
        with (point / "filler").open("wb") as file:
            try:
                while True:
                    file.write(bytes(65536))
                    file.flush()
            except OSError as error:
                print(f"the disk is full: {error}")
        place.wait_for(process)
        (point / "filler").unlink()
        print("there is room again")
        place.wait_for(place.begin(place.mlflow_run("grid", STUDY)))


def read_only(folder: Path) -> None:
    """Make the artifact folder read-only."""
    place = Place.make(folder / "home")
    with mounted(folder / "home" / "mlruns", "ro"):
        place.wait_for(place.begin(place.mlflow_run("grid", STUDY)))


def race(folder: Path) -> None:
    """Start the same study twice at once, on a new database; then once more."""
    place = Place.make(folder)
    fresh = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/fresh.db"}
    place = replace(place, environment=place.environment | fresh)
    for _ in range(2):
        place.wait_for(*(place.begin(place.mlflow_run("grid", STUDY)) for _ in range(2)))


DRILLS = {
    "kills": kills,
    "real-kills": real_kills,
    "search-kills": search_kills,
    "orphans": orphans,
    "namespaces": namespaces,
    "memory": memory,
    "outage": outage,
    "disk": disk,
    "read-only": read_only,
    "race": race,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("drill", choices=DRILLS)
    drill = DRILLS[parser.parse_args().drill]
    with tempfile.TemporaryDirectory() as temporary:
        drill(Path(temporary))
