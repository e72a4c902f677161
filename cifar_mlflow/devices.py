"""The GPUs of this machine, without TensorFlow: how many there are, and who has which."""

import os
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

DRIVER = Path("/proc/driver/nvidia/gpus")
# Held until the process ends, however it ends.
_held: dict[str, FileLock] = {}


def gpus() -> list[str]:
    """The GPUs that this process may use: as CUDA_VISIBLE_DEVICES names them, else by number."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number, _ in enumerate(DRIVER.iterdir())] if DRIVER.exists() else []


def claim(names: list[str]) -> str:
    """One GPU for this process: one that no other process has, if there is such a one.

    Where trials are more than GPUs they share them. A process that claims again gets the same one.
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
