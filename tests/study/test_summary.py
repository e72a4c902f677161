import io
from collections.abc import Mapping, Sequence

import pandas as pd
import pytest
from mlflow.entities.model_registry import ModelVersion

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.parameters import GridParameters, expand
from cifar_mlflow.store import card, query, registry
from cifar_mlflow.store.runs import TrackedRun
from cifar_mlflow.study import results, summary
from tests.conftest import Screen
from tests.stores import tracked


def plan(**factors: str) -> list[TrialConfig]:
    return expand(GridParameters.model_validate(factors))


def run_of(trial: TrialConfig, status: str = "FINISHED", accuracy: float = 0.5) -> TrackedRun:
    names = ("kept_val_accuracy", "kept_val_loss", "test_accuracy", "test_loss", "train_seconds")
    metrics = dict.fromkeys((*names, "parameters"), accuracy) if status == "FINISHED" else {}
    reason = "" if status == "FINISHED" else "Diverged: " + "the loss is nan " * 50
    run_id = f"{status} {trial.name}"
    return tracked(run_id, trial.name, status, metrics, trial_key=trial.key, end_reason=reason)


def summarise(trials: list[TrialConfig], runs: Mapping[str, TrackedRun]) -> pd.DataFrame:
    table = results.tabulate(trials, runs, "validation", official=True)
    return results.summarise(table, "validation")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The trials whose histories were read from the store, which has one epoch of each."""
    trials: list[str] = []

    def histories(run_id: str, names: Sequence[str]) -> pd.DataFrame:
        status, _, trial = run_id.partition(" ")
        trials.append(trial)
        epochs = [] if status == "KILLED" else [1]
        return pd.DataFrame({"epoch": epochs, **dict.fromkeys(names, 0.5)})

    monkeypatch.setattr(query, "metric_histories", histories)
    return trials


def test_of_a_large_study_only_the_curves_that_are_drawn_are_read(read: list[str]) -> None:
    rates = ",".join(str(0.001 * k) for k in range(1, 41))
    seeds = ",".join(map(str, range(25)))
    trials = plan(activation="relu", batch_size="32", learning_rate=rates, seed=seeds)
    assert len(trials) == 2_000
    runs = {trial.key: run_of(trial, accuracy=float(trial.learning_rate)) for trial in trials}
    histories = summary.read_histories(trials, runs, summarise(trials, runs))
    assert len(histories) == results.MOST
    assert len(read) == results.MOST * summary.SEEDS_DRAWN
    assert all(name.endswith(", 20 of 25 seeds") for name in histories)
    assert next(iter(histories)).startswith("relu 32 sgd learning_rate=0.04")


def test_curves_leave_out_seeds_that_failed_where_others_finished(read: list[str]) -> None:
    trials = plan(activation="relu", batch_size="32", optimizer="sgd,adam", seed="0,1")
    runs = {
        t.key: run_of(t, "FAILED" if t.seed or t.optimizer == "adam" else "FINISHED")
        for t in trials
    }
    histories = summary.read_histories(trials, runs, summarise(trials, runs))
    assert read == ["sgd-relu-32-deep", "adam-relu-32-deep", "adam-seed=1-relu-32-deep"]
    assert {name: len(history) for name, history in histories.items()} == {
        "relu 32 sgd": 1,
        "relu 32 adam": 2,
    }


def test_without_a_single_epoch_there_are_no_curves(read: list[str]) -> None:
    trials = plan(activation="relu", optimizer="adam")
    runs = {trials[0].key: run_of(trials[0], "KILLED")}
    drawn = summary.draw(trials, runs, summarise(trials, runs), GridParameters())
    assert read == ["32-relu-adam-deep"]
    assert set(drawn) == {"grid.png"}


def test_a_grid_without_validation_is_drawn_by_test_accuracy(read: list[str]) -> None:
    given = {"activation": "relu", "validation_fraction": "0", "select_by": "test"}
    trials = plan(**given)
    runs = {trial.key: run_of(trial) for trial in trials}
    table = results.tabulate(trials, runs, "test", official=True)
    options = GridParameters.model_validate(given)
    drawn = summary.draw(trials, runs, results.summarise(table, "test"), options)
    assert drawn["grid.png"].get_suptitle().startswith("test accuracy")


def test_a_grid_with_validation_in_a_part_is_drawn_by_test_accuracy(read: list[str]) -> None:
    given = {"activation": "relu", "validation_fraction": "0,0.2", "select_by": "test"}
    trials = plan(**given)
    runs = {trial.key: run_of(trial) for trial in trials}
    table = results.summarise(results.tabulate(trials, runs, "test", official=True), "test")
    drawn = summary.draw(trials, runs, table, GridParameters.model_validate(given))
    assert drawn["grid.png"].get_suptitle().startswith("test accuracy")


def test_a_ranking_is_drawn_where_there_are_replicates(read: list[str]) -> None:
    trials = plan(activation="relu", optimizer="adam", seed="0,1")
    runs = {trial.key: run_of(trial) for trial in trials}
    drawn = summary.draw(trials, runs, summarise(trials, runs), GridParameters())
    assert set(drawn) == {"curves.png", "ranking.png", "grid.png"}
    assert len(read) == len(trials)


def test_many_failures_are_listed_in_a_few_short_lines() -> None:
    trials = plan()
    runs = {trial.key: run_of(trial, "FAILED") for trial in trials}
    table = results.tabulate(trials, runs, "validation", official=True)
    *listed, (_, rest) = summary.failures(table)
    assert len(listed) == summary.FAILURES_LISTED
    assert listed[0][1].startswith("relu-32-sgd-deep: Diverged: the loss is nan")
    assert all(len(text) < 300 for _, text in listed)
    assert rest == "7 more; results.csv has all"


def test_a_trial_that_never_ran_counts_as_a_failure() -> None:
    trials = plan(activation="relu", batch_size="32")
    runs = {trials[0].key: run_of(trials[0])}
    table = results.tabulate(trials, runs, "validation", official=True)
    assert summary.failures(table) == [("Failed", "adam-relu-32-deep: not run")]


CELL = "0.710 ± 0.010 (0.685–0.735)"
HEADINGS = ["activation", "best", "val acc.", "test acc.", "min"]
ROWS = [["relu", "★", CELL, CELL, "1.5"], ["sigmoid", "", CELL, "", "1.6"]]


def lines_on(shown: io.StringIO) -> list[str]:
    summary.show(HEADINGS, ROWS)
    return [line.rstrip() for line in shown.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("alias", "version", "replaced"),
    [
        ("champion", "3", "; the champion before was version 2"),
        ("champion", "2", ""),  # registered before the study was interrupted
        ("challenger", "3", ""),
    ],
)
def test_a_new_champion_names_the_one_before(
    alias: str, version: str, replaced: str, small_cifar10: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    promotion = registry.Promotion(version, alias, "a reason")
    monkeypatch.setattr(registry, "champion", lambda name: ModelVersion(name, "2", 0))
    monkeypatch.setattr(registry, "register", lambda *_: promotion)
    monkeypatch.setattr(card, "publish", lambda *_: None)
    trial = plan(activation="relu", batch_size="32", optimizer="sgd")[0]
    found = summary.Finished(trial, run_of(trial))
    (_, text), _ = summary.promote(found, None, small_cifar10, "cnn")
    assert text == f"cnn version {version}: a reason{replaced}"


def test_a_wide_terminal_shows_a_line_for_each_configuration(screen: Screen) -> None:
    lines = lines_on(screen(120, is_terminal=True))
    assert len(lines) == 4  # headings take two
    assert lines[2].split() == ["relu", "★", *CELL.split(), *CELL.split(), "1.5"]


def test_a_narrower_terminal_shows_intervals_below_their_means(screen: Screen) -> None:
    lines = lines_on(screen(66, is_terminal=True))
    assert lines[2].split() == ["relu", "★", *CELL.split()[:3], *CELL.split()[:3], "1.5"]
    assert lines[3].split() == [CELL.split()[3]] * 2


def test_a_narrow_terminal_leaves_out_what_matters_least_and_cuts_no_number(screen: Screen) -> None:
    lines = lines_on(screen(40, is_terminal=True))
    assert "min" not in " ".join(lines)
    assert "…" not in " ".join(lines)
    assert lines[2].split() == ["relu", "★", *CELL.split()[:3]]


def test_a_file_gets_everything_however_wide(screen: Screen) -> None:
    assert lines_on(screen(40)) == lines_on(screen(120, is_terminal=True))
