import numpy as np
import pandas as pd

from cifar_mlflow import results
from cifar_mlflow.config import GridParameters, TrialConfig, expand
from cifar_mlflow.published import GRID, published
from cifar_mlflow.tracking import TrialRun


def finished(trial: TrialConfig, val: float, test: float) -> TrialRun:
    metrics = {
        "kept_val_accuracy": val,
        "test_accuracy": test,
        "test_loss": 1.0,
        "train_seconds": 90.0,
    }
    return TrialRun("r" + trial.key, trial.name, trial.key, "FINISHED", "", "models:/m", metrics)


def failed(trial: TrialConfig) -> TrialRun:
    return TrialRun("r" + trial.key, trial.name, trial.key, "FAILED", "Diverged", None, {})


TRIALS = expand(GridParameters.model_validate({"activation": "relu", "batch_size": "32,128"}))


def table(
    vals: list[float], tests: list[float], select_by: str = "val_accuracy", official: bool = True
) -> pd.DataFrame:
    runs = {t.key: finished(t, v, s) for t, v, s in zip(TRIALS, vals, tests, strict=False)}
    return results.tabulate(TRIALS, runs, select_by, official)


def test_the_best_trial_is_chosen_by_validation_accuracy() -> None:
    measured = table([0.5, 0.7, 0.6, 0.1], [0.9, 0.6, 0.8, 0.1])
    assert measured["best"].tolist() == [False, True, False, False]


def test_the_studys_way_chooses_by_test_accuracy() -> None:
    measured = table([0.5, 0.7, 0.6, 0.1], [0.9, 0.6, 0.8, 0.1], "test_accuracy")
    assert measured["best"].tolist() == [True, False, False, False]


def test_rows_are_in_the_order_of_the_plan_whatever_finished_first() -> None:
    runs = {trial.key: finished(trial, 0.5, 0.5) for trial in reversed(TRIALS)}
    measured = results.tabulate(TRIALS, runs, "val_accuracy", True)
    assert measured["name"].tolist() == [trial.name for trial in TRIALS]


def test_a_failed_or_missing_trial_is_shown_and_never_best() -> None:
    runs = {TRIALS[0].key: failed(TRIALS[0]), TRIALS[1].key: finished(TRIALS[1], 0.2, 0.2)}
    measured = results.tabulate(TRIALS, runs, "val_accuracy", True)
    assert measured["status"].tolist() == ["FAILED", "FINISHED", "NOT RUN", "NOT RUN"]
    assert measured["best"].tolist() == [False, True, False, False]
    _, rows = results.cells(measured)
    assert [row[3] for row in rows] == ["failed", "★", "not run", "not run"]


def test_without_a_finished_trial_none_is_best() -> None:
    runs = {trial.key: failed(trial) for trial in TRIALS}
    assert not results.tabulate(TRIALS, runs, "val_accuracy", True)["best"].any()


def test_published_numbers_stand_beside_the_same_configuration_only() -> None:
    measured = table([0.5] * 4, [0.5] * 4)
    assert measured["published_accuracy"].tolist() == [0.67, 0.68, 0.52, 0.70]
    assert len(GRID) == 12
    assert published(TrialConfig(seed=5)) == (0.67, 0.960)
    for change in (
        {"epochs": 10},
        {"architecture": "wide"},
        {"keep": "best"},
        {"learning_rate": 1},
    ):
        assert published(TrialConfig.model_validate(change)) is None


def test_published_numbers_are_left_out_beside_other_data() -> None:
    measured = table([0.5] * 4, [0.5] * 4, official=False)
    assert measured["published_accuracy"].isna().all()
    headings, _ = results.cells(measured)
    assert not [heading for heading in headings if "publ" in heading]


def test_markdown_has_a_row_for_each_trial_and_marks_the_best() -> None:
    lines = results.markdown(table([0.5, 0.7, 0.6, 0.1], [0.5] * 4)).splitlines()
    assert len(lines) == 2 + len(TRIALS)
    assert len({line.count("|") for line in lines}) == 1
    assert [("★" in line) for line in lines[2:]] == [False, True, False, False]


def test_a_table_shows_the_factors_that_tell_its_rows_apart() -> None:
    assert results.shown_factors(table([0.5] * 4, [0.5] * 4)) == list(results.SHOWN)
    trials = expand(GridParameters.model_validate({"activation": "relu", "seed": "0,1"}))
    seeded = results.tabulate(trials, {}, "val_accuracy", True)
    assert results.shown_factors(seeded) == [*results.SHOWN, "seed"]


def test_the_accuracy_grid_has_batch_sizes_across_and_the_rest_down() -> None:
    grid = results.accuracy_grid(table([0.1, 0.2, 0.3, 0.4], [0.5] * 4))
    assert [int(size) for size in grid.columns] == [32, 128]
    assert list(grid.index) == ["relu sgd", "relu adam"]
    np.testing.assert_allclose(grid.to_numpy(), [[0.1, 0.3], [0.2, 0.4]])
