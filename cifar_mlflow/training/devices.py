"""The CPU's instruction sets, and which process uses which GPU; imports no TensorFlow."""

import os
import platform
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from cifar_mlflow.errors import UsageError
from cifar_mlflow.paths import cache_folder

# One of these exists where there is an NVIDIA GPU, the last in WSL.
DRIVERS = tuple(map(Path, ("/proc/driver/nvidia/gpus", "/dev/nvidiactl", "/dev/dxg")))
COUNT = "import tensorflow; print(len(tensorflow.config.list_physical_devices('GPU')))"
CPU = Path("/proc/cpuinfo")
# Those that select TensorFlow's and oneDNN's kernels, by their Linux names (x86, then ARM).
INSTRUCTIONS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimd", "sve", "sve2", "bf16", "i8mm"),
)
BFLOAT16 = {"AVX512_BF16", "AMX_BF16", "BF16"}
# Each is released when the process ends, even if it is killed.
_held: dict[str, FileLock] = {}


def gpus() -> int:
    """The number of GPUs that TensorFlow can use here, which needs CUDA's libraries besides a driver.

    Where there is a driver, TensorFlow counts them in a process of its own, which takes seconds once.
    """
    return _counted(os.environ.get("CUDA_VISIBLE_DEVICES")) if any(map(Path.exists, DRIVERS)) else 0


@cache
def _counted(visible: str | None) -> int:
    """For this value of CUDA_VISIBLE_DEVICES, which the process inherits."""
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def names(count: int) -> list[str]:
    """The names of the GPUs that TensorFlow sees: as in CUDA_VISIBLE_DEVICES, else their numbers."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = map(str, range(count)) if visible is None else map(str.strip, visible.split(","))
    return list(listed)[:count]


def cpu_instructions() -> str:
    """The CPU's vector instruction sets, such as ``AVX2, AVX512_VNNI``; its name if not on Linux."""
    text = CPU.read_text() if CPU.exists() else ""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)", text, re.MULTILINE)
    if listed is None:
        return platform.processor() or platform.machine()
    present = listed[1].split()
    return ", ".join(name.upper() for name in INSTRUCTIONS if name in present)


def check_precision(precision: str) -> None:
    """Refuse a number format that this machine would have to emulate.

    Raises:
        UsageError: it is mixed_bfloat16, and there is neither a GPU nor a CPU that has bfloat16.
    """
    if precision == "float32" or BFLOAT16 & set(cpu_instructions().split(", ")) or gpus():
        return
    raise UsageError(
        f"precision={precision}: this CPU has no bfloat16 and would train many times slower; "
        "use float32"
    )


def claim(names: list[str]) -> str:
    """A GPU for this process: one that no other process has claimed, if possible.

    If there are more processes than GPUs, they share. A process that claims again gets the same GPU.
    """
    for name in names:
        if name in _held:
            return name
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        lock = FileLock(folder / f"gpu-{name.replace('/', '_')}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _held[name] = lock
        return name
    return names[os.getpid() % len(names)]
