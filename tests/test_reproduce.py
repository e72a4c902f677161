"""The published study in one command, run again: which parts it keeps, of parts that train nothing."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest

from cifar_mlflow import reproduce
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.parameters import ReproduceParameters, StudyOptions, expand
from cifar_mlflow.store import query, resume, tracking
from cifar_mlflow.store.runs import TRIAL_KEY

pytestmark = pytest.mark.usefixtures("store")
Part = Callable[..., str]


@pytest.fixture
def part() -> Part:
    """Adds a finished part to a study that was killed, and is gone on from at the end."""
    with tracking.tracked_run("reproduce") as before:
        parent = before.as_parent()
    mlflow.MlflowClient().update_run(before.run_id, "KILLED")

    def add(kind: str, status: str = "FINISHED", params: Any = None, **tags: str) -> str:
        with tracking.tracked_run(kind, parent=parent, tags=tags) as run:
            mlflow.log_params(params or {})
        mlflow.MlflowClient().update_run(run.run_id, status)
        return str(run.run_id)

    add.before = [SimpleNamespace(run_id=parent.run_id)]  # type: ignore[attr-defined]
    return add


def kept(part: Any) -> dict[str, str]:
    """What a study that goes on keeps, by kind; it is what hangs under it."""
    with tracking.tracked_run("reproduce"):
        found = resume.adopt_parts(part.before)
        assert {run.run_id for run in query.parts().values()} == {
            run.run_id for run in found.values()
        }
    return {kind: run.run_id for kind, run in found.items()}


def test_finished_parts_that_belong_together_are_kept(part: Part) -> None:
    data, compared = part("data"), part("architectures", best_architecture="wide")
    grid = part("grid", params={"architecture": "wide"}, best_run_id="abc")
    evaluated = part("evaluate", params={"model": "abc"})
    assert kept(part) == {
        "data": data,
        "architectures": compared,
        "grid": grid,
        "evaluate": evaluated,
    }


def test_a_grid_of_another_network_than_the_best_is_not_kept_nor_its_evaluation(part: Part) -> None:
    compared = part("architectures", best_architecture="deep")
    part("grid", params={"architecture": "wide"}, best_run_id="abc")
    part("evaluate", params={"model": "abc"})
    assert kept(part) == {"architectures": compared}


def test_an_evaluation_of_another_model_than_the_best_is_not_kept(part: Part) -> None:
    compared = part("architectures", best_architecture="deep")
    grid = part("grid", params={"architecture": "deep"}, best_run_id="abc")
    part("evaluate", params={"model": "def"})
    assert kept(part) == {"architectures": compared, "grid": grid}


def test_no_grid_is_kept_where_the_comparison_did_not_finish(part: Part) -> None:
    part("architectures", "FAILED", best_architecture="wide")
    part("grid", params={"architecture": "wide"}, best_run_id="abc")
    assert kept(part) == {}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that the study made, each with what it is of; they train nothing."""
    parts: list[str] = []

    def make(kind: str, of: str = "") -> Callable[..., None]:
        def run(parameters: Any, *_: object) -> None:
            parts.append(f"{kind} {getattr(parameters, of)[0]}" if of else kind)
            with tracking.tracked_run(kind):
                tracking.log_parameters(parameters)

        return run

    monkeypatch.setattr(reproduce, "describe_data", make("data"))
    monkeypatch.setattr(reproduce, "evaluate_models", make("evaluate", "model"))
    monkeypatch.setattr(reproduce, "write_report", make("report"))
    return parts


def test_the_grid_waits_until_the_networks_are_compared(
    small_cifar10: DataSet,
    made: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing = {"deep"}

    def train(parameters: StudyOptions) -> int:
        trials = expand(parameters)
        made.append(f"{parameters.kind} {trials[-1].architecture}")
        with tracking.tracked_run(parameters.kind):
            tracking.log_parameters(parameters)
            mlflow.set_tags({"best_architecture": "deep", "best_run_id": "abc"})
            for trial in trials:
                failed = trial.architecture in failing
                with tracking.tracked_run("trial", tags={TRIAL_KEY: trial.key}):
                    if failed:
                        tracking.tag_end_reason("OSError: the disk is full")
            if failing:
                tracking.tag_end_reason("not every trial finished")
        return 1 if failing else 0

    monkeypatch.setattr(reproduce, "plan_or_run", train)
    parameters = ReproduceParameters.model_validate({"epochs": 1, "output": Path("page.html")})
    assert reproduce.reproduce(parameters) == 1
    assert made == ["data", "architectures deep"]
    (missing,) = [trial.name for trial in expand(parameters.architectures())][-1:]
    assert capsys.readouterr().err == (
        f"reproduce: the comparison of the networks is incomplete: {missing} did not finish; "
        "run the same command again\n"
    )
    (study,) = query.search("0", "tags.kind = 'reproduce'")
    assert (study.status, missing in study.tags["end_reason"]) == ("FAILED", True)

    failing.clear()
    made.clear()
    assert reproduce.reproduce(parameters) == 0
    assert made == ["architectures deep", "grid deep", "evaluate abc", "report"]
