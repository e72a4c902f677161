"""Which command works on which trials, and which one is dead."""

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import mlflow
import pytest
from mlflow.entities import Run

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.errors import UsageError
from cifar_mlflow.processes import this_machine, this_process
from cifar_mlflow.store import claims, query, tracking
from cifar_mlflow.store.runs import PLAN_KEY, TrackedRun
from tests.conftest import PROJECT, Screen
from tests.store.conftest import PLAN, Leave, Start

pytestmark = pytest.mark.usefixtures("store")
ELSEWHERE = {"host": "elsewhere", "machine": "elsewhere, another boot"}
# A command on another machine, whose clock differs from ours, that works until its input ends.
COMMAND = """
import sys, time
clock, shift = time.time, float(sys.argv[1])
time.time = lambda: clock() + shift
from cifar_mlflow import processes
from cifar_mlflow.store import claims, query, tracking
processes.this_machine = lambda: "elsewhere, another boot"
claims.HEARTBEAT_SECONDS = 0.1
with (
    tracking.tracked_run("grid") as run,
    claims.claim(run, sys.argv[2], "auto") as before,
):
    print(run.run_id, len(before), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(claims, "DATABASE_SILENCE_SECONDS", 0.5)


def test_a_study_whose_process_is_gone_is_resumed(study: Start, leave: Leave) -> None:
    left = leave()
    assert [command.run_id for command in study()] == [left]


def test_studies_of_other_kinds_trials_or_data_are_left_alone(study: Start, leave: Leave) -> None:
    leave(kind="architectures")
    leave(plan="ba9876543210")
    assert study() == []


def test_finished_and_superseded_studies_are_left_alone(study: Start, leave: Leave) -> None:
    finished = leave()
    mlflow.MlflowClient().set_terminated(finished, "FINISHED")
    leave(superseded_by="1" * 32)
    assert study() == []


def test_resume_never_resumes_nothing(study: Start, leave: Leave) -> None:
    leave()
    assert study("never") == []


def test_a_study_that_was_started_anew_is_not_mixed_with_the_one_before(
    study: Start, leave: Leave
) -> None:
    before = leave()
    with tracking.tracked_run("grid") as run, claims.claim(run, PLAN, "never") as resumed:
        assert resumed == []
    with tracking.tracked_run("grid") as run, claims.claim(run, PLAN, "auto") as resumed:
        assert resumed == []
    after = leave()
    assert [command.run_id for command in study()] == [after]
    assert query.read(before).tags[claims.PASSED_OVER_BY]


def test_a_named_study_is_resumed_and_no_other(study: Start, leave: Leave) -> None:
    named, _ = leave(), leave()
    assert [command.run_id for command in study(named)] == [named]


def test_a_named_run_that_cannot_be_resumed_is_refused_with_the_reason(
    study: Start, leave: Leave
) -> None:
    finished = leave()
    mlflow.MlflowClient().set_terminated(finished, "FINISHED")
    experiment = mlflow.create_experiment("another one")
    foreign = mlflow.MlflowClient().create_run(experiment).info.run_id
    deleted = leave()
    mlflow.MlflowClient().delete_run(deleted)
    for run_id, why in {
        "0" * 32: "no such run",
        foreign: "in another experiment",
        leave(plan="ba9876543210"): "not a grid run of the same trials",
        leave(superseded_by="1" * 32): "was resumed by run 1111",
        leave(**tracking.process_tags(this_process())): "is working on the same trials",
        finished: "is finished",
        deleted: "is deleted",
    }.items():
        with pytest.raises(UsageError, match=why), refused(run_id):
            pytest.fail("it was resumed")


@contextmanager
def refused(resume: str) -> Iterator[None]:
    with (
        tracking.tracked_run("grid") as run,
        claims.claim(run, PLAN, resume),
    ):
        yield


def test_a_live_study_is_not_resumed_and_the_message_says_who_runs_it(
    study: Start, leave: Leave
) -> None:
    alive = leave(**tracking.process_tags(this_process()))
    with pytest.raises(
        UsageError, match=f"process {os.getpid()} on {platform.node()}, last heartbeat"
    ):
        study()
    assert mlflow.get_run(alive).info.status == "RUNNING"
    # The one that was refused did nothing that could be resumed.
    plans = query.search("0", f"tags.{PLAN_KEY} = '{PLAN}'")
    assert [run.run_id for run in plans] == [alive]


def test_a_process_id_of_another_pid_namespace_says_nothing(
    study: Start, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither that the command is dead if no process here has its id, nor that it is alive."""
    container = f"{this_machine()} in a container"
    beating = leave(machine=container)
    with beats(beating), monkeypatch.context() as patch:
        patch.setattr(claims, "DATABASE_SILENCE_SECONDS", 60)
        with pytest.raises(UsageError, match="is working on the same trials"):
            study()
    silent = leave(machine=container, process=str(os.getpid()))
    assert silent in {command.run_id for command in study()}


