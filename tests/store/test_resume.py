"""What a run takes over from the interrupted runs that it resumes."""

from pathlib import Path

import mlflow
import numpy as np
import pytest

from cifar_mlflow import errors
from cifar_mlflow.store import claims, query, resume, tracking
from cifar_mlflow.store.runs import END_REASON, OUTDATED, PARENT, TRIAL_KEY, TrackedRun
from cifar_mlflow.study.trial import repeated_failure
from cifar_mlflow.training.checkpoint import Checkpoint, Epoch
from tests.store.conftest import Leave, Start

pytestmark = pytest.mark.usefixtures("store")


def checkpoint(epochs: int) -> Checkpoint:
    history = tuple(Epoch(n, 1 / n, 0.5, 1.0, 0.4, 0.01, 2.0) for n in range(1, epochs + 1))
    return Checkpoint(history, [np.full(3, epochs)], [np.array(epochs)])


def fits(checkpoint: Checkpoint) -> None:
    """Any checkpoint is of this training."""


def saved(run_id: str) -> TrackedRun:
    return query.read(run_id)


def checkpoint_file(trial: TrackedRun, name: str) -> Path:
    return Path(mlflow.get_run(trial.run_id).info.artifact_uri, "checkpoint", name)


def history(run_id: str, metric: str = "train_loss") -> list[tuple[int, float]]:
    points = mlflow.MlflowClient().get_metric_history(run_id, metric)
    return [(point.step, point.value) for point in points]


def child(parent: str, key: str, status: str, epochs: int = 0) -> str:
    """A trial's run under another, with a checkpoint where it has epochs."""
    tags = {PARENT: parent, TRIAL_KEY: key}
    with mlflow.start_run(run_name=key, nested=True, tags=tags) as run:
        if epochs:
            resume.save_checkpoint(checkpoint(epochs))
    mlflow.MlflowClient().update_run(run.info.run_id, status)
    return str(run.info.run_id)


def test_finished_and_part_done_trials_get_the_successor_as_parent(
    study: Start, leave: Leave
) -> None:
    left = leave()
    done = child(left, "aaa", "FINISHED")
    part, begun = child(left, "bbb", "RUNNING", 2), child(left, "ccc", "RUNNING")
    before = study()
    parent = query.active().as_parent()
    kept = resume.previous_trials(before, parent)
    resume.adopt_trials(kept, before, parent)
    assert {(run.run_id, run.status) for run in kept} == {(done, "FINISHED"), (part, "RUNNING")}
    assert {run.run_id for run in query.children(parent)} == {done, part}
    ended = {run_id: query.read(run_id) for run_id in (left, part, begun)}
    assert {run.status for run in ended.values()} == {"KILLED"}
    assert mlflow.get_run(left).data.tags[claims.SUPERSEDED_BY] == parent.run_id
    assert left in ended[part].end_reason


def test_attempts_that_are_left_behind_lose_their_checkpoints(study: Start, leave: Leave) -> None:
    left = leave()
    furthest, newest = child(left, "aaa", "KILLED", 2), child(left, "aaa", "KILLED", 1)
    before = study()
    parent = query.active().as_parent()
    resume.adopt_trials(resume.previous_trials(before, parent), before, parent)
    assert [run.run_id for run in query.children(parent)] == [furthest]
    assert saved(furthest).checkpoint
    assert not saved(newest).checkpoint
    assert not mlflow.MlflowClient().list_artifacts(newest, resume.FOLDER)


def test_failures_of_an_earlier_study_do_not_stop_its_successor(study: Start, leave: Leave) -> None:
    left = leave()
    for key in ("aaa", "bbb", "ccc"):
        run_id = child(left, key, "FAILED", 1)
        mlflow.MlflowClient().set_tag(run_id, END_REASON, "OSError: the disk is full")
    assert repeated_failure(query.read(left).as_parent(), 3)
    before = study()
    parent = query.active().as_parent()
    kept = resume.previous_trials(before, parent)
    assert len(kept) == 3
    resume.adopt_trials(kept, before, parent)
    assert repeated_failure(parent, 3) is None


def test_a_finished_trial_is_preferred_to_a_newer_part_done_one(study: Start, leave: Leave) -> None:
    left = leave()
    done = child(left, "aaa", "FINISHED")
    child(left, "aaa", "KILLED", 1)
    kept = resume.previous_trials(study(), query.active().as_parent())
    assert [run.run_id for run in kept] == [done]


def test_of_two_finished_trials_the_newer_is_kept_whatever_the_other_has_left(
    study: Start, leave: Leave
) -> None:
    left = leave()
    child(left, "aaa", "FINISHED", 2)  # its worker died before it deleted the checkpoint
    newer = child(left, "aaa", "FINISHED")
    kept = resume.previous_trials(study(), query.active().as_parent())
    assert [run.run_id for run in kept] == [newer]


