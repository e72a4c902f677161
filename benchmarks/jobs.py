"""Measurements in processes of their own: how they are started, and how they answer.

Imported by the interpreter that has TensorFlow and by the one that has PyTorch, so it needs neither.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Setting = TypeVar("Setting", bound=DataclassInstance)
Value = TypeVar("Value")
Result = dict[str, Any]


def measure(
    python: str, module: str, variant: str, setting: "DataclassInstance", processes: int = 1
) -> list[Result]:
    """What a module answers, from one process or from several that measure at the same time.

    Raises:
        ChildProcessError: a process failed; with the last line of its errors.
    """
    command = [python, "-m", module, variant, json.dumps(asdict(setting))]
    waiting, begin = os.pipe()
    started = [
        subprocess.Popen(
            command, stdin=waiting, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    os.close(waiting)
    for process in started:
        assert process.stdout
        process.stdout.readline()  # it is ready, or has failed
    os.close(begin)  # which all of them wait for
    outputs = [process.communicate() for process in started]
    for process, (_, errors) in zip(started, outputs):
        if process.returncode:
            reason = (errors.splitlines() or ["killed"])[-1]
            raise ChildProcessError(f"{variant}, {setting}: {reason}")
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


def answer(measure: "Callable[[str, Setting], Result]", kind: "type[Setting]") -> None:
    """Measure the variant and the setting of the command line; print the result as a line of JSON."""
    variant, setting = sys.argv[1:]
    print(json.dumps(measure(variant, kind(**json.loads(setting)))))


def timed(work: Callable[[], Value]) -> tuple[float, Value]:
    """Seconds and result of some work, which begins once all processes are ready for theirs."""
    print("ready", flush=True)
    sys.stdin.read()
    began = time.perf_counter()
    value = work()
    return time.perf_counter() - began, value


def peak_megabytes() -> float:
    """The largest memory that this process, or the one that started it before, ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def private_megabytes() -> float:
    """Memory that this process shares with no other (Linux; elsewhere NaN)."""
    try:
        with open("/proc/self/smaps_rollup") as file:
            sizes = dict(line.split()[:2] for line in file if line.startswith("Private"))
    except FileNotFoundError:
        return float("nan")
    return sum(int(size) for size in sizes.values()) / 1024
