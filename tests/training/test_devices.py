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
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The driver's folder of a machine with two GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for address in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / address).mkdir(parents=True)
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "gpus")
    return tmp_path / "gpus"


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
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "none")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices.CPU.write_text(f"flags\t\t: {listed}\n")
    devices.check_precision("float32")
    message = "precision=mixed_bfloat16: this CPU has no bfloat16"
    with pytest.raises(UsageError, match=message) if refused else nullcontext():
        devices.check_precision("mixed_bfloat16")


def test_gpus_are_counted_from_the_driver(driver: Path) -> None:
    assert devices.gpus() == ["0", "1"]


def test_a_person_may_leave_gpus_to_others(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, names in {"1": ["1"], "GPU-ab, GPU-cd": ["GPU-ab", "GPU-cd"], "-1": []}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert devices.gpus() == names


def test_there_is_a_worker_for_each_gpu(driver: Path) -> None:
    assert plan.share_cores(12, GridParameters())[0] == 2


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
