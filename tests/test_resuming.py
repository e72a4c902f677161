"""Who is alive, and who goes on from whom, in a tracking store of the test's own."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from cifar_mlflow import resuming, tracking
from cifar_mlflow.checkpoint import Checkpoint, Epoch
from cifar_mlflow.config import TrialConfig, UsageError
from cifar_mlflow.data import Cifar10
from cifar_mlflow.trial import repeated_failure, run_child

KEY = "0123456789ab"


def checkpoint(epochs: int) -> Checkpoint:
    history = tuple(Epoch(n, 1 / n, 0.5, 1.0, 0.4, 0.01, 2.0) for n in range(1, epochs + 1))
    return Checkpoint(history, [np.full(3, epochs)], [np.array(epochs)])


def fits(checkpoint: Checkpoint) -> None:
    """Any checkpoint is of this training."""


def saved(run_id: str) -> tracking.TrialRun:
    return tracking.read(run_id)


def history(run_id: str, metric: str = "train_loss") -> list[tuple[int, float]]:
    points = mlflow.MlflowClient().get_metric_history(run_id, metric)
    return [(point.step, point.value) for point in points]


@pytest.fixture
def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "CLAIM_SECONDS", 0.0)


@pytest.fixture
def leave(dead_process: int) -> Callable[..., str]:
    """A run that its process left as it was, when it was killed."""

    def make(kind: str = "grid", key: str = KEY, **tags: str) -> str:
        client = mlflow.MlflowClient()
        run_id = str(client.create_run("0", run_name=kind).info.run_id)
        for name, value in {
            tracking.KIND: kind,
            tracking.HOST: platform.node(),
            tracking.PROCESS: str(dead_process),
            resuming.PLAN_KEY: key,
            resuming.CLAIMED: str(time.time() - 5),
            resuming.LAST_SIGN: str(time.time() - 5),
            **tags,
        }.items():
            client.set_tag(run_id, name, value)
        return run_id

    return make


@pytest.fixture
def study() -> Iterator[Callable[[str], list[resuming.Command]]]:
    """Starts a study's command, and gives what it goes on from."""
    with ExitStack() as stack:

        def start(resume: str = "auto") -> list[resuming.Command]:
            run = stack.enter_context(tracking.tracked_run("grid"))
            return stack.enter_context(resuming.claimed(run, KEY, resume))

        yield start


Start = Callable[..., list[resuming.Command]]
Leave = Callable[..., str]


def test_a_study_whose_process_is_gone_is_gone_on_from(study: Start, leave: Leave) -> None:
    left = leave()
    assert [command.run_id for command in study()] == [left]


def test_studies_of_other_kinds_trials_or_data_are_let_be(study: Start, leave: Leave) -> None:
    leave(kind="architectures")
    leave(key="ba9876543210")
    assert study() == []


def test_finished_and_superseded_studies_are_let_be(study: Start, leave: Leave) -> None:
    finished = leave()
    mlflow.MlflowClient().set_terminated(finished, "FINISHED")
    leave(superseded_by="1" * 32)
    assert study() == []


def test_resume_never_goes_on_from_nothing(study: Start, leave: Leave) -> None:
    leave()
    assert study("never") == []


def test_a_named_study_is_gone_on_from_and_no_other(study: Start, leave: Leave) -> None:
    named, _ = leave(), leave()
    assert [command.run_id for command in study(named)] == [named]


def test_a_named_run_that_cannot_be_resumed_is_refused_with_the_reason(
    study: Start, leave: Leave
) -> None:
    finished = leave()
    mlflow.MlflowClient().set_terminated(finished, "FINISHED")
    for run_id, why in {
        "0" * 32: "no such run",
        leave(key="ba9876543210"): "not a grid of the same trials",
        leave(superseded_by="1" * 32): "went on in run 1111",
        leave(process=str(os.getpid())): "is at work on the same trials",
        finished: "is finished",
    }.items():
        with (
            pytest.raises(UsageError, match=why),
            tracking.tracked_run("grid") as run,
            resuming.claimed(run, KEY, run_id),
        ):
            pytest.fail("it was resumed")


def test_a_live_study_is_not_gone_on_from_and_says_who_runs_it(study: Start, leave: Leave) -> None:
    alive = leave(process=str(os.getpid()))
    with pytest.raises(UsageError, match=f"process {os.getpid()} on {platform.node()}, last sign"):
        study()
    assert mlflow.get_run(alive).info.status == "RUNNING"
    # The one that was refused did nothing that could be gone on from.
    plans = tracking.search("0", f"tags.{resuming.PLAN_KEY} = '{KEY}'")
    assert [run.info.run_id for run in plans] == [alive]


