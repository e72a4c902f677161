"""The CPU's instruction sets, and which process uses which GPU; needs no TensorFlow."""

import os
import platform
import re
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from cifar_mlflow.errors import UsageError

DRIVER = Path("/proc/driver/nvidia/gpus")
CPU = Path("/proc/cpuinfo")
# Those that select TensorFlow's and oneDNN's kernels, by their Linux names (x86, then ARM).
INSTRUCTIONS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimd", "sve", "sve2", "bf16", "i8mm"),
)
BFLOAT16 = {"AVX512_BF16", "AMX_BF16", "BF16"}
# Each is released when the process ends, even if it is killed.
_held: dict[str, FileLock] = {}


def gpus() -> list[str]:
    """The GPUs that this process may use: by their names in CUDA_VISIBLE_DEVICES, else by number."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number, _ in enumerate(DRIVER.iterdir())] if DRIVER.exists() else []


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
    if precision == "float32" or gpus() or BFLOAT16 & set(cpu_instructions().split(", ")):
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
    folder = user_cache_path("cifar_mlflow")
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
