"""The trainer compared with what people use and with what the machine allows, in turn, on the real data.

    python -m venv torchvenv && torchvenv/bin/pip install torch==2.13.0
    python -m benchmarks.training_speed --pytorch torchvenv/bin/python --json speed.json
    python -m benchmarks.speed_figure speed.json docs/images/speed.png

The paper's third network, relu, adam. Compared are an ordinary `fit` script, with and without its
callbacks; PyTorch, eager and compiled, each in the layout and with the processes that are its fastest; and
the trainer, with one process and with one for each core; in bfloat16 too where the CPU has it. PyTorch is
left out without --pytorch. The limits are the network's convolutions alone (forward and backward by
`tf.nn`, without optimizer and data), and a float32 matrix product on all cores.

Every measurement starts its processes, which begin together, and covers training and validation. What
happens once in a training is not timed: imports, TensorFlow's tracing (its first epoch) and PyTorch's
compilation. A variant of several processes counts all of their images. Prints median, least and most; the
median as a multiple of the ordinary script's, of PyTorch's best, of the convolutions' alone and of the
matrix product's; and the memory of a process.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import jobs, machine
from benchmarks.jobs import Result
from benchmarks.machine import CORES
from benchmarks.pytorch_comparison import PYTORCH
from benchmarks.settings import Training
from benchmarks.tensorflow_training import BARE, CONVOLUTIONS, ORDINARY, TRAINER
from cifar_mlflow.console import quieten
from cifar_mlflow.data import load
from cifar_mlflow.errors import FAILED

# Floating-point operations for each training image of the deep network: forward and twice that backward,
# but for the gradient of the pixels, which nobody needs; and a quarter of an image forward, to validate.
FIRST_LAYER = 30 * 30 * 32 * 27
FORWARD = 4_548_608  # multiply-adds of one image
OPERATIONS = 2 * (3 * FORWARD - FIRST_LAYER + FORWARD / 4)
COMPARED = ("script", "PyTorch", "convs.", "product")  # what a median is shown as a multiple of


@dataclass(frozen=True)
class Variant:
    """What is measured: the name that its module knows, and how its processes share the cores."""

    name: str
    processes: int = 1
    threads: int | None = None
    precision: str = "float32"

    @property
    def label(self) -> str:
        shared = f", {self.processes} x {self.threads}" if self.threads else ""
        name = f"PyTorch, {self.name}" if self.name in PYTORCH else self.name
        return name + shared + (", bfloat16" if self.precision != "float32" else "")


@dataclass(frozen=True)
class Bench:
    """What all measurements of a run share."""

    pytorch: str | None  # an interpreter
    folder: Path  # of the arrays for PyTorch
    epochs: int

    def measure(self, variant: Variant, batch_size: int, epochs: int = 0) -> Result:
        """One measurement: the images per second of all processes together, the memory of one."""
        setting = Training(
            variant.precision, batch_size, epochs or self.epochs, variant.threads, str(self.folder)
        )
        python, module = sys.executable, "benchmarks.tensorflow_training"
        if variant.name in PYTORCH:
            assert self.pytorch
            python, module = self.pytorch, "benchmarks.pytorch_training"
        each = jobs.measure(python, module, variant.name, setting, variant.processes)
        rate = sum(result["images_per_second"] for result in each)
        return each[0] | {"images_per_second": rate}

    def variants(self, batch_size: int) -> list[Variant]:
        found = [Variant(ORDINARY), Variant(BARE)]
        for precision in machine.supported_precisions():
            for how in ("eager", "compiled") if self.pytorch else ():
                found.append(self.fastest(how, precision, batch_size))
            found.append(Variant(TRAINER, 1, CORES, precision))
            found.append(Variant(TRAINER, CORES, 1, precision))
            found.append(Variant(CONVOLUTIONS, CORES, 1, precision))
        return found

    def fastest(self, how: str, precision: str, batch_size: int) -> Variant:
        """PyTorch in the layout and with the processes that are the fastest in an epoch each."""
        candidates = [
            Variant(name, processes, CORES // processes, precision)
            for name in PYTORCH
            if name.startswith(how)
            for processes in sorted({1, CORES})
        ]
        rates = {
            each: self.measure(each, batch_size, epochs=1)["images_per_second"]
            for each in candidates
        }
        return max(candidates, key=lambda each: rates[each])


def write_arrays(folder: Path) -> None:
    """Write the images and labels as plain bytes, for an interpreter that has no NumPy."""
    splits = load.load().split(validation_fraction=0.2)
    for part, examples in (("train", splits.train), ("validation", splits.validation)):
        np.asarray(examples.images).tofile(folder / f"{part}_images")
        np.asarray(examples.labels).tofile(folder / f"{part}_labels")


def report(measured: Mapping[Variant, Sequence[Result]], product: float) -> None:
    """Print a row for each variant; those in bfloat16 are compared with PyTorch and the limit in it."""
    rates = {
        variant: sorted(result["images_per_second"] for result in results)
        for variant, results in measured.items()
    }

    def compared(variant: Variant, names: Sequence[str], precision: str) -> str:
        others = [
            statistics.median(rates[other])
            for other in rates
            if other.name in names and other.precision == precision
        ]
        return f"{statistics.median(rates[variant]) / max(others):.2f}" if others else "–"

    def row(label: str, cells: Sequence[str]) -> None:
        print(f"{label:<48}" + "".join(f"{cell:>9}" for cell in cells), flush=True)

    row("images/s", ["median", "least", "most", *COMPARED, "peak MB", "its own"])
    for variant, results in measured.items():
        middle = statistics.median(rates[variant])
        memory = [
            statistics.median(result[name] for result in results)
            for name in ("peak_mb", "private_mb")
        ]
        row(
            variant.label,
            [
                *(f"{rate:.0f}" for rate in (middle, rates[variant][0], rates[variant][-1])),
                compared(variant, [ORDINARY], "float32"),
                compared(variant, PYTORCH, variant.precision),
                compared(variant, [CONVOLUTIONS], variant.precision),
                f"{middle * OPERATIONS / product:.2f}",
                *(f"{megabytes:.0f}" for megabytes in memory),
            ],
        )


def main() -> None:
    parser = machine.parser(__doc__)
    add = parser.add_argument
    add("--pytorch", type=machine.pytorch, help="a Python that has PyTorch")
    add("--json", type=machine.new_file, required=True, help="file for all measurements")
    add("--batch_sizes", type=machine.positive, nargs="+", default=[32, 64, 128])
    add("--epochs", type=machine.positive, default=2)
    add("--rounds", type=machine.positive, default=5)
    options = parser.parse_args()
    quieten()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the processes inherit it; all sides use the CPU
    print(f"{load.load()}; {CORES} of {os.cpu_count()} cores, n = {options.rounds}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_arrays(Path(folder))
        try:
            run(Bench(options.pytorch, Path(folder), options.epochs), options)
        except ChildProcessError as error:
            parser.exit(FAILED, f"{parser.prog}: {error}\n")


def run(bench: Bench, options: argparse.Namespace) -> None:
    """Measure all variants in turn; after each round the file has what is measured so far."""
    content = {"machine": machine.describe(), "rounds": options.rounds, "epochs": options.epochs}
    content["batches"] = batches = []
    for batch_size in options.batch_sizes:
        measured: dict[Variant, list[Result]] = {each: [] for each in bench.variants(batch_size)}
        products: list[float] = []
        batches.append({"batch_size": batch_size, "matrix_product": products})
        for _ in range(options.rounds):
            products.append(machine.matrix_product())
            for variant, results in measured.items():
                results.append(bench.measure(variant, batch_size))
            batches[-1]["variants"] = [
                asdict(variant) | {"label": variant.label, "rounds": results}
                for variant, results in measured.items()
            ]
            options.json.write_text(json.dumps(content, indent=1) + "\n")
        product = statistics.median(products)
        print(f"\nbatch {batch_size}; matrix product {product / 1e9:.0f} GFLOP/s")
        report(measured, product)


if __name__ == "__main__":
    main()
