import pytest

from cifar_mlflow import formatting
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.parameters import StudyOptions
from cifar_mlflow.study import plan


def shares(trials: int, **options: object) -> tuple[int, int]:
    return plan.share_cores(trials, StudyOptions.model_validate(options))


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)


def test_each_core_gets_a_worker_with_one_thread() -> None:
    assert shares(12) == (8, 1)


def test_cores_that_no_trial_needs_become_threads() -> None:
    assert shares(3) == (3, 2)
    assert shares(1) == (1, 8)


def test_workers_and_threads_can_be_chosen() -> None:
    assert shares(12, workers="2") == (2, 4)
    assert shares(12, workers="2", threads="1") == (2, 1)
    assert shares(12, threads="4") == (8, 4)
    assert shares(2, workers="16") == (2, 4)


def test_a_plan_tells_configurations_and_seeds_where_there_are_several() -> None:
    one, two = (
        [TrialConfig(batch_size=size, seed=seed) for size in (32, 64) for seed in range(seeds)]
        for seeds in (1, 2)
    )
    assert plan.outline(one, 2, 1).startswith("2 trials, 40 epochs in all")
    assert plan.outline(two, 2, 1).startswith("4 trials (2 configurations x 2 seeds), 80 epochs")
    alone, again = ([TrialConfig(epochs=1, seed=seed) for seed in range(seeds)] for seeds in (1, 2))
    assert plan.outline(alone, 2, 1).startswith("1 trial, 1 epoch in all")
    assert plan.outline(again, 2, 1).startswith("2 trials (1 configuration x 2 seeds), 2 epochs")


def test_cost_grows_with_epochs_and_network() -> None:
    once, twice = (plan.operations(TrialConfig(epochs=epochs)) for epochs in (1, 2))
    assert twice == 2 * once
    assert plan.operations(TrialConfig(architecture="small")) < plan.operations(TrialConfig())


def test_an_epoch_of_the_deep_network_costs_about_a_teraflop() -> None:
    # Counted apart: 1.03e12 in training 40,000 images, and a third of that for each image validated.
    assert plan.operations(TrialConfig(epochs=1)) == pytest.approx(1.03e12 * (1 + 1 / 12), rel=0.1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59, "59 s"), (100, "2 min"), (1980, "33 min"), (12_600, "3.5 h")],
)
def test_durations_are_in_units_that_a_person_plans_with(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_what_is_left_counts_only_the_epochs_that_are_not_done() -> None:
    trials = [TrialConfig(seed=seed) for seed in range(3)]
    done = {trials[0].key: 20, trials[1].key: 5}
    assert plan.remainder(trials, done).startswith("2 trials, 35 epochs left, about ")
    assert plan.remainder(trials[:2], done).startswith("1 trial, 15 epochs left, about ")
    assert plan.remainder(trials[:1], done) == "nothing left to train"
