"""What a dry run says about the power of its seeds."""

from pathlib import Path

import mlflow
import pytest

from cifar_mlflow.errors import DONE
from cifar_mlflow.parameters import GridParameters
from cifar_mlflow.store import query
from cifar_mlflow.store.runs import CANDIDATE, KIND
from cifar_mlflow.study.command import plan_or_run
from tests.conftest import Screen
from tests.stores import write_study

pytestmark = pytest.mark.usefixtures("store")
SEEDS = {"activation": "relu", "batch_size": "32,64", "optimizer": "adam", "seed": "0,1,2,3"}


def last_line(screen: Screen, **changes: str) -> str:
    shown = screen()
    given = {**SEEDS, **changes, "dry_run": "true"}
    assert plan_or_run(GridParameters.model_validate(given)) == DONE
    return shown.getvalue().splitlines()[-1]


def test_without_finished_trials_it_is_said_for_each_standard_deviation(screen: Screen) -> None:
    assert last_line(screen) == (
        "4 seeds detect a difference of 2.5 standard deviations in validation accuracy in 80 % of cases "
        "(Welch's t-test of one pair at 5 %)"
    )


def test_finished_trials_of_the_plan_give_the_standard_deviation(screen: Screen) -> None:
    client = mlflow.MlflowClient()
    write_study(client, "0", "grid", SEEDS | {"seed": "0,1,2"})
    others = {"batch_size": "128", "seed": "0,1,2"}
    write_study(client, "0", "grid", SEEDS | others)  # not in the plan
    line = last_line(screen)
    assert line.startswith("4 seeds detect a difference of 0.00")
    assert line.endswith(" of 6 finished trials)")


def test_trials_on_other_data_are_not_mixed_in(screen: Screen) -> None:
    client = mlflow.MlflowClient()
    write_study(client, "0", "grid", SEEDS | {"seed": "0,1,2"}, digest="0" * 64)
    write_study(client, "0", "grid", SEEDS | {"seed": "2,3"})
    assert last_line(screen).endswith(" of 4 finished trials)")


def test_of_a_trial_that_was_trained_again_the_newest_run_counts(screen: Screen) -> None:
    client = mlflow.MlflowClient()
    write_study(client, "0", "grid", SEEDS | {"seed": "0,1,2"})
    for run in query.newest_trials():  # widely spread
        accuracy = 0.5 + 0.1 * int(run.parameters["seed"])
        client.log_metric(run.run_id, "kept_val_accuracy", accuracy)
    write_study(client, "0", "grid", SEEDS | {"seed": "0,1,2"})
    assert last_line(screen).startswith("4 seeds detect a difference of 0.00")


def test_candidates_of_a_search_are_not_mixed_in_because_they_are_not_tested(
    screen: Screen,
) -> None:
    client = mlflow.MlflowClient()
    write_study(client, "0", "grid", SEEDS | {"seed": "0,1,2"})
    candidate = query.newest_trials()[0]
    client.set_tag(candidate.run_id, KIND, CANDIDATE)
    assert last_line(screen).endswith(" of 5 finished trials)")


def test_too_few_seeds_for_a_test_are_said(screen: Screen) -> None:
    assert last_line(screen, seed="0,1").startswith("2 seeds of each configuration show no")


@pytest.mark.parametrize("changes", [{"seed": "0"}, {"batch_size": "32"}])
def test_where_no_configurations_are_compared_over_seeds_nothing_is_said(
    changes: dict[str, str], screen: Screen
) -> None:
    assert "workers x threads" in last_line(screen, **changes)


def test_a_dry_run_creates_no_store(
    screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{missing}")
    assert "standard deviations" in last_line(screen)
    assert not missing.exists()
