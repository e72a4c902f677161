"""The machine that a benchmark ran on, and what the commands have in common."""

import argparse
import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from cifar_mlflow.errors import UsageError
from cifar_mlflow.training.devices import check_precision, cpu_instructions

PROJECT = Path(__file__).parents[1]
CORES = joblib.cpu_count()
PRECISIONS = ("float32", "mixed_bfloat16")


def describe() -> dict[str, Any]:
    """The processor, the commit and the versions, for a file of results."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    named = re.search(r"^model name\s*:\s*(.*)", text, re.MULTILINE)
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    packages = ("tensorflow", "keras", "mlflow")
    return {
        "processor": named[1] if named else platform.processor() or platform.machine(),
        "instructions": cpu_instructions(),
        "cores": CORES,
        "cores_of_machine": os.cpu_count(),
        "commit": subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def supported_precisions() -> list[str]:
    """The number formats of a training that this CPU need not emulate."""
    return [each for each in PRECISIONS if _supported(each)]


def _supported(precision: str) -> bool:
    try:
        check_precision(precision)
    except UsageError:
        return False
    return True


def matrix_product(size: int = 2048, rounds: int = 10) -> float:
    """Operations per second of a float32 matrix product on all cores: the best of some rounds."""
    matrix = np.ones((size, size), np.float32)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


# Command lines --------------------------------------------------------------------------------


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The parser of a command, described by the first line of its module's docstring."""
    return argparse.ArgumentParser(description=doc.splitlines()[0] if doc else "")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: it should be a whole number from 1")
    return int(text)


def new_file(text: str) -> Path:
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: its folder does not exist")
    return path


def pytorch(text: str) -> str:
    """A Python interpreter that has PyTorch."""
    try:
        subprocess.run([text, "-c", "import torch"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise argparse.ArgumentTypeError(
            f"{text}: not a Python that has PyTorch; run `pip install torch==2.13.0` in an "
            "environment of its own and name its Python"
        ) from error
    return text
