import mlflow
import pytest

from cifar_mlflow import tracking
from cifar_mlflow.processes import Process, this_process
from tests.conftest import Leave


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
