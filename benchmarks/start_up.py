"""Where the seconds go from `mlflow run` to the first training step of a grid, with the data in the cache.

    python -m benchmarks.start_up --rounds 5

Each round begins with an empty tracking store, runs a grid of two small trials for one epoch, and then a
second grid in the same store. The legs are read from what the runs have logged: when `mlflow run` created
the study's run, when its first trial began, and when its first epoch did. Beside them, each in a process
of its own, are the imports that the legs contain. Python may keep its bytecode, as it does by default:
where it may not, it compiles every module at every import. Prints seconds: median, least and most.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time

import mlflow

from benchmarks import machine
from cifar_mlflow.errors import FAILED
from cifar_mlflow.store.runs import KIND

IMPORTS = {
    "import mlflow": "import mlflow",
    "import the command": "import cifar_mlflow.study.command",
    "import a worker's modules": "import cifar_mlflow.training.fit",
}
GRID = {"architecture": "small", "activation": "relu", "batch_size": "128", "epochs": "1"}
LEGS = (
    "mlflow run, to its run",
    "the command, to its first trial",
    "the trial, to its first epoch",
    "all, to the first epoch",
)
Seconds = dict[str, float]


def run(command: list[str], folder: str, uri: str = "") -> float:
    """Seconds that a command takes, which leaves what it writes in a folder.

    Raises:
        ChildProcessError: it failed; with the last line of its errors.
    """
    environment = os.environ | {"PYTHONPATH": str(machine.PROJECT), "MLFLOW_TRACKING_URI": uri}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise ChildProcessError((ended.stderr.splitlines() or ["killed"])[-1])
    return time.perf_counter() - began


def measure_grid(folder: str, seed: int) -> Seconds:
    """The legs of a grid, whose seed tells it from the others in its store."""
    given = [f"-P{name}={value}" for name, value in (GRID | {"seed": str(seed)}).items()]
    command = [sys.executable, "-m", "mlflow", "run", str(machine.PROJECT), "-e", "grid", *given]
    uri = f"sqlite:///{folder}/mlflow.db"
    began = time.time()
    run([*command, "--env-manager=local"], folder, uri)

    client = mlflow.MlflowClient(uri)
    runs = [
        found
        for experiment in client.search_experiments()
        for found in client.search_runs([experiment.experiment_id])
        if found.info.start_time / 1000 >= began
    ]
    study = next(found for found in runs if found.data.tags.get(KIND) == "grid")
    trials = [found for found in runs if found.data.tags.get(KIND) == "trial"]
    first = min(trials, key=lambda trial: trial.info.start_time)
    (logged,) = client.get_metric_history(first.info.run_id, "epoch_seconds")
    epoch = logged.timestamp / 1000 - logged.value
    times = [began, study.info.start_time / 1000, first.info.start_time / 1000, epoch]
    legs = [end - begin for begin, end in itertools.pairwise(times)]
    return dict(zip(LEGS, [*legs, epoch - began], strict=True))


def measure_round() -> dict[str, Seconds]:
    """The imports, and the legs of a first and of a second grid."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            "": {name: run([sys.executable, "-c", code], folder) for name, code in IMPORTS.items()},
            "new store": measure_grid(folder, seed=0),
            "used store": measure_grid(folder, seed=1),
        }


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--rounds", type=machine.positive, default=5)
    options = parser.parse_args()
    try:
        rounds = [measure_round() for _ in range(options.rounds)]
    except ChildProcessError as error:
        parser.exit(FAILED, f"{parser.prog}: {error}\n")
    print(f"{machine.CORES} cores, n = {options.rounds}")
    print(f"{'seconds':<48}  median   least    most")
    for store, measured in rounds[0].items():
        for name in measured:
            seconds = sorted(each[store][name] for each in rounds)
            label = f"{name}, {store}" if store else name
            middle = statistics.median(seconds)
            print(f"{label:<48}{middle:8.2f}{seconds[0]:8.2f}{seconds[-1]:8.2f}")


if __name__ == "__main__":
    main()
