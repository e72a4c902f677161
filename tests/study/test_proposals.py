"""What a search proposes: a function of its space, its sampler and the outcomes of earlier rounds."""

from collections.abc import Callable

import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.errors import UsageError
from cifar_mlflow.parameters import SearchParameters
from cifar_mlflow.space import Space
from cifar_mlflow.study import proposals
from cifar_mlflow.study.proposals import Outcome, Proposals, check_sampler

Learn = Callable[[TrialConfig], Outcome]


def space(**texts: str) -> Space:
    return SearchParameters.model_validate(texts).space


def complete(trial: TrialConfig) -> Outcome:
    """Better, the smaller the learning rate."""
    assert isinstance(trial.learning_rate, float)
    accuracy = 1 - 5 * trial.learning_rate
    return Outcome(trial, {1: accuracy}, accuracy)


def failed(trial: TrialConfig) -> Outcome:
    return Outcome(trial, {}, None)


def rounds(
    count: int,
    learn: Learn = complete,
    sampler: str = "tpe",
    seed: int = 0,
    of: Space | None = None,
) -> list[list[TrialConfig]]:
    """The proposals of some rounds of six trials."""
    search = Proposals(of or space(), sampler, seed)
    proposed = []
    for _ in range(count):
        proposed.append(search.propose(6))
        search.learn([learn(trial) for trial in proposed[-1]])
    return proposed


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_outcomes_make_the_same_proposals(sampler: str) -> None:
    assert rounds(4, sampler=sampler) == rounds(4, sampler=sampler)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_another_seed_makes_other_proposals(sampler: str) -> None:
    assert rounds(1, sampler=sampler) != rounds(1, sampler=sampler, seed=1)


def test_rounds_of_random_proposals_differ() -> None:
    first, second = rounds(2, sampler="random")
    assert not {trial.key for trial in first} & {trial.key for trial in second}


def rates(trials: list[TrialConfig]) -> list[float]:
    return sorted(float(trial.learning_rate) for trial in trials)


def test_the_sampler_learns_what_is_good() -> None:
    *_, last = rounds(6)
    *_, by_chance = rounds(6, sampler="random")
    assert sum(rates(last)) < sum(rates(by_chance)) / 2


def test_the_sampler_learns_what_fails() -> None:
    def fails_if_large(trial: TrialConfig) -> Outcome:
        return failed(trial) if float(trial.learning_rate) > 0.001 else stopped(trial)

    def stopped(trial: TrialConfig) -> Outcome:
        return Outcome(trial, {1: 0.5}, None)

    *_, last = rounds(8, fails_if_large)
    assert len([rate for rate in rates(last) if rate <= 0.001]) >= 4


def test_a_sampler_gets_the_best_trials_and_the_latest_ones_however_many_there_are() -> None:
    of = space()
    (trial,) = Proposals(of, "random", 0).propose(1)
    search = Proposals(of, "tpe", 0)
    accuracies = [0.5] * 300
    accuracies[7] = accuracies[60] = 0.9
    search.learn([Outcome(trial, {1: 0.99}, None)])  # stopped, so behind all complete ones
    search.learn([Outcome(trial, {1: each}, each) for each in accuracies])
    told = [each.value for each in proposals.told(search.learned)]
    assert len(told) == proposals.BEST_TOLD + proposals.LATEST_TOLD
    assert told[: proposals.BEST_TOLD].count(0.9) == 2
    assert set(told) == {0.5, 0.9}
    assert proposals.told(search.learned[:100]) == search.learned[:100]


def test_a_number_has_four_digits_and_stays_in_its_range() -> None:
    narrow = space(learning_rate="0.0123456..0.0123567", batch_size="32", optimizer="sgd")
    for trial, *_ in rounds(2, of=narrow):
        assert 0.0123456 <= float(trial.learning_rate) <= 0.0123567
    for trial in rounds(1)[0]:
        assert float(f"{trial.learning_rate:.4g}") == trial.learning_rate


def test_whole_numbers_are_proposed_where_the_field_is_one() -> None:
    sizes = space(batch_size="log:16..128")
    assert all(16 <= trial.batch_size <= 128 for trial in rounds(1, of=sizes)[0])


def test_nothing_is_proposed_twice_and_a_finite_space_comes_to_its_end() -> None:
    small = space(batch_size="32,64", optimizer="sgd,adam", learning_rate="0.1,0.01,0.001,0.0001")
    proposed = rounds(4, of=small)
    assert [len(trials) for trials in proposed] == [6, 6, 4, 0]
    assert len({trial.key for trials in proposed for trial in trials}) == small.size


def test_a_space_comes_to_its_end_though_some_of_it_is_hardly_ever_drawn() -> None:
    sizes = space(batch_size="log:1..60", optimizer="sgd", learning_rate="0.1")
    search = Proposals(sizes, "random", seed=0)
    proposed = [trial for _ in range(8) for trial in search.propose(8)]
    assert sorted(trial.batch_size for trial in proposed) == list(range(1, 61))


def test_chance_does_not_draw_the_same_numbers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time that a sampler finds nothing new."""
    monkeypatch.setattr(proposals, "TRIES", 0)
    monkeypatch.setattr(proposals, "MOST_TRIES", 1)
    monkeypatch.setattr(Space, "configurations", lambda self: iter(()))
    search = Proposals(space(batch_size="1..1000000", optimizer="sgd"), "tpe", seed=0)
    assert len(search.propose(8)) == 8


def test_a_gaussian_process_without_torch_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proposals, "find_spec", lambda name: None)
    check_sampler("tpe")
    with pytest.raises(
        UsageError, match=r"^sampler=gp: torch is not installed; pip install torch$"
    ):
        check_sampler("gp")
