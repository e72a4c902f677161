import platform
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from cifar_mlflow.errors import UsageError
from cifar_mlflow.parameters import GridParameters
from cifar_mlflow.study import plan
from cifar_mlflow.training import devices
from tests.conftest import PROJECT

CLAIM = """
import sys
from cifar_mlflow.training import devices
print(devices.claim(["0", "1"]), devices.claim(["0", "1"]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a driver, and with two GPUs if they are asked for."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "DRIVERS", (tmp_path / "none", tmp_path))


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("vendor_id\t: X\nflags\t\t: fpu avx2 avx512_vnni avx512f\n", "AVX2, AVX512F, AVX512_VNNI"),
        ("Features\t: fp asimd bf16\n", "ASIMD, BF16"),
        ("flags\t\t: fpu sse\n", ""),
    ],
)
def test_the_instruction_sets_of_the_cpu_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, expected: str
) -> None:
    monkeypatch.setattr(devices, "CPU", tmp_path / "cpuinfo")
    devices.CPU.write_text(listed)
    assert devices.cpu_instructions() == expected


def test_where_instruction_sets_are_not_listed_the_processor_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "CPU", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert devices.cpu_instructions() == platform.machine()


@pytest.mark.parametrize(
    ("listed", "refused"), [("avx2", True), ("avx2 amx_bf16", False), ("avx512_bf16", False)]
)
def test_bfloat16_is_refused_where_the_cpu_would_emulate_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, refused: bool
) -> None:
    monkeypatch.setattr(devices, "CPU", tmp_path / "cpuinfo")
    monkeypatch.setattr(devices, "DRIVERS", (tmp_path / "none",))
    devices.CPU.write_text(f"flags\t\t: {listed}\n")
    devices.check_precision("float32")
    message = "precision=mixed_bfloat16: this CPU has no bfloat16"
    with pytest.raises(UsageError, match=message) if refused else nullcontext():
        devices.check_precision("mixed_bfloat16")


def test_without_a_driver_tensorflow_is_not_asked_for_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "DRIVERS", (tmp_path / "none",))
    monkeypatch.setattr(devices, "COUNT", "raise SystemExit(1)")
    assert devices.gpus() == 0


@pytest.mark.usefixtures("driver")
def test_a_gpu_that_tensorflow_cannot_use_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices.gpus() == 0


@pytest.mark.usefixtures("driver")
def test_there_is_a_worker_for_each_gpu_that_a_person_leaves_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = "import os; print(len(os.environ.get('CUDA_VISIBLE_DEVICES', '0,1,2').split(',')))"
    monkeypatch.setattr(devices, "COUNT", seen)
    devices._counted.cache_clear()
    assert plan.share_cores(12, GridParameters())[0] == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert plan.share_cores(12, GridParameters())[0] == 2
    devices._counted.cache_clear()


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [
        (None, 2, ["0", "1"]),
        ("1", 1, ["1"]),
        ("GPU-ab, GPU-cd", 2, ["GPU-ab", "GPU-cd"]),
        ("0,-1,1", 1, ["0"]),  # CUDA stops at the first that it does not know
    ],
)
def test_gpus_have_the_names_that_cuda_gives_them(
    visible: str | None, count: int, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.names(count) == names


def test_each_process_gets_a_gpu_of_its_own_and_keeps_it_until_it_ends() -> None:
    def process() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CLAIM],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def claimed(of: subprocess.Popen[str]) -> list[str]:
        assert of.stdout
        return of.stdout.readline().split()

    first, second = process(), process()
    one, other = claimed(first), claimed(second)
    assert {*one, *other} == {"0", "1"}
    assert one[0] == one[1]
    third = process()  # shares one of them
    assert set(claimed(third)) <= {"0", "1"}
    first.kill()
    first.communicate()
    fourth = process()
    assert claimed(fourth) == one
    for each in (second, third, fourth):
        each.communicate()
