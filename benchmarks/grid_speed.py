"""The paper's grid, cut to two epochs: ours, and what people would write instead, in turn.

    python -m benchmarks.grid_speed --json grid.json

Compared are `mlflow run . -e grid`, twelve runs of an ordinary script one after another, and that script
with joblib, a process with one thread for each core. Each begins on the command line, with the data in
the cache and an empty tracking store, and ends when its results are there. Prints wall time and the peak
memory of all its processes together, what they share counted once (Linux), read once a second.
"""

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from benchmarks import machine
from benchmarks.machine import CORES
from cifar_mlflow.data import load
from cifar_mlflow.errors import FAILED

GRID = (("relu", "sigmoid"), ("32", "64", "128"), ("sgd", "adam"))
SCRIPT = [sys.executable, "-m", "benchmarks.ordinary"]
Commands = list[list[str]]  # one after another


def ways(epochs: int) -> dict[str, Commands]:
    """What is compared, as commands."""

    def script(*chosen: tuple[str, ...], workers: int = 1) -> list[str]:
        names = ("--activations", "--batch_sizes", "--optimizers")
        given = itertools.chain.from_iterable(
            (name, *values) for name, values in zip(names, chosen)
        )
        return [*SCRIPT, *given, f"--epochs={epochs}", f"--workers={workers}"]

    mlflow = [sys.executable, "-m", "mlflow", "run", str(machine.PROJECT), "-e", "grid"]
    singles = itertools.product(*GRID)
    return {
        "mlflow run . -e grid": [[*mlflow, "-P", f"epochs={epochs}", "--env-manager=local"]],
        "ordinary script, twelve runs": [script(*((value,) for value in each)) for each in singles],
        f"ordinary script, joblib, {CORES} workers": [script(*GRID, workers=CORES)],
    }


def measure(commands: Commands) -> dict[str, float]:
    """Wall time of some commands, and their peak memory.

    Raises:
        ChildProcessError: a command failed; with the last line of its errors.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "PYTHONPATH": str(machine.PROJECT),
        }
        environment.pop("TF_ENABLE_ONEDNN_OPTS", None)  # the package sets it in its own processes
        peak, began = 0.0, time.perf_counter()
        for command in commands:
            with (folder / "errors").open("w+") as errors:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                )
                try:
                    while process.returncode is None:
                        peak = max(peak, session_megabytes(process.pid))
                        with suppress(subprocess.TimeoutExpired):
                            process.wait(timeout=1)
                finally:
                    with suppress(ProcessLookupError):  # it has ended, unless after Ctrl-C
                        os.killpg(process.pid, signal.SIGTERM)
                if process.returncode:
                    errors.seek(0)
                    reason = (errors.read().splitlines() or ["killed"])[-1]
                    raise ChildProcessError(f"{' '.join(command[1:5])}: {reason}")
        return {"seconds": time.perf_counter() - began, "peak_mb": peak}


def session_megabytes(session: int) -> float:
    """The memory of all processes of a session, what several share counted once."""
    kilobytes = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended, or is somebody else's
            if os.getsid(int(folder.name)) == session:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1024


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--json", type=machine.new_file, required=True, help="file for the results")
    parser.add_argument("--epochs", type=machine.positive, default=2)
    parser.add_argument("--rounds", type=machine.positive, default=3)
    options = parser.parse_args()
    print(
        f"{load.load()}; {CORES} cores, {options.epochs} epochs, n = {options.rounds}", flush=True
    )
    compared = ways(options.epochs)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in compared}
    content = {"machine": machine.describe(), "epochs": options.epochs, "results": results}
    try:
        for _ in range(options.rounds):
            for name, commands in compared.items():
                results[name].append(measure(commands))
            options.json.write_text(json.dumps(content, indent=1) + "\n")
    except ChildProcessError as error:
        parser.exit(FAILED, f"{parser.prog}: {error}\n")
    base = statistics.median(each["seconds"] for each in results[next(iter(compared))])
    print(f"{'seconds':<40}  median   least    most   ratio  peak MB")
    for name, measured in results.items():
        seconds = sorted(each["seconds"] for each in measured)
        middle = statistics.median(seconds)
        memory = statistics.median(each["peak_mb"] for each in measured)
        spread = f"{middle:8.0f}{seconds[0]:8.0f}{seconds[-1]:8.0f}"
        print(f"{name:<40}{spread}{middle / base:8.2f}{memory:9.0f}")


if __name__ == "__main__":
    main()
