import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.errors import DONE, UsageError
from cifar_mlflow.parameters import GridParameters, SearchParameters, StudyOptions, expand
from cifar_mlflow.study import command, plan
from tests.conftest import PROJECT, Screen


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


@pytest.mark.parametrize("page", ["README.md", "docs/search.md"])
def test_the_plan_of_a_search_is_as_documented(
    page: str, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    monkeypatch.setattr(plan, "gpus", lambda: 0)
    given = {"architecture": "small", "rungs": "1,3,9", "trials": "36", "dry_run": "true"}
    shown = screen()
    assert command.plan_or_search(SearchParameters.model_validate(given)) == DONE
    assert f"```text\n{shown.getvalue()}```" in (PROJECT / page).read_text()


def planned(epochs: int, sizes: tuple[int, ...], seeds: int) -> str:
    trials = [
        TrialConfig(epochs=epochs, batch_size=size, seed=seed)
        for size in sizes
        for seed in range(seeds)
    ]
    return plan.outline(trials, 2, 1)


def test_a_plan_says_how_many_trials_and_epochs_there_are() -> None:
    assert planned(20, (32, 64), 1) == "2 trials, 40 epochs in all, workers x threads 2 x 1"
    assert planned(1, (32,), 1).startswith("1 trial, 1 epoch in all, ")


def test_a_plan_says_configurations_and_seeds_where_there_are_several() -> None:
    assert planned(20, (32, 64), 2).startswith("4 trials (2 configurations x 2 seeds), 80 epochs")
    assert planned(1, (32,), 2).startswith("2 trials (1 configuration x 2 seeds), 2 epochs")


def test_what_is_left_counts_only_the_epochs_that_are_not_done() -> None:
    trials = [TrialConfig(seed=seed) for seed in range(3)]
    done = {trials[0].key: 20, trials[1].key: 5}
    assert plan.remainder(trials, done) == "2 trials, 35 epochs left"
    assert plan.remainder(trials[:2], done) == "1 trial, 15 epochs left"
    assert plan.remainder(trials[:1], done) == "nothing left to train"


@pytest.mark.parametrize("fractions", ["0", "0,0.2"])
def test_a_plan_is_refused_if_there_is_nothing_to_choose_by(fractions: str) -> None:
    given = {"validation_fraction": fractions}
    by_validation = GridParameters.model_validate(given)
    by_test = GridParameters.model_validate(given | {"select_by": "test"})
    with pytest.raises(UsageError, match=r"^validation_fraction=0: .* or select_by=test$"):
        plan.check_choice(expand(by_validation), by_validation)
    plan.check_choice(expand(by_test), by_test)


@pytest.mark.parametrize(
    ("given", "named"),
    [({"keep": "last,best"}, "keep"), ({"validation_fraction": "0"}, "validation_fraction=0")],
)
def test_a_refit_is_refused_of_trials_that_it_would_not_train_alike(
    given: dict[str, str], named: str
) -> None:
    options = GridParameters.model_validate(given | {"refit": "true", "select_by": "test"})
    with pytest.raises(UsageError, match=f"^refit=true: .*{named}"):
        plan.check_choice(expand(options), options)
