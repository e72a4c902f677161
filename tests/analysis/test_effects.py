import math

import numpy as np
import pytest
from scipy import stats

from cifar_mlflow.analysis import effects
from tests.designs import FACTORS, PUBLISHED, additive, design, history


def test_main_effects_are_the_simulated_differences_the_largest_first() -> None:
    largest = effects.main_effects(design(additive), FACTORS)
    shown = [(e.factor, e.better, e.worse, round(e.difference.value, 9)) for e in largest]
    assert shown == [
        ("activation", "relu", "sigmoid", 0.2),
        ("optimizer", "adam", "sgd", 0.1),
        ("batch_size", "32", "128", 0.03),
    ]
    assert [effect.difference.n for effect in largest] == [6, 6, 4]
    assert largest[0].difference.low == pytest.approx(0.2)
    assert largest[0].difference.high == pytest.approx(0.2)


def test_with_one_seed_the_interval_is_over_the_other_settings() -> None:
    def accuracy(activation: str, batch_size: int, optimizer: str, seed: int) -> float:
        return (activation == "relu") * batch_size / 1000

    effect = effects.effect(design(accuracy), FACTORS, "activation", "relu", "sigmoid")
    differences = [0.032, 0.032, 0.064, 0.064, 0.128, 0.128]
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert effect.difference.low == pytest.approx(expected.low)
    assert effect.difference.high == pytest.approx(expected.high)
    assert effect.difference.n == 6


def test_with_several_seeds_the_interval_is_over_the_seeds() -> None:
    def accuracy(activation: str, batch_size: int, optimizer: str, seed: int) -> float:
        return (activation == "relu") * (batch_size / 1000 + 0.01 * seed)

    effect = effects.effect(design(accuracy, seeds=3), FACTORS, "activation", "relu", "sigmoid")
    mean = (0.032 + 0.064 + 0.128) / 3
    expected = stats.ttest_1samp([mean, mean + 0.01, mean + 0.02], 0).confidence_interval(0.95)
    assert effect.difference.low == pytest.approx(expected.low)
    assert effect.difference.n == 3


def test_two_values_give_no_interval() -> None:
    effect = effects.effect(design(additive, seeds=2), FACTORS, "activation", "relu", "sigmoid")
    assert effect.difference.n == 2
    assert math.isnan(effect.difference.low)
    assert not effect.difference.certain
    assert str(effect.difference) == "+0.200"


def test_a_missing_trial_costs_only_its_own_pairs() -> None:
    table = design(additive)
    table.loc[0, "test_accuracy"] = np.nan
    differences = {e.factor: e.difference for e in effects.main_effects(table, FACTORS)}
    assert differences["activation"].value == pytest.approx(0.2)
    assert differences["activation"].n == 5


def test_a_factor_without_two_comparable_levels_has_no_effect() -> None:
    table = design(additive)
    table.loc[table["activation"] == "sigmoid", "test_accuracy"] = np.nan
    assert [e.factor for e in effects.main_effects(table, FACTORS)] == ["optimizer", "batch_size"]


def test_an_interaction_is_the_change_of_an_effect() -> None:
    def accuracy(activation: str, batch_size: int, optimizer: str, seed: int) -> float:
        both = activation == "relu" and optimizer == "adam"
        return additive(activation, batch_size, optimizer, seed) - 0.08 * both

    table = design(accuracy)
    main = effects.main_effects(table, FACTORS)
    first, *others = effects.interactions(table, FACTORS, main)
    assert (first.effect.factor, first.by) == ("activation", "optimizer")
    assert first.simple["sgd"].value == pytest.approx(0.2)
    assert first.simple["adam"].value == pytest.approx(0.12)
    assert first.change.value == pytest.approx(0.08)
    assert [round(other.change.value, 9) for other in others] == [0, 0]


def test_the_published_interaction_is_large() -> None:
    main = effects.main_effects(PUBLISHED, FACTORS)
    first = effects.interactions(PUBLISHED, FACTORS, main)[0]
    assert first.simple["sgd"].value == pytest.approx((0.56 + 0.53 + 0.42) / 3)
    assert first.simple["adam"].value == pytest.approx((0.08 + 0.11 + 0.16) / 3)


def test_shares_of_variance_are_those_of_an_analysis_of_variance() -> None:
    shares = effects.variance_shares(design(additive), FACTORS)
    assert shares is not None
    assert sum(shares.values()) == pytest.approx(1)
    between = [0.1**2, 0.05**2, float(np.var([32 / 3200, 64 / 3200, 128 / 3200]))]
    for factor, variance in zip(("activation", "optimizer", "batch_size"), between):
        assert shares[(factor,)] == pytest.approx(variance / sum(between))
    assert shares[("activation", "optimizer")] == pytest.approx(0)


def test_shares_of_variance_are_left_out_of_an_incomplete_or_constant_design() -> None:
    table = design(additive)
    assert effects.variance_shares(table.iloc[1:], FACTORS) is None
    assert effects.variance_shares(table.assign(test_accuracy=0.1), FACTORS) is None


def test_late_gains_compare_the_last_quarter_with_the_one_before() -> None:
    rising = history([0.1] * 4 + [0.2, 0.2, 0.4, 0.4], [0.1] * 6 + [0.3, 0.2], [2.0] * 7 + [1.5])
    fallen = history([0.1] * 8, [0.1, 0.5, *[0.3] * 4, 0.2, 0.2], [1.0, 0.5, *[1.0] * 6])
    short = history([0.1], [0.1], [2.0])
    gains = effects.late_gains({"rising": rising, "fallen": fallen, "short": short})
    assert list(gains.index) == ["rising", "fallen"]
    assert gains["train_gain"].tolist() == pytest.approx([0.2, 0])
    assert gains["val_gain"].tolist() == pytest.approx([0.15, -0.1])
    assert gains["best_epoch"].tolist() == [7, 2]
    assert gains["loss_rise"].tolist() == pytest.approx([0, 0.5])


def test_late_gains_of_a_trial_without_validation_are_those_of_training() -> None:
    nothing = [float("nan")] * 4
    gains = effects.late_gains({"all images": history([0.1, 0.2, 0.3, 0.5], nothing, nothing)})
    assert gains["train_gain"].tolist() == pytest.approx([0.2])
    assert gains[["val_gain", "best_epoch", "loss_rise"]].isna().all(axis=None)
