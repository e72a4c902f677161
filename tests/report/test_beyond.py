"""The chapter beyond the paper, of reports built by hand."""

import math

import pandas as pd
import pytest

from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST
from cifar_mlflow.parameters import GridParameters, expand
from cifar_mlflow.report import conclusions
from cifar_mlflow.report.beyond import beyond, front
from cifar_mlflow.report.collect import ReportData, Study
from cifar_mlflow.store.runs import TrackedRun
from tests.stores import tracked

GRID = GridParameters.model_validate({"activation": "relu", "batch_size": "32,64"})  # four trials


def trial(name: str, accuracy: float, pflop: float | None, val: float | None = 0.5) -> TrackedRun:
    measured = {
        "test_accuracy": accuracy,
        "train_pflop": pflop,
        "kept_val_accuracy": val,
        "train_seconds": 90.0,
    }
    known = {metric: value for metric, value in measured.items() if value is not None}
    return tracked(name, name, metrics=known)


def report(
    *others: TrackedRun, pflop: float | None = 0.03, digest: str = CIFAR10_DIGEST
) -> ReportData:
    """A report on a grid of four trials, with others in the same experiment."""
    trials = expand(GRID)
    runs = {t.key: trial(t.name, 0.6 + i / 100, pflop) for i, t in enumerate(trials)}
    study = Study(tracked("grid", kind="grid", data_digest=digest), trials, runs, {})
    return ReportData(
        experiment="Default",
        data=None,
        class_examples=None,
        architectures=None,
        networks={},
        grid=study,
        top_models=[],
        champion="",
        trials=[*others, *runs.values()],
    )


def test_the_front_has_the_trials_that_none_beats_at_their_compute_or_less() -> None:
    points = [("b", 2, 0.6), ("a", 1, 0.5), ("dear", 3, 0.6), ("poor", 2, 0.5), ("again", 2, 0.6)]
    trials = pd.DataFrame([*points, ("c", 4, 0.7)], columns=["name", "pflop", "test_accuracy"])
    assert list(front(trials)["name"]) == ["a", "b", "c"]


def test_the_front_is_compared_with_the_whole_grid() -> None:
    shown = beyond(report(trial("strong", 0.93, 6.0), trial("weak", 0.5, 1.0)))
    best_of_grid, strong = shown["front"]
    assert best_of_grid["name"] == expand(GRID)[3].name
    assert best_of_grid["of_grid"] == 1 / 4
    assert strong["of_grid"] == pytest.approx(50)
    assert strong["minutes"] == 1.5
    assert shown["conclusion"] == (
        "Of 6 trials, strong has the highest test accuracy, 0.930, and took 6.00 PFLOP, 50.0 times "
        "what the whole grid took. That is +0.230 from the paper’s best, 0.70; 1 trial exceeds it, "
        "with 6.00 PFLOP."
    )
    assert shown["train_more"] is None
    assert shown["left_out"] == 0


def test_a_trial_of_another_study_that_equals_one_of_the_grid_does_not_replace_it() -> None:
    (point,) = beyond(report(trial("twin", 0.63, 0.03)))["front"]
    assert point["name"] == expand(GRID)[3].name


def test_a_grid_alone_is_shown_with_the_command_that_goes_beyond_it() -> None:
    shown = beyond(report())
    assert len(shown["front"]) == 1
    assert shown["train_more"] == "mlflow run . -e train -P recipe=strong --env-manager local"
    assert "no trial exceeds it" in shown["conclusion"]


def test_trials_without_their_compute_are_left_out_and_counted() -> None:
    shown = beyond(report(trial("strong", 0.93, 6.0), trial("old", 0.99, None), pflop=None))
    assert shown["left_out"] == 5
    (strong,) = shown["front"]
    assert math.isnan(strong["of_grid"])
    assert "whole grid" not in shown["conclusion"]
    nothing = beyond(report(pflop=None))
    assert nothing["figure"] is None
    assert nothing["left_out"] == 4
    assert nothing["train_more"]


def test_a_model_without_validation_images_has_no_validation_accuracy() -> None:
    shown = beyond(report(trial("refit", 0.93, 6.0, val=None)))
    assert math.isnan(shown["front"][-1]["val_accuracy"])


def test_other_data_is_not_compared_with_the_published_accuracy() -> None:
    shown = beyond(report(trial("strong", 0.93, 6.0), digest="other"))
    assert "published" not in shown["figure"].content
    assert shown["conclusion"].endswith("50.0 times what the whole grid took.")


def test_the_figure_says_in_words_what_it_shows() -> None:
    figure = beyond(report(trial("strong", 0.93, 6.0)))["figure"]
    assert "5 trials. On the front: " in figure.content
    assert "; strong, 6.00 PFLOP, 0.930." in figure.content
    assert "the best published test accuracy, 0.70." in figure.content


def test_a_conclusion_counts_the_trials_above_the_published_accuracy() -> None:
    table = pd.DataFrame(
        [("a", 1.0, 0.7), ("b", 2.0, 0.71), ("c", 3.0, 0.9)],
        columns=["name", "pflop", "test_accuracy"],
    )
    text = conclusions.on_compute(table, math.nan, official=True)
    assert text == (
        "Of 3 trials, c has the highest test accuracy, 0.900, and took 3.00 PFLOP. That is +0.200 "
        "from the paper’s best, 0.70; 2 trials exceed it, the cheapest with 2.00 PFLOP."
    )
