"""A step of training in the trainer compared with the same in PyTorch, in turn, on random pixels.

    python -m venv torchvenv && torchvenv/bin/pip install torch==2.13.0
    python -m benchmarks.pytorch_comparison --pytorch torchvenv/bin/python --json step.json

PyTorch is needed by this benchmark alone, so it has an interpreter of its own. Both train the same
network with the same batches and the same kind of optimizer, without augmentation, and count loss and
accuracy. Random pixels are as fast as real ones. The trainer runs Keras' `fit` on the batches of its
own data pipeline; PyTorch runs a plain loop, eager and compiled, in either memory layout.

Every measurement starts a process, which warms up before it is timed. Prints images per second
(median, least, most), the ratio to the fastest PyTorch variant, and the peak memory of the process.
Then the parts of the trainer's step, each layer timed alone; the rest is what `fit` takes beyond
their sum.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import joblib

from benchmarks.step_setting import ACTIVATIONS, PLAIN_DATA, WIDTHS, Setting
from cifar_mlflow.console import quieten
from cifar_mlflow.errors import FAILED, MISUSED, UsageError
from cifar_mlflow.training.devices import check_precision, cpu_instructions

CORES = joblib.cpu_count()
TRAINER, PARTS = "trainer", "parts"
PYTORCH = ("eager NCHW", "eager channels_last", "compiled NCHW", "compiled channels_last")
PRECISIONS = ("float32", "mixed_bfloat16")
Result = dict[str, Any]
Rounds = dict[str, list[Result]]  # of each variant, a result for each round


def measure(variant: str, setting: Setting, pytorch: str) -> Result:
    """One measurement in a process of its own."""
    python, module = sys.executable, "benchmarks.trainer_step"
    if variant in PYTORCH:
        python, module = pytorch, "benchmarks.pytorch_step"
    command = [python, "-m", module, variant, json.dumps(asdict(setting))]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode:
        reason = (finished.stderr.splitlines() or ["killed"])[-1]
        raise ChildProcessError(f"{variant}, {setting.precision}: {reason}")
    result: Result = json.loads(finished.stdout.splitlines()[-1])
    return result


def rehearse(setting: Setting, pytorch: str) -> tuple[list[str], list[int]]:
    """One short step of each variant, so that what cannot run fails before an hour has passed.

    Returns:
        The versions; how many parameters each network trains, and how many its frozen layer has.
    """
    short = replace(setting, batch_size=2, steps=1)
    results = [measure(variant, short, pytorch) for variant in (TRAINER, *PYTORCH)]
    first, *others = [result["parameters"] for result in results]
    assert all(other == first for other in others), f"not the same network: {first}, {others}"
    return list(dict.fromkeys(result["versions"] for result in results)), first


def report(setting: Setting, rounds: Rounds) -> None:
    name = f"{setting.architecture}, {setting.activation}, {setting.precision}"
    print(f"\n{name + ', images/s':<46}  median    least     most  ratio  peak MB")
    rates = {
        variant: sorted(result["images_per_second"] for result in rounds[variant])
        for variant in (TRAINER, *PYTORCH)
    }
    best = max(statistics.median(rates[variant]) for variant in PYTORCH)
    for variant, measured in rates.items():
        rate = statistics.median(measured)
        memory = statistics.median(result["peak_mb"] for result in rounds[variant])
        label = variant if variant == TRAINER else f"PyTorch, {variant}"
        print(
            f"{label:<46}{rate:8.0f} {measured[0]:8.0f} {measured[-1]:8.0f} "
            f"{rate / best:6.2f} {memory:8.0f}"
        )
    report_parts(rounds[PARTS])


def report_parts(rounds: list[Result]) -> None:
    """Milliseconds per step of the trainer; a negative rest means that parts ran at the same time."""
    wholes = [result["whole"] for result in rounds]
    rows = {
        part: [sum(result["parts"][part].values()) for result in rounds]
        for part in rounds[0]["parts"]
    }
    data = {name: [result["data"][name] for result in rounds] for name in rounds[0]["data"]}
    rows["data"] = data.pop(PLAIN_DATA)
    rows["the rest"] = [whole - sum(each) for whole, *each in zip(wholes, *rows.values())]
    rows["the whole step"] = wholes
    rows |= {f"data, if {name}": measured for name, measured in data.items()}
    print(f"{'ms of a step of the trainer':<46}  median    least     most  share")
    for part, measured in rows.items():
        middle = statistics.median(measured)
        print(
            f"{part:<46}{middle:8.1f} {min(measured):8.1f} {max(measured):8.1f} "
            f"{middle / statistics.median(wholes):6.0%}",
            flush=True,
        )


def settings(options: argparse.Namespace) -> list[Setting]:
    """Every activation in every precision.

    Raises:
        UsageError: this CPU lacks a precision that was asked for.
    """
    precisions = options.precisions or [each for each in PRECISIONS if supported(each)]
    for precision in precisions:
        check_precision(precision)
    given = (options.batch_size, options.steps, CORES)
    return [
        Setting(options.architecture, activation, precision, *given)
        for activation in options.activations
        for precision in precisions
    ]


def supported(precision: str) -> bool:
    try:
        check_precision(precision)
    except UsageError:
        return False
    return True


def check(options: argparse.Namespace) -> None:
    """Raise UsageError if the interpreter lacks PyTorch, or the folder of the results is missing."""
    try:
        command = [options.pytorch, "-c", "import torch"]
        found = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        found = False
    if not found:
        raise UsageError(
            f"pytorch={options.pytorch}: not a Python that has PyTorch; "
            "run `pip install torch==2.13.0` in an environment of its own and name its Python"
        )
    if not options.json.absolute().parent.is_dir():
        raise UsageError(f"json={options.json}: its folder does not exist")


def compare(options: argparse.Namespace) -> None:
    check(options)
    planned = settings(options)
    versions, parameters = rehearse(planned[0], options.pytorch)
    about = f"{CORES} cores, {cpu_instructions()}; {', '.join(versions)}"
    print(f"{about}; batch {options.batch_size}, {options.steps} steps, n = {options.rounds}")
    print(f"parameters: {parameters[0]:,} trained, {parameters[1]:,} frozen, in each", flush=True)
    results: list[Rounds] = [{name: [] for name in (TRAINER, *PYTORCH, PARTS)} for _ in planned]
    for _ in range(options.rounds):
        for setting, rounds in zip(planned, results):
            for variant, measured in rounds.items():
                measured.append(measure(variant, setting, options.pytorch))
        content = {
            "about": about,
            "parameters": parameters,
            "results": [
                {"setting": asdict(setting), "rounds": rounds}
                for setting, rounds in zip(planned, results)
            ],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    for setting, rounds in zip(planned, results):
        report(setting, rounds)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: it should be a whole number from 1")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add = parser.add_argument
    add("--pytorch", required=True, help="a Python interpreter that has PyTorch")
    add("--json", type=Path, required=True, help="file for all measurements, written each round")
    add("--architecture", choices=WIDTHS, default="airbench93")
    add("--activations", nargs="+", choices=ACTIVATIONS, default=list(ACTIVATIONS))
    add("--precisions", nargs="+", choices=PRECISIONS, help="default: those that this CPU has")
    add("--batch_size", type=positive, default=500)
    add("--steps", type=positive, default=40)
    add("--rounds", type=positive, default=5)
    options = parser.parse_args()
    quieten()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the processes inherit it; both sides use the CPU
    try:
        compare(options)
    except UsageError as error:
        parser.exit(MISUSED, f"{parser.prog}: {error}\n")
    except ChildProcessError as error:
        parser.exit(FAILED, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
