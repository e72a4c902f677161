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
import sys
from dataclasses import asdict, replace

from benchmarks import jobs, machine
from benchmarks.jobs import Result
from benchmarks.machine import CORES, PRECISIONS
from benchmarks.settings import ACTIVATIONS, PLAIN_DATA, WIDTHS, Step
from cifar_mlflow.console import quieten
from cifar_mlflow.errors import FAILED, MISUSED, UsageError
from cifar_mlflow.training.devices import check_precision, cpu_instructions

TRAINER, PARTS = "trainer", "parts"
PYTORCH = ("eager NCHW", "eager channels_last", "compiled NCHW", "compiled channels_last")
Rounds = dict[str, list[Result]]  # of each variant, a result for each round


def measure(variant: str, setting: Step, pytorch: str) -> Result:
    """One measurement in a process of its own."""
    python, module = sys.executable, "benchmarks.trainer_step"
    if variant in PYTORCH:
        python, module = pytorch, "benchmarks.pytorch_step"
    (result,) = jobs.measure(python, module, variant, setting)
    return result


def rehearse(setting: Step, pytorch: str) -> tuple[list[str], list[int]]:
    """One short step of each variant, so that what cannot run fails before an hour has passed.

    Returns:
        The versions; how many parameters each network trains, and how many its frozen layer has.
    """
    short = replace(setting, batch_size=2, steps=1)
    results = [measure(variant, short, pytorch) for variant in (TRAINER, *PYTORCH)]
    first, *others = [result["parameters"] for result in results]
    assert all(other == first for other in others), f"not the same network: {first}, {others}"
    return list(dict.fromkeys(result["versions"] for result in results)), first


def report(setting: Step, rounds: Rounds) -> None:
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


def settings(options: argparse.Namespace) -> list[Step]:
    """Every activation in every precision.

    Raises:
        UsageError: this CPU lacks a precision that was asked for.
    """
    precisions = options.precisions or machine.supported_precisions()
    for precision in precisions:
        check_precision(precision)
    given = (options.batch_size, options.steps, CORES)
    return [
        Step(options.architecture, activation, precision, *given)
        for activation in options.activations
        for precision in precisions
    ]


def compare(options: argparse.Namespace) -> None:
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


def main() -> None:
    parser = machine.parser(__doc__)
    add = parser.add_argument
    add("--pytorch", type=machine.pytorch, required=True, help="a Python that has PyTorch")
    add("--json", type=machine.new_file, required=True, help="file for all measurements")
    add("--architecture", choices=WIDTHS, default="airbench93")
    add("--activations", nargs="+", choices=ACTIVATIONS, default=list(ACTIVATIONS))
    add("--precisions", nargs="+", choices=PRECISIONS, help="default: those that this CPU has")
    add("--batch_size", type=machine.positive, default=500)
    add("--steps", type=machine.positive, default=40)
    add("--rounds", type=machine.positive, default=5)
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
