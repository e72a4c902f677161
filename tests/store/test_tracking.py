import mlflow
import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.processes import Process, this_process
from cifar_mlflow.store import tracking
from tests.store.conftest import Leave

pytestmark = pytest.mark.usefixtures("store")
REACHED = {"kept_val_accuracy": 0.7, "test_accuracy": 0.6, "test_loss": 1.0}


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The descriptions that were set."""
    texts: list[str] = []
    monkeypatch.setattr(mlflow, "set_tag", lambda name, text: texts.append(text))
    return texts


def test_a_description_that_no_tag_can_hold_ends_with_a_whole_line(described: list[str]) -> None:
    lines = [f"| {number} | 0.5 |" for number in range(2_000)]
    tracking.describe("\n".join(lines))
    (text,) = described
    assert len(text) <= mlflow.utils.validation.MAX_TAG_VAL_LENGTH
    *kept, last = text.splitlines()
    assert kept == lines[: len(kept)]
    assert len(kept) > 400
    assert last == "…"


def test_a_shorter_description_is_kept_as_it_is(described: list[str]) -> None:
    tracking.describe("short\ntext")
    assert described == ["short\ntext"]


def test_the_run_of_a_killed_command_that_nothing_resumes_ends_killed(
    leave: Leave, dead_process: Process
) -> None:
    process = tracking.process_tags(dead_process)
    client = mlflow.MlflowClient()
    killed = client.create_run("0", tags=process).info.run_id
    others = {
        leave(),  # resumed by the same command
        client.create_run("0", tags=process | {"machine": "elsewhere"}).info.run_id,
        client.create_run("0", tags=tracking.process_tags(this_process())).info.run_id,
    }
    with tracking.tracked_run("evaluate"):
        assert tracking.read(killed).status == "KILLED"
    assert tracking.read(killed).end_reason == "its process was killed"
    assert {tracking.read(run_id).status for run_id in others} == {"RUNNING"}


def trial(status: str, number: int = 0, key: str = "aaa") -> tracking.TrialRun:
    return tracking.TrialRun(f"{status} {number}", key, key, status, "", None, REACHED)


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_a_trial_that_finished_counts_whatever_the_clocks_say(status: str) -> None:
    # Sorted by when they began, each by the clock of its machine.
    runs = [trial("FINISHED"), trial(status)]
    assert tracking.latest(runs) == {"aaa": runs[0]}


def test_an_attempt_that_was_followed_by_another_counts_least() -> None:
    runs = [trial("FAILED"), trial("KILLED"), trial("KILLED", key="bbb")]
    assert tracking.latest(runs) == {"aaa": runs[0], "bbb": runs[2]}


def test_of_attempts_that_ended_alike_the_newest_counts() -> None:
    runs = [trial("FAILED", 1), trial("FAILED", 2)]
    assert tracking.latest(runs) == {"aaa": runs[1]}


def test_a_study_has_one_best_child_also_after_another_was_best() -> None:
    with tracking.tracked_run("grid") as run:
        ids = []
        for name in ("first", "second"):
            with tracking.tracked_run("trial", name) as child:
                mlflow.log_metrics(REACHED)
            ids.append(child.info.run_id)
            tracking.tag_best(tracking.read(ids[-1]), TrialConfig())
        marked = tracking.children(tracking.as_parent(run), "tags.best = 'true'")
        assert [child.run_id for child in marked] == [ids[1]]
    assert mlflow.get_run(run.info.run_id).data.tags["best_run_id"] == ids[1]
