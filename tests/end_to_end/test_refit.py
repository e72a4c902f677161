"""A study whose best trial is trained again on all images, killed during that and run again."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import pytest
from mlflow.entities import Run

from cifar_mlflow import evaluate
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.errors import UsageError
from cifar_mlflow.parameters import GridParameters, expand
from tests.end_to_end.conftest import QUICK, Alone, User, outcome, shown_by

GRID = QUICK | {"activation": "relu", "batch_size": "32", "optimizer": "sgd,adam", "threads": "1"}
GRID |= {"workers": "1", "refit": "true"}


@dataclass(frozen=True)
class Refitted:
    user: User
    shown: str  # by the second command

    @property
    def study(self) -> Run:
        return self.user.runs("tags.kind = 'grid'")[-1]

    @property
    def best(self) -> Run:
        return self.user.client.get_run(self.study.data.tags["best_run_id"])

    @property
    def refit(self) -> Run:
        return self.user.runs("tags.kind = 'refit'")[-1]


@pytest.fixture(scope="module")
def refitted(new_user: Callable[[], User]) -> Refitted:
    user = new_user().held_after(epoch=1, name="validation_fraction=0.0")  # in the refit only
    refitting = "tags.kind = 'refit' and metrics.epoch >= 1"
    grid = user.script("grid", GRID)
    process = user.start(grid, lambda: bool(user.runs(refitting)))
    process.kill()
    shown_by(process)
    user.open_gate()
    done = user.finish(grid)
    assert done.returncode == 0, done.stdout
    return Refitted(user, done.stdout)


def test_the_refit_goes_on_and_ends_as_if_it_was_left_alone(
    refitted: Refitted, alone: Alone
) -> None:
    assert "2 of 2 finished, 0 part-done; nothing left to train" in refitted.shown
    assert "1 trial, 1 epoch left" in refitted.shown
    begun, refit = refitted.user.runs("tags.kind = 'refit'")
    assert (begun.info.status, refit.info.status) == ("KILLED", "FINISHED")
    assert refit.data.tags["resumed_from"] == begun.info.run_id
    trials = {trial.name: trial for trial in expand(GridParameters.model_validate(GRID))}
    best = trials[refitted.study.data.tags["best_trial"]]
    assert outcome(refit) == alone(best.on_all_images)


def test_the_best_trial_is_trained_again_without_validation(refitted: Refitted) -> None:
    user, refit, best = refitted.user, refitted.refit, refitted.best
    assert refit.data.tags["mlflow.parentRunId"] == refitted.study.info.run_id
    assert refit.data.tags["refit_of"] == best.info.run_id
    assert refitted.study.data.tags["refit_run_id"] == refit.info.run_id
    assert refit.data.params["optimizer"] == best.data.params["optimizer"]
    assert float(refit.data.params["validation_fraction"]) == 0
    assert not [name for name in refit.data.metrics if "val" in name]
    assert {"trial_key", "data_digest"} <= refit.data.tags.keys()
    assert {"curves.png", "predictions.parquet"} <= user.artifacts(refit)
    assert "checkpoint" not in user.artifacts(refit)


def test_the_refit_is_none_of_the_candidates(refitted: Refitted) -> None:
    table = pd.read_csv(refitted.user.read(refitted.study, "results.csv"))
    finished = "tags.kind = 'trial' and attributes.status = 'FINISHED'"
    assert set(table["run_id"]) == {run.info.run_id for run in refitted.user.runs(finished)}
    assert len(table) == 2


def test_the_refit_is_registered_with_the_validation_accuracy_of_its_twin(
    refitted: Refitted,
) -> None:
    best, refit = refitted.best, refitted.refit
    version = refitted.user.client.get_model_version_by_alias("cifar10-cnn", "champion")
    assert version.run_id == refit.info.run_id
    assert float(version.tags["test_accuracy"]) == refit.data.metrics["test_accuracy"]
    twins = best.data.metrics["kept_val_accuracy"]
    assert float(version.tags["kept_val_accuracy"]) == twins
    assert (version.tags["validation_fraction"], version.tags["refit_of"]) == (
        "0.2",
        best.info.run_id,
    )
    description = refitted.study.data.tags["mlflow.note.content"]
    said = f"validation accuracy {twins:.4f} (of its twin, run {best.info.run_id}, which was"
    for text in (version.description or "", description, refitted.shown):
        assert said in text.replace("Validation", "validation")


@pytest.mark.usefixtures("tensorflow")
def test_a_refit_cannot_be_evaluated_on_images_that_trained_it(
    refitted: Refitted, small_cifar10: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = refitted.user.environment["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = evaluate.find_model(refitted.refit.info.run_id, small_cifar10, threads=1)
    with pytest.raises(UsageError, match="was trained on all training images; use part=test"):
        evaluate.choose_images("validation", small_cifar10, [model])
