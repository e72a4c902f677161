"""The trainer compared with an ordinary `fit` script, in turn, on the real data.

    python -m benchmarks.training_speed --batch_sizes 32 64 128 --epochs 2 --rounds 3

Every measurement starts a process and covers training, validation and callbacks, but not the imports.
A variant of several processes counts all of their images. Prints median, minimum and maximum, and
ratios of medians.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import joblib
import numpy as np

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import quieten
from cifar_mlflow.data import load


@dataclass(frozen=True)
class Variant:
    processes: int
    threads: int | None  # None: TensorFlow's default
    kind: str  # ours, ordinary, or bare: ordinary without callbacks


# Floating-point operations of an epoch of the deep network: 40,000 images forward and twice that
# backward, but for the gradient of the pixels, which nobody needs; 10,000 images forward.
FIRST_LAYER = 30 * 30 * 32 * 27
FORWARD = 4_548_608  # multiply-adds of one image
OPERATIONS = 2 * (40_000 * (3 * FORWARD - FIRST_LAYER) + 10_000 * FORWARD)

CORES = joblib.cpu_count()
VARIANTS = {
    "ordinary script": Variant(1, None, "ordinary"),
    "ordinary, no callbacks": Variant(1, None, "bare"),
    "trainer, 1 process": Variant(1, CORES, "ours"),
    "trainer, 1 process x 1 thread": Variant(1, 1, "ours"),
    f"trainer, {CORES} processes x 1 thread": Variant(CORES, 1, "ours"),
}


def measure_here(kind: str, threads: int | None, batch_size: int, epochs: int) -> dict[str, float]:
    """Train in this process; seconds, images trained on, and memory."""
    quieten()
    found = load.load()
    if kind == "ours":
        from cifar_mlflow.training import fit

        fit.configure(threads or CORES)
        config = TrialConfig(batch_size=batch_size, optimizer="adam", epochs=epochs)
        began = time.perf_counter()
        fit.train(config, found, on_epoch=lambda epoch: None)
    else:
        os.environ.pop("TF_ENABLE_ONEDNN_OPTS")  # an ordinary script leaves it to TensorFlow
        from benchmarks import ordinary

        images, labels = (np.array(array) for array in found.examples("train"))
        began = time.perf_counter()
        ordinary.train(images, labels, batch_size, epochs, callbacks=kind == "ordinary")
    seconds = time.perf_counter() - began
    return {
        "rate": 40_000 * epochs / seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "private_mb": private_megabytes(),
    }


def private_megabytes() -> float:
    """Memory that this process shares with no other (Linux; elsewhere NaN)."""
    try:
        with open("/proc/self/smaps_rollup") as file:
            sizes = dict(line.split()[:2] for line in file if line.startswith("Private"))
    except FileNotFoundError:
        return float("nan")
    return sum(int(size) for size in sizes.values()) / 1024


def machine_speed(size: int = 2048, rounds: int = 10) -> float:
    """Operations per second of a float32 matrix product on all cores: the best of some rounds."""
    matrix = np.ones((size, size), np.float32)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def measure(variant: Variant, batch_size: int, epochs: int) -> dict[str, float]:
    """One measurement: the images per second of all processes together, the memory of one."""
    job = json.dumps([variant.kind, variant.threads, batch_size, epochs])
    command = [sys.executable, "-m", "benchmarks.training_speed", "--job", job]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(variant.processes)
    ]
    outputs: list[dict[str, float]] = [
        json.loads(process.communicate()[0].splitlines()[-1]) for process in processes
    ]
    return outputs[0] | {"rate": sum(output["rate"] for output in outputs)}


def report(batch_size: int, results: dict[str, list[dict[str, float]]], peak: float) -> None:
    operations = OPERATIONS / 40_000
    base = statistics.median(each["rate"] for each in results["ordinary script"])
    print(f"\nbatch {batch_size}, images/s          median    least     most  ratio  of peak  MB")
    for name, measured in results.items():
        rates = sorted(each["rate"] for each in measured)
        rate = statistics.median(rates)
        memory = statistics.median(each["peak_mb"] for each in measured)
        private = statistics.median(each["private_mb"] for each in measured)
        print(
            f"{name:<30}{rate:8.0f} {rates[0]:8.0f} {rates[-1]:8.0f} {rate / base:6.2f} "
            f"{rate * operations / peak:8.0%}  {memory:.0f} peak, {private:.0f} of its own"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(measure_here(*json.loads(options.job))))
        return
    print(f"{load.load()}; {CORES} of {os.cpu_count()} cores, n = {options.rounds}")
    for batch_size in options.batch_sizes:
        results: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
        peaks = []
        for _ in range(options.rounds):
            peaks.append(machine_speed())
            for name, variant in VARIANTS.items():
                results[name].append(measure(variant, batch_size, options.epochs))
        peak = statistics.median(peaks)
        print(f"\nmatrix product: {peak / 1e9:.0f} GFLOP/s, median of {len(peaks)}")
        report(batch_size, results, peak)


if __name__ == "__main__":
    main()
