"""The published study in one command, killed in the middle and run again."""

import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from mlflow.entities import Run

from tests.end_to_end.conftest import User, shown_by

STUDY = {"epochs": "1", "workers": "1", "threads": "1"}


@dataclass(frozen=True)
class Resumed:
    user: User
    shown: str

    def newest(self, kind: str) -> Run:
        return self.user.runs(f"tags.kind = '{kind}'")[-1]


@pytest.fixture(scope="module")
def resumed(new_user: Callable[[], User]) -> Resumed:
    user = new_user()
    output = {"output": str(user.folder / "page.html")}
    finished = "tags.kind = 'trial' and attributes.status = 'FINISHED'"
    # Three trials compare the networks; the fourth is the grid's.
    command = user.script("reproduce", STUDY | output)
    process = user.start(command, lambda: len(user.runs(finished)) >= 4)
    os.killpg(process.pid, signal.SIGKILL)
    shown_by(process)
    done = user.run("reproduce", STUDY | output)
    assert done.returncode == 0, done.stdout
    return Resumed(user, done.stdout)


def test_what_was_finished_is_not_done_again(resumed: Resumed) -> None:
    assert "Resuming  with data, architectures finished" in resumed.shown
    assert re.search(r"Resuming  study \w+: [1-9]\d* of 12 finished", resumed.shown)
    for kind, count in {"data": 1, "architectures": 1}.items():
        assert len(resumed.user.runs(f"tags.kind = '{kind}'")) == count
    trials = resumed.user.runs("tags.kind = 'trial' and attributes.status = 'FINISHED'")
    assert len(trials) == 3 + 12


def test_the_parts_are_finished_children_of_the_study(resumed: Resumed) -> None:
    study = resumed.newest("reproduce")
    parts = resumed.user.children(study)
    assert {run.data.tags["kind"] for run in parts.values()} == {
        "data",
        "architectures",
        "grid",
        "evaluate",
        "report",
    }
    assert {run.info.status for run in (study, *parts.values())} == {"FINISHED"}
    assert not resumed.user.runs("attributes.status = 'RUNNING'")


def test_the_grid_is_of_the_network_that_was_found_best(resumed: Resumed) -> None:
    best = resumed.newest("architectures").data.tags["best_architecture"]
    assert resumed.newest("grid").data.params["architecture"] == best


def test_the_best_model_is_registered_evaluated_and_reported(resumed: Resumed) -> None:
    best = resumed.newest("grid").data.tags["best_run_id"]
    champion = resumed.user.client.get_model_version_by_alias("cifar10-cnn", "champion")
    assert champion.run_id == best
    assert resumed.newest("evaluate").data.params["model"] == best
    page = (resumed.user.folder / "page.html").read_text()
    assert resumed.newest("grid").info.run_id in page
