from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.paper import GRID, published
from cifar_mlflow.parameters import ArchitecturesParameters, GridParameters, expand
from cifar_mlflow.store.runs import TrackedRun
from cifar_mlflow.study import results
from tests.stores import tracked


def finished(trial: TrialConfig, val: float, test: float, outdated: str = "") -> TrackedRun:
    metrics = {
        "kept_val_accuracy": val,
        "test_accuracy": test,
        "kept_val_loss": 1.1,
        "test_loss": 1.0,
        "parameters": 122_570,
        "train_seconds": 90.0,
    }
    run_id = "r" + trial.key
    return tracked(run_id, trial.name, "FINISHED", metrics, trial_key=trial.key, outdated=outdated)


def failed(trial: TrialConfig) -> TrackedRun:
    key = trial.key
    return tracked("r" + key, trial.name, "FAILED", trial_key=key, end_reason="Diverged")


TRIALS = expand(GridParameters.model_validate({"activation": "relu", "batch_size": "32,128"}))


def table(
    vals: list[float], tests: list[float], select_by: str = "validation", official: bool = True
) -> pd.DataFrame:
    runs = {t.key: finished(t, v, s) for t, v, s in zip(TRIALS, vals, tests, strict=False)}
    return results.tabulate(TRIALS, runs, select_by, official)


def summarise(measured: pd.DataFrame, select_by: str = "validation") -> pd.DataFrame:
    return results.summarise(measured, select_by)


def tabulate(factors: dict[str, str], vals: Mapping[str, float | None]) -> pd.DataFrame:
    """A grid whose trials, by name, reached a validation accuracy, or FAILED where it is None."""
    trials = expand(GridParameters.model_validate(factors))
    runs = {
        trial.key: failed(trial) if value is None else finished(trial, value, value - 0.01)
        for trial in trials
        if trial.name in vals
        for value in [vals[trial.name]]
    }
    return results.tabulate(trials, runs, "validation", official=True)


# Two configurations with three seeds each, and one that was trained once.
REPLICATES = {"activation": "relu", "optimizer": "adam", "batch_size": "32,64,128", "seed": "0,1,2"}
REPLICATED = {
    "32-relu-adam-deep": 0.70,
    "32-seed=1-relu-adam-deep": 0.71,
    "32-seed=2-relu-adam-deep": 0.72,
    "64-relu-adam-deep": 0.69,
    "64-seed=1-relu-adam-deep": 0.70,
    "64-seed=2-relu-adam-deep": 0.68,
    "128-relu-adam-deep": 0.30,
    "128-seed=1-relu-adam-deep": 0.31,
    "128-seed=2-relu-adam-deep": 0.32,
}


def test_the_best_trial_is_chosen_by_validation_accuracy() -> None:
    measured = table([0.5, 0.7, 0.6, 0.1], [0.9, 0.6, 0.8, 0.1])
    assert measured["best"].tolist() == [False, True, False, False]


def test_the_papers_way_chooses_by_test_accuracy() -> None:
    measured = table([0.5, 0.7, 0.6, 0.1], [0.9, 0.6, 0.8, 0.1], "test")
    assert measured["best"].tolist() == [True, False, False, False]


def test_rows_are_in_the_order_of_the_plan_whatever_finished_first() -> None:
    runs = {trial.key: finished(trial, 0.5, 0.5) for trial in reversed(TRIALS)}
    measured = results.tabulate(TRIALS, runs, "validation", True)
    assert measured["name"].tolist() == [trial.name for trial in TRIALS]


def test_a_failed_or_missing_trial_is_shown_and_never_best() -> None:
    runs = {TRIALS[0].key: failed(TRIALS[0]), TRIALS[1].key: finished(TRIALS[1], 0.2, 0.2)}
    measured = results.tabulate(TRIALS, runs, "validation", True)
    assert measured["status"].tolist() == ["FAILED", "FINISHED", "NOT RUN", "NOT RUN"]
    assert measured["best"].tolist() == [False, True, False, False]
    _, rows = results.cells(summarise(measured))
    assert [row[3] for row in rows] == ["failed", "★", "not run", "not run"]


