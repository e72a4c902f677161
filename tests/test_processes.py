import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from cifar_mlflow.processes import Process, deferring_interrupts, this_machine, this_process
from tests.conftest import PROJECT

# Starts a worker, says its id, and waits to be killed.
COMMAND = """
import subprocess, sys, time
from cifar_mlflow.processes import this_process
worker = (
    "import sys, time; from cifar_mlflow.processes import Process, end_with;"
    f"end_with({this_process()!r}); print('watches', flush=True); time.sleep(3600)"
)
process = subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE, text=True)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(3600)
"""


def test_this_process_lives_here() -> None:
    assert this_process().is_local
    assert this_process().is_alive


def test_a_process_that_ended_is_not_alive(dead_process: Process) -> None:
    assert dead_process.is_local
    assert not dead_process.is_alive


def test_a_process_that_has_the_id_of_one_that_ended_is_another_one() -> None:
    assert not replace(this_process(), started="1").is_alive


def test_a_process_of_another_machine_is_not_local() -> None:
    assert not replace(this_process(), machine=f"{this_machine()} another boot").is_local


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    zombie = Process(this_machine(), process.pid, "")
    wait_for_end(zombie)
    process.wait()


def test_a_worker_ends_when_its_command_is_killed() -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert command.stdout
    worker = Process(this_machine(), int(command.stdout.readline()), "")
    assert worker.is_alive
    command.kill()
    command.communicate()
    wait_for_end(worker)


def wait_for_end(process: Process) -> None:
    deadline = time.monotonic() + 60
    while process.is_alive:
        assert time.monotonic() < deadline, "it did not end"
        time.sleep(0.05)


def test_an_interrupt_waits_until_the_block_has_ended() -> None:
    done = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt), deferring_interrupts():
            signal.raise_signal(signal.SIGINT)
            done.append("the block")
        assert done == ["the block"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