@contextmanager
def beats(run_id: str) -> Iterator[None]:
    """Heartbeats of another command, while the context is open."""
    client, stop = mlflow.MlflowClient(), threading.Event()

    def beat() -> None:
        number = 0
        while not stop.wait(0.05):
            number += 1
            client.set_tag(run_id, claims.HEARTBEAT, f"sign {number}")

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_command_on_another_machine_that_stays_silent_is_dead(study: Start, leave: Leave) -> None:
    left = leave(**ELSEWHERE)
    assert [command.run_id for command in study()] == [left]


def test_where_processes_have_no_known_start_a_reused_id_does_not_block_a_study(
    study: Start, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tracking.process_tags(replace(this_process(), started=""))
    beating = leave(**ours)
    with beats(beating), monkeypatch.context() as patch:
        patch.setattr(claims, "DATABASE_SILENCE_SECONDS", 60)
        with pytest.raises(UsageError, match="is working on the same trials"):
            study()
    silent = leave(**ours)
    assert silent in {command.run_id for command in study()}


def test_waiting_for_a_heartbeat_is_announced(study: Start, leave: Leave, screen: Screen) -> None:
    leave(**ELSEWHERE)
    shown = screen()
    study()
    (line,) = shown.getvalue().splitlines()
    assert line.startswith("Waiting   up to 0 s for a heartbeat of run ")
    assert "on elsewhere" in line


@pytest.mark.parametrize("seconds", [-60, 150])
def test_a_live_command_is_not_taken_over_however_wrong_its_clock_or_ours(
    seconds: int, study: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "DATABASE_SILENCE_SECONDS", 60)
    arguments = [sys.executable, "-c", COMMAND, str(seconds), PLAN]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT
    ) as other:
        assert other.stdout
        run_id, resumed = other.stdout.readline().split()
        assert resumed == "0"
        with pytest.raises(UsageError, match=f"run {run_id} .* is working on the same trials"):
            study()
        other.communicate()
    assert other.returncode == 0
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def resumed_by(run: Run) -> list[claims.UnfinishedRun]:
    with claims.claim(TrackedRun.of(run), PLAN, "auto") as before:
        return before


@pytest.fixture
def pair(leave: Leave) -> list[Run]:
    """Two live commands that claim the same plan, by run id."""
    process = tracking.process_tags(this_process())
    runs = [leave(claim=claims.CLAIMING, **process) for _ in range(2)]
    return [mlflow.get_run(run_id) for run_id in sorted(runs)]


def test_of_two_that_claim_at_once_the_one_with_the_higher_run_id_gives_up(pair: list[Run]) -> None:
    with pytest.raises(UsageError, match=pair[0].info.run_id):
        resumed_by(pair[1])
    assert resumed_by(pair[0]) == []


def test_and_the_other_one_waits_until_it_has(
    pair: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def give_up(seconds: float) -> None:
        waits.append(seconds)
        mlflow.MlflowClient().delete_tag(pair[1].info.run_id, PLAN_KEY)

    monkeypatch.setattr(time, "sleep", give_up)
    assert resumed_by(pair[0]) == []
    assert waits == [claims.POLL_SECONDS]


def test_of_many_that_start_at_once_exactly_one_works(leave: Leave) -> None:
    process = tracking.process_tags(this_process())
    runs = [mlflow.get_run(leave(plan="none yet", **process)) for _ in range(4)]
    start, end = (threading.Barrier(len(runs), timeout=60) for _ in range(2))
    working: list[str] = []

    def command(run: Run) -> None:
        start.wait()
        try:
            with claims.claim(TrackedRun.of(run), PLAN, "auto"):
                working.append(run.info.run_id)
                end.wait()
        except UsageError:
            end.wait()

    threads = [threading.Thread(target=command, args=[run]) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(working) == 1


def test_a_command_sends_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.05)
    with (
        tracking.tracked_run("grid") as run,
        claims.claim(run, PLAN, "never"),
    ):
        sign = query.read(run.run_id).tags[claims.HEARTBEAT]
        assert sign.endswith("+00:00")
        deadline = time.monotonic() + 60
        while query.read(run.run_id).tags[claims.HEARTBEAT] == sign:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_plan_is_the_trials_in_any_order_and_the_data(small_cifar10: DataSet) -> None:
    one, two = TrialConfig(), TrialConfig(seed=1)
    key = claims.plan_key([one, two], small_cifar10)
    assert key == claims.plan_key([two, one], small_cifar10)
    assert key != claims.plan_key([one], small_cifar10)
    assert key != claims.plan_key([one, two], replace(small_cifar10, digest="another digest"))