def test_outdated_trials_are_marked_and_counted() -> None:
    differing = "keras_version 3.14.0, now 3.15.1"
    runs = {
        trial.key: finished(trial, 0.5 - n / 10, 0.5, differing if n < 2 else "")
        for n, trial in enumerate(TRIALS)
    }
    measured = results.tabulate(TRIALS, runs, "validation", True)
    assert measured["outdated"].tolist() == [differing, differing, "", ""]
    summary = summarise(measured)
    _, rows = results.cells(summary)
    assert [row[3] for row in rows] == ["★‡", "‡", "", ""]
    account = dict(results.reading(summary, "validation"))
    assert account["Outdated"].startswith("2 trials (‡) of another network, TensorFlow or Keras")


def test_where_no_trial_is_outdated_none_is_marked() -> None:
    summary = summarise(table([0.5] * 4, [0.5] * 4))
    assert "Outdated" not in dict(results.reading(summary, "validation"))
    assert not any("‡" in cell for row in results.cells(summary)[1] for cell in row)


def test_without_a_finished_trial_none_is_best() -> None:
    runs = {trial.key: failed(trial) for trial in TRIALS}
    assert not results.tabulate(TRIALS, runs, "validation", True)["best"].any()


def test_published_numbers_are_of_the_same_configuration_only() -> None:
    measured = table([0.5] * 4, [0.5] * 4)
    assert measured["published_accuracy"].tolist() == [0.67, 0.68, 0.52, 0.70]
    assert len(GRID) == 12
    assert published(TrialConfig(seed=5)) == (0.67, 0.960)
    for change in (
        {"epochs": 10},
        {"architecture": "wide", "batch_size": 64},
        {"keep": "best"},
        {"learning_rate": 1},
    ):
        assert published(TrialConfig.model_validate(change)) is None


def test_the_networks_of_the_first_part_have_their_published_accuracy() -> None:
    trials = expand(ArchitecturesParameters())
    measured = results.tabulate(trials, {}, "validation", official=True)
    assert measured["published_accuracy"].tolist() == [0.60, 0.63, 0.67]
    assert measured["published_loss"].isna().tolist() == [True, True, False]
    assert published(TrialConfig(architecture="small", optimizer="adam")) is None


def test_published_numbers_are_left_out_with_other_data() -> None:
    measured = table([0.5] * 4, [0.5] * 4, official=False)
    assert measured["published_accuracy"].isna().all()
    headings, _ = results.cells(summarise(measured))
    assert not [heading for heading in headings if "publ" in heading]


def test_a_table_shows_the_factors_that_distinguish_its_rows_but_no_seed() -> None:
    assert results.shown_factors(summarise(table([0.5] * 4, [0.5] * 4))) == list(results.SHOWN)
    factors = {"activation": "relu", "seed": "0,1", "keep": "last,best", "epochs": "5"}
    varied = summarise(tabulate(factors, {}))
    assert results.shown_factors(varied) == [*results.SHOWN, "keep"]
    assert results.labels(varied).iloc[0] == "relu 32 sgd keep=last"


def test_a_table_shows_what_varies_where_no_two_rows_are_otherwise_alike() -> None:
    finalists = [
        TrialConfig(batch_size=32, learning_rate=0.01),
        TrialConfig(batch_size=64, learning_rate=0.05),
    ]
    found = summarise(results.tabulate(finalists, {}, "validation", official=True))
    assert results.shown_factors(found) == [*results.SHOWN, "learning_rate"]


def test_the_accuracy_grid_has_batch_sizes_across_and_the_rest_down() -> None:
    measured = summarise(table([0.1, 0.2, 0.3, 0.4], [0.5] * 4))
    grid = results.accuracy_grid(measured, "kept_val_accuracy_mean")
    assert [int(size) for size in grid.columns] == [32, 128]
    assert list(grid.index) == ["relu sgd", "relu adam"]
    np.testing.assert_allclose(grid.to_numpy(), [[0.1, 0.3], [0.2, 0.4]])