def test_a_trial_resumes_the_newest_checkpoint_with_its_whole_history() -> None:
    with tracking.tracked_run("trial") as before:
        for epochs in (1, 2, 3):
            resume.save_checkpoint(checkpoint(epochs))
    with tracking.tracked_run("trial") as run:
        start = resume.resume_from([saved(before.run_id)], fits)
    assert start is not None
    assert start.history == checkpoint(3).history
    assert history(run.run_id) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert saved(run.run_id).checkpoint
    assert saved(run.run_id).epochs == 3
    ended = query.read(before.run_id)
    assert ended.status == "KILLED"
    assert ended.tags[claims.SUPERSEDED_BY] == run.run_id
    assert not mlflow.MlflowClient().list_artifacts(before.run_id, resume.FOLDER)


def test_of_several_checkpoints_the_furthest_is_resumed_and_a_damaged_one_is_passed_over() -> None:
    left = []
    for epochs in (1, 3, 5, 3):
        with tracking.tracked_run("trial") as before:
            resume.save_checkpoint(checkpoint(epochs))
        left.append(saved(before.run_id))
    checkpoint_file(left[2], "1.npz").unlink()
    with tracking.tracked_run("trial") as run:
        start = resume.resume_from(left, fits)
    assert start is not None
    assert start.history == checkpoint(3).history
    assert saved(run.run_id).resumed_from == left[3].run_id  # of two equal ones the newer
    assert not saved(run.run_id).checkpoint_lost
    assert {query.read(each.run_id).status for each in left} == {"KILLED"}


def save_cut_off(saved: int, cut_off: int, module: object, name: str, cut: object) -> TrackedRun:
    """A run that saved one checkpoint, and was killed while it saved the next; of so many epochs each."""
    with (
        pytest.raises(SystemExit),
        pytest.MonkeyPatch.context() as patch,
        tracking.tracked_run("trial") as run,
    ):
        resume.save_checkpoint(checkpoint(saved))
        patch.setattr(module, name, cut)
        resume.save_checkpoint(checkpoint(cut_off))
    return query.read(run.run_id)


def test_a_save_that_is_cut_off_leaves_the_one_before() -> None:
    def half(file: str, folder: str) -> None:
        content = Path(file).read_bytes()
        Path(file).write_bytes(content[: len(content) // 2])
        log(file, folder)
        raise SystemExit

    log = mlflow.log_artifact
    before = save_cut_off(4, 5, mlflow, "log_artifact", half)
    start = resume.load_checkpoint(before)
    assert start.history == checkpoint(4).history


def test_an_epoch_without_metrics_is_in_the_checkpoint_and_in_its_successors_curves() -> None:
    def killed(*_: object) -> None:
        raise SystemExit

    before = save_cut_off(1, 2, tracking, "log_epochs", killed)
    assert history(before.run_id) == [(1, 1.0)]
    with tracking.tracked_run("trial") as run:
        start = resume.resume_from([before], fits)
    assert start is not None
    assert start.history == checkpoint(2).history
    assert history(run.run_id) == [(1, 1.0), (2, 0.5)]


def test_a_damaged_checkpoint_is_lost_and_the_trial_says_so() -> None:
    with tracking.tracked_run("trial") as before:
        resume.save_checkpoint(checkpoint(2))
    file = checkpoint_file(before, "0.npz")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with tracking.tracked_run("trial") as run:
        assert resume.resume_from([saved(before.run_id)], fits) is None
    assert "0.npz is damaged" in saved(run.run_id).checkpoint_lost


def test_a_paused_trial_that_starts_over_is_no_longer_outdated() -> None:
    before = tracking.start_run("candidate")
    resume.save_checkpoint(checkpoint(2))
    mlflow.set_tag(OUTDATED, "network old, now new")
    tracking.pause_run()
    checkpoint_file(before, "0.npz").unlink()
    run = tracking.continue_run(saved(before.run_id))
    assert resume.resume_from([saved(before.run_id)], fits) is None
    tracking.finish_run()
    assert saved(run.run_id).checkpoint_lost
    assert not saved(run.run_id).outdated


def test_a_missing_checkpoint_is_lost_and_the_trial_says_so() -> None:
    with tracking.tracked_run("trial") as before:
        resume.save_checkpoint(checkpoint(1))
    file = checkpoint_file(before, "1.npz")
    file.unlink()
    with tracking.tracked_run("trial") as run:
        assert resume.resume_from([saved(before.run_id)], fits) is None
    assert "1.npz cannot be read" in saved(run.run_id).checkpoint_lost


def test_a_run_that_was_superseded_ends_at_its_next_check() -> None:
    with pytest.raises(errors.Superseded), tracking.tracked_run("trial") as run:
        tracking.raise_if_superseded()
        mlflow.MlflowClient().set_terminated(run.run_id, "KILLED")
        tracking.raise_if_superseded()
    assert query.read(run.run_id).status == "KILLED"
