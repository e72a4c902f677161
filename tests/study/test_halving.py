import pytest

from cifar_mlflow.study.halving import going_on, planned_epochs, rung_sizes


def test_the_best_share_goes_on_in_the_order_of_its_numbers() -> None:
    accuracies = [0.1, 0.7, 0.2, 0.9, 0.3, 0.8, 0.4, 0.5, 0.6]
    assert going_on(accuracies, 3, 9) == [1, 3, 5]


def test_the_first_of_equals_goes_on() -> None:
    assert going_on([0.5, 0.6, 0.6, 0.6], 1, 2) == [1, 2]


def test_at_least_one_goes_on() -> None:
    assert going_on([0.5, 0.6], 1, 9) == [1]


def test_failed_trials_count_but_do_not_go_on() -> None:
    assert going_on([None, 0.0, None, 0.1, None, None], 1, 2) == [1, 3]
    assert going_on([None, None], 1, 2) == []


@pytest.mark.parametrize(
    ("trials", "stages", "sizes"),
    [(9, (3, 9, 27), [9, 3, 1]), (8, (3, 9, 27), [8, 2, 1]), (2, (3, 9, 27), [2, 1, 1])],
)
def test_how_many_reach_each_rung(trials: int, stages: tuple[int, ...], sizes: list[int]) -> None:
    assert rung_sizes(trials, stages) == sizes


def test_the_epochs_of_all_rounds_are_known_beforehand() -> None:
    whole = 9 * 3 + 3 * 6 + 1 * 18
    assert planned_epochs(18, 9, (3, 9, 27)) == 2 * whole
    assert planned_epochs(20, 9, (3, 9, 27)) == 2 * whole + 2 * 3 + 1 * 6 + 1 * 18
    assert planned_epochs(20, 8, (20,)) == 400