def test_a_grid_too_large_for_a_figure_shows_its_best_rows_in_their_order() -> None:
    grid = pd.DataFrame({32: np.arange(100) % 50, 64: np.nan})
    part = results.best_part(grid)
    assert len(part) == results.MOST
    assert part.index.is_monotonic_increasing
    assert part[32].min() == 38
    pd.testing.assert_frame_equal(results.best_part(grid.head(3)), grid.head(3))


def test_replicates_are_summarised_by_configuration() -> None:
    summary = summarise(tabulate(REPLICATES, REPLICATED))
    assert list(summary.index) == ["32-relu-adam-deep", "64-relu-adam-deep", "128-relu-adam-deep"]
    assert "seed" not in summary
    assert summary["n"].tolist() == summary["planned"].tolist() == [3, 3, 3]
    first = summary.loc["32-relu-adam-deep"]
    assert first["kept_val_accuracy_mean"] == pytest.approx(0.71)
    assert first["kept_val_accuracy_sd"] == pytest.approx(0.01)
    # 4.302653 is the 97.5 % quantile of Student's t with 2 degrees of freedom, from a table.
    half = 4.302653 * 0.01 / np.sqrt(3)
    assert first["kept_val_accuracy_low"] == pytest.approx(0.71 - half)
    assert first["kept_val_accuracy_high"] == pytest.approx(0.71 + half)
    assert first["difference"] == pytest.approx(0.70 - 0.68)  # test accuracy less the published one
    assert summary["difference_to_best"].tolist() == pytest.approx([0, -0.02, -0.40])


def test_the_ranking_says_which_differences_are_within_noise() -> None:
    summary = summarise(tabulate(REPLICATES, REPLICATED))
    assert summary["rank"].tolist() == [1, 2, 3]
    assert summary["best"].tolist() == [True, False, False]
    assert summary["verdict"].tolist() == ["best", "within noise", "worse"]
    assert np.isnan(summary["p_value"].iloc[0])
    (_, ranking) = results.reading(summary, "validation")[-1]
    assert ranking.startswith("relu 32 adam has the best mean validation accuracy (★)")
    assert "1 within noise of it (≈): relu 64 adam; 1 worse" in ranking
    _, rows = results.cells(summary)
    assert [row[3] for row in rows] == ["★", "≈", ""]


def test_a_published_accuracy_is_held_against_what_a_single_training_may_reach() -> None:
    summary = summarise(tabulate(REPLICATES, REPLICATED))
    half = 4.302653 * 0.01 * np.sqrt(1 + 1 / 3)  # Student's t from a table
    assert summary["test_accuracy_single_low"].iloc[0] == pytest.approx(0.70 - half)
    assert dict(results.reading(summary, "validation"))["Paper"] == (
        "2 of 3 published accuracies lie in the 95 % prediction interval of a single trial; "
        "not relu 128 adam (published 0.70, here 0.250–0.350)"
    )
    unpublished = summary.assign(published_accuracy=np.nan)
    assert "Paper" not in dict(results.reading(unpublished, "validation"))


def test_the_power_of_the_seeds_is_said_before_the_ranking() -> None:
    account = dict(results.reading(summarise(tabulate(REPLICATES, REPLICATED)), "validation"))
    assert list(account)[-2:] == ["Power", "Ranking"]
    assert account["Power"] == (
        "3 seeds detect a difference of 0.0351 in validation accuracy in 80 % of cases "
        "(Welch's t-test of one pair at 5 %; standard deviation 0.0100, pooled)"
    )
    two = summarise(tabulate(REPLICATES | {"seed": "0,1"}, REPLICATED))
    account = dict(results.reading(two, "validation"))
    assert account["Power"] == (
        "2 seeds of each configuration show no difference; tests need three"
    )


def test_the_best_is_chosen_by_the_mean_and_represented_by_its_best_seed() -> None:
    lucky = REPLICATED | {"64-seed=2-relu-adam-deep": 0.73, "64-relu-adam-deep": 0.60}
    measured = tabulate(REPLICATES, lucky)
    assert measured.loc[measured["best"], "name"].tolist() == ["32-seed=2-relu-adam-deep"]