def test_a_process_on_another_host_lives_while_it_gives_signs(study: Start, leave: Leave) -> None:
    leave(host="elsewhere")
    with pytest.raises(UsageError, match="on elsewhere"):
        study()


def test_a_process_on_another_host_without_a_sign_is_dead(study: Start, leave: Leave) -> None:
    silent = str(time.time() - resuming.DEAD_SECONDS - 1)
    left = leave(host="elsewhere", last_sign_of_life=silent)
    assert [command.run_id for command in study()] == [left]


def test_of_two_that_start_at_once_the_first_goes_on(study: Start, leave: Leave) -> None:
    leave(process=str(os.getpid()), claimed=str(time.time() + 60))
    assert study() == []


def test_a_claim_that_others_could_not_see_in_time_is_made_again(
    study: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays = [resuming.VISIBLE_SECONDS + 0.1, 0]
    write = mlflow.MlflowClient.log_batch

    def slow(*arguments: Any, **named: Any) -> object:
        time.sleep(delays.pop(0))
        return write(*arguments, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", slow)
    before = time.time()
    study()
    assert not delays
    claim = float(mlflow.get_run(tracking.active_id()).data.tags[resuming.CLAIMED])
    assert claim > before + resuming.VISIBLE_SECONDS


def test_a_store_that_is_always_slow_is_used_all_the_same(
    study: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "VISIBLE_SECONDS", 0.0)
    claims: list[object] = []
    write = mlflow.MlflowClient.log_batch

    def counted(*arguments: Any, **named: Any) -> object:
        claims.append(named)
        assert len(claims) <= resuming.CLAIM_TRIES
        return write(*arguments, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counted)
    assert study() == []
    assert len(claims) == resuming.CLAIM_TRIES


def test_a_study_that_another_one_has_gone_on_from_starts_no_trial(
    small_cifar10: Cifar10, leave: Leave
) -> None:
    left = leave()
    mlflow.MlflowClient().set_terminated(left, "KILLED")
    parent = tracking.Parent(tracking.uri(), "0", left)
    run_child(TrialConfig(), small_cifar10, 1, False, 0, parent)
    assert tracking.children(parent) == []


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.time() + 60
    while resuming.process_lives(process.pid) and time.time() < deadline:
        time.sleep(0.05)
    assert not resuming.process_lives(process.pid)
    process.wait()
    assert resuming.process_lives(os.getpid())


def test_a_command_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "BEAT_SECONDS", 0.05)
    with tracking.tracked_run("grid") as run, resuming.claimed(run, KEY, "never"):
        sign = mlflow.get_run(run.info.run_id).data.tags[resuming.LAST_SIGN]
        deadline = time.time() + 60
        while mlflow.get_run(run.info.run_id).data.tags[resuming.LAST_SIGN] == sign:
            assert time.time() < deadline
            time.sleep(0.05)


def child(parent: str, key: str, status: str, epochs: int = 0) -> str:
    """A trial's run under another, with a checkpoint where it has epochs."""
    tags = {tracking.PARENT: parent, tracking.TRIAL_KEY: key}
    with mlflow.start_run(run_name=key, nested=True, tags=tags) as run:
        if epochs:
            resuming.save_checkpoint(checkpoint(epochs))
    mlflow.MlflowClient().update_run(run.info.run_id, status)
    return str(run.info.run_id)


def test_finished_and_part_done_trials_are_hung_under_the_successor(
    study: Start, leave: Leave
) -> None:
    left = leave()
    done = child(left, "aaa", "FINISHED")
    part, begun = child(left, "bbb", "RUNNING", 2), child(left, "ccc", "RUNNING")
    before = study()
    parent = tracking.Parent(tracking.uri(), "0", tracking.active_id())
    kept = resuming.left_trials(before, parent)
    resuming.adopt_trials(kept, before, parent)
    assert {(run.run_id, run.status) for run in kept} == {(done, "FINISHED"), (part, "RUNNING")}
    assert {run.run_id for run in tracking.children(parent)} == {done, part}
    ended = {run_id: tracking.read(run_id) for run_id in (left, part, begun)}
    assert {run.status for run in ended.values()} == {"KILLED"}
    assert mlflow.get_run(left).data.tags[resuming.SUPERSEDED_BY] == parent.run_id
    assert left in ended[part].end_reason


def test_failures_of_an_earlier_study_do_not_stop_its_successor(study: Start, leave: Leave) -> None:
    left = leave()
    for key in ("aaa", "bbb", "ccc"):
        run_id = child(left, key, "FAILED", 1)
        mlflow.MlflowClient().set_tag(run_id, tracking.END_REASON, "OSError: the disk is full")
    assert repeated_failure(tracking.Parent(tracking.uri(), "0", left))
    before = study()
    parent = tracking.Parent(tracking.uri(), "0", tracking.active_id())
    kept = resuming.left_trials(before, parent)
    assert len(kept) == 3
    resuming.adopt_trials(kept, before, parent)
    assert repeated_failure(parent) is None


def test_a_finished_trial_goes_before_a_newer_one_that_is_part_done(
    study: Start, leave: Leave
) -> None:
    left = leave()
    done = child(left, "aaa", "FINISHED")
    child(left, "aaa", "KILLED", 1)
    parent = tracking.Parent(tracking.uri(), "0", "")
    kept = resuming.left_trials(study(), parent)
    assert [run.run_id for run in kept] == [done]


def test_a_trial_goes_on_from_the_newest_checkpoint_with_its_whole_history() -> None:
    with tracking.tracked_run("trial") as before:
        for epochs in (1, 2, 3):
            resuming.save_checkpoint(checkpoint(epochs))
    with tracking.tracked_run("trial") as run:
        start = resuming.go_on_from([saved(before.info.run_id)], fits)
    assert start is not None
    assert start.history == checkpoint(3).history
    assert history(run.info.run_id) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert saved(run.info.run_id).checkpoint
    assert saved(run.info.run_id).epochs == 3
    ended = mlflow.get_run(before.info.run_id)
    assert ended.info.status == "KILLED"
    assert ended.data.tags[resuming.SUPERSEDED_BY] == run.info.run_id
    assert not mlflow.MlflowClient().list_artifacts(before.info.run_id, resuming.FOLDER)


def test_a_save_that_is_cut_off_leaves_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            return file.write(content[: len(content) // 2])

    def killed(*_: object) -> None:
        raise SystemExit

    with (
        pytest.raises(SystemExit),
        monkeypatch.context() as patch,
        tracking.tracked_run("trial") as before,
    ):
        resuming.save_checkpoint(checkpoint(4))
        patch.setattr(Path, "write_bytes", half)
        patch.setattr(tracking, "log_epochs", killed)
        resuming.save_checkpoint(checkpoint(5))
    start = resuming.load_checkpoint(saved(before.info.run_id))
    assert start.history == checkpoint(4).history


def test_a_damaged_checkpoint_means_that_the_trial_begins_again_and_says_so() -> None:
    with tracking.tracked_run("trial") as before:
        resuming.save_checkpoint(checkpoint(2))
    file = Path(before.info.artifact_uri, "checkpoint", "0.npz")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with tracking.tracked_run("trial") as run:
        assert resuming.go_on_from([saved(before.info.run_id)], fits) is None
    assert "0.npz is damaged" in saved(run.info.run_id).checkpoint_lost


def test_a_missing_checkpoint_means_that_the_trial_begins_again_and_says_so() -> None:
    with tracking.tracked_run("trial") as before:
        resuming.save_checkpoint(checkpoint(1))
    file = Path(before.info.artifact_uri, "checkpoint", "1.npz")
    file.unlink()
    with tracking.tracked_run("trial") as run:
        assert resuming.go_on_from([saved(before.info.run_id)], fits) is None
    assert "1.npz cannot be read" in saved(run.info.run_id).checkpoint_lost


def test_a_run_that_was_superseded_ends_at_its_next_check() -> None:
    with pytest.raises(tracking.Superseded), tracking.tracked_run("trial") as run:
        tracking.check_wanted()
        mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")
        tracking.check_wanted()
    assert mlflow.get_run(run.info.run_id).info.status == "KILLED"


def test_the_plan_is_the_trials_in_any_order_and_the_data(small_cifar10: Cifar10) -> None:
    one, two = TrialConfig(), TrialConfig(seed=1)
    key = resuming.plan_key([one, two], small_cifar10)
    assert key == resuming.plan_key([two, one], small_cifar10)
    assert key != resuming.plan_key([one], small_cifar10)
    assert key != resuming.plan_key([one, two], Cifar10(Path(), "another digest", ""))