def test_a_configuration_that_lost_a_seed_ranks_after_those_that_have_all() -> None:
    unlucky = REPLICATED | {"32-relu-adam-deep": None}
    measured = tabulate(REPLICATES, unlucky)
    summary = summarise(measured)
    assert summary["n"].tolist() == [2, 3, 3]
    assert summary["status"].tolist() == ["FAILED", "FINISHED", "FINISHED"]
    assert summary["rank"].tolist() == [3, 1, 2]
    assert measured.loc[measured["best"], "name"].tolist() == ["64-seed=1-relu-adam-deep"]
    assert summary["kept_val_accuracy_mean"].iloc[0] == pytest.approx(0.715)


def test_a_better_mean_that_lacks_a_seed_is_never_called_worse() -> None:
    unlucky = REPLICATED | {"32-relu-adam-deep": None}
    summary = summarise(tabulate(REPLICATES, unlucky))
    assert summary["difference_to_best"].iloc[0] > 0
    assert summary["verdict"].tolist() == ["lacks a seed", "best", "worse"]
    assert np.isnan(summary["p_value"].iloc[0])
    (_, ranking) = results.reading(summary, "validation")[-1]
    assert ranking == (
        "relu 64 adam has the best mean validation accuracy of those with all their seeds (★); 1 worse; "
        "1 with a seed missing, not compared (†): relu 32 adam; by Welch's t-tests, Holm-adjusted, at 5 %"
    )
    _, rows = results.cells(summary)
    assert [row[3] for row in rows] == ["†", "★", ""]
    table, _ = results.ranking(summary, "validation")
    assert table["verdict"].to_dict()["relu 32 adam"] == "lacks a seed"


def test_where_none_has_all_its_seeds_the_best_is_of_those_with_the_most() -> None:
    lost: dict[str, float | None] = {name: None for name in REPLICATED if "seed" not in name}
    lost["128-seed=1-relu-adam-deep"] = None
    summary = summarise(tabulate(REPLICATES, {**REPLICATED, **lost}))
    (_, ranking) = results.reading(summary, "validation")[-1]
    assert ranking == (
        "relu 32 adam has the best mean validation accuracy of those with 2 seeds (★); 1 untested (?); "
        "1 with a seed missing, not compared (†): relu 128 adam"
    )


def test_where_every_seed_failed_there_is_neither_rank_nor_number() -> None:
    names = [name for name in REPLICATED if name.startswith("128-")]
    summary = summarise(tabulate(REPLICATES, REPLICATED | dict.fromkeys(names)))
    assert summary["rank"].isna().tolist() == [False, False, True]
    _, rows = results.cells(summary)
    assert rows[2][3:6] == ["failed", "0", "–"]


def test_one_seed_shows_no_spread_and_says_what_it_cannot_show() -> None:
    summary = summarise(table([0.5, 0.7, 0.6, 0.1], [0.5] * 4))
    assert summary["kept_val_accuracy_sd"].isna().all()
    assert summary["verdict"].tolist() == ["untested", "best", *["untested"] * 2]
    headings, rows = results.cells(summary)
    assert not {"n", "rank"} & set(headings)
    assert not any("±" in cell or "?" in cell for row in rows for cell in row)
    ((topic, text),) = results.reading(summary, "validation")
    assert topic == "Seeds"
    assert text.startswith("one, so differences may be chance")


def test_two_seeds_show_a_spread_but_neither_an_interval_nor_a_verdict() -> None:
    summary = summarise(tabulate(REPLICATES | {"seed": "0,1"}, REPLICATED))
    assert summary["kept_val_accuracy_low"].isna().all()
    assert summary["verdict"].tolist() == ["best", "untested", "untested"]
    headings, rows = results.cells(summary)
    assert rows[0][headings.index("val acc.")] == "0.705 ± 0.007"
    account = dict(results.reading(summary, "validation"))
    assert account["Seeds"].startswith(
        "two, so there are no intervals, and differences may be chance"
    )
    assert account["Ranking"] == (
        "relu 32 adam has the best mean validation accuracy (★); 2 untested (?)"
    )


def test_an_interval_stays_where_its_measure_can_be() -> None:
    vals = {name: 0.90 + 0.049 * k for k, name in enumerate(REPLICATED) if k < 3}
    summary = summarise(tabulate(REPLICATES, vals))
    first = summary.iloc[0]
    assert first["kept_val_accuracy_mean"] == pytest.approx(0.949)
    assert first["kept_val_accuracy_high"] == 1
    assert first["kept_val_accuracy_low"] == pytest.approx(0.949 - 4.302653 * 0.049 / np.sqrt(3))
    assert first["test_loss_high"] == 1  # of three equal losses; losses have no upper bound


def test_a_cell_has_mean_spread_and_interval() -> None:
    headings, rows = results.cells(summarise(tabulate(REPLICATES, REPLICATED)))
    assert dict(zip(headings, rows[0], strict=True)) == {
        "activation": "relu",
        "batch": "32",
        "optimizer": "adam",
        "best": "★",
        "n": "3",
        "val acc.": "0.710 ± 0.010 (0.685–0.735)",
        "test acc.": "0.700 ± 0.010 (0.675–0.725)",
        "publ. acc.": "0.68",
        "test loss": "1.000 ± 0.000 (1.000–1.000)",
        "publ. loss": "1.355",
        "min": "1.5",
        "rank": "1",
    }


def test_of_many_configurations_the_best_are_shown_and_it_is_said() -> None:
    rates = ",".join(str(0.001 * k) for k in range(1, 31))
    factors = {
        "activation": "relu",
        "batch_size": "32",
        "optimizer": "adam",
        "learning_rate": rates,
    }
    trials = expand(GridParameters.model_validate(factors))
    summary = summarise(tabulate(factors, {t.name: float(t.learning_rate) * 20 for t in trials}))
    assert len(summary) == 30
    shown = results.top(summary)
    assert shown["rank"].tolist() == list(range(1, results.MOST + 1))
    assert len(results.cells(summary)[1]) == results.MOST
    topic, text = results.reading(summary, "validation")[0]
    assert (topic, text) == ("Shown", "the best 24 of 30 configurations; summary.csv has all")


def test_names_of_many_within_noise_are_cut_short() -> None:
    factors = {"optimizer": "adam,sgd,nadam,adamw", "seed": "0,1,2"}
    trials = expand(GridParameters.model_validate(factors))
    noisy = {trial.name: 0.5 + 0.01 * (-1) ** k for k, trial in enumerate(trials)}
    (_, ranking) = results.reading(summarise(tabulate(factors, noisy)), "validation")[-1]
    assert "23 within noise of it (≈): relu 32 nadam, relu 64 adam" in ranking
    assert ", 18 more; by Welch's t-tests" in ranking


def test_the_figure_of_a_ranking_has_the_best_first() -> None:
    names = [name for name in REPLICATED if "64" in name.split("-")]
    table, measure = results.ranking(
        summarise(tabulate(REPLICATES, REPLICATED | dict.fromkeys(names))), "validation"
    )
    assert list(table.index) == ["relu 32 adam", "relu 128 adam"]
    assert list(table.columns) == ["mean", "low", "high", "n", "verdict"]
    assert measure == "validation accuracy"


def test_layers_are_in_a_table_for_each_network_with_their_total() -> None:
    layers = pd.DataFrame(
        {
            "layer": ["Conv2D", "Dense"],
            "output_shape": ["30 x 30 x 16", "10"],
            "parameters": [448, 990],
        }
    )
    heading, text = results.layer_markdown({"small": layers})
    assert heading == "### small"
    rows = [line.strip("| ").split("&ensp; | ") for line in text.splitlines()]
    assert rows[0] == ["layer", "output shape", "parameters"]
    assert rows[2:] == [
        ["Conv2D", "30 x 30 x 16", "448"],
        ["Dense", "10", "990"],
        ["total", "", "1,438"],
    ]
