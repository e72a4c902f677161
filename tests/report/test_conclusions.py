import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cifar_mlflow import formatting
from cifar_mlflow.analysis import effects
from cifar_mlflow.analysis.metrics import per_class, prediction_table
from cifar_mlflow.analysis.statistics import Estimate
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.paper import CONFUSION, GRID
from cifar_mlflow.report import conclusions
from cifar_mlflow.report.conclusions import Conclusion, Evidence, Verdict

FACTORS = ["activation", "batch_size", "optimizer"]
PUBLISHED = pd.DataFrame(
    [(*setting, 0, numbers.accuracy) for setting, numbers in GRID.items()],
    columns=[*FACTORS, "seed", "test_accuracy"],
)


def design(accuracy: Callable[..., float], seeds: int = 1) -> pd.DataFrame:
    """A complete 2 x 3 x 2 design, replicated, with the accuracy as a function of its levels."""
    levels = (("relu", "sigmoid"), (32, 64, 128), ("sgd", "adam"), range(seeds))
    rows = [(*setting, accuracy(*setting)) for setting in itertools.product(*levels)]
    return pd.DataFrame(rows, columns=[*FACTORS, "seed", "test_accuracy"])


def additive(activation: str, batch_size: int, optimizer: str, seed: int) -> float:
    return 0.5 + 0.2 * (activation == "relu") + 0.1 * (optimizer == "adam") - batch_size / 3200


def parts(conclusion: Conclusion) -> list[bool | None]:
    return [part.holds for part in conclusion.evidence if not part.aside]


def test_main_effects_are_the_differences_put_in_the_largest_first() -> None:
    largest = effects.main_effects(design(additive), FACTORS)
    found = [(e.factor, e.better, e.worse, round(e.difference.value, 9)) for e in largest]
    assert found == [
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


def test_two_values_make_no_interval() -> None:
    effect = effects.effect(design(additive, seeds=2), FACTORS, "activation", "relu", "sigmoid")
    assert effect.difference.n == 2
    assert math.isnan(effect.difference.low)
    assert not effect.difference.certain
    assert str(effect.difference) == "+0.200"


def test_a_missing_trial_costs_only_its_own_pairs() -> None:
    table = design(additive)
    table.loc[0, "test_accuracy"] = np.nan
    found = {e.factor: e.difference for e in effects.main_effects(table, FACTORS)}
    assert found["activation"].value == pytest.approx(0.2)
    assert found["activation"].n == 5


def test_a_factor_without_two_comparable_levels_has_no_effect() -> None:
    table = design(additive)
    table.loc[table["activation"] == "sigmoid", "test_accuracy"] = np.nan
    assert [e.factor for e in effects.main_effects(table, FACTORS)] == ["optimizer", "batch_size"]


def test_an_interaction_is_the_change_of_an_effect() -> None:
    def accuracy(activation: str, batch_size: int, optimizer: str, seed: int) -> float:
        both = activation == "relu" and optimizer == "adam"
        return additive(activation, batch_size, optimizer, seed) - 0.08 * both

    table = design(accuracy)
    found = effects.main_effects(table, FACTORS)
    first, *others = effects.interactions(table, FACTORS, found)
    assert (first.effect.factor, first.by) == ("activation", "optimizer")
    assert first.simple["sgd"].value == pytest.approx(0.2)
    assert first.simple["adam"].value == pytest.approx(0.12)
    assert first.change.value == pytest.approx(0.08)
    assert [round(other.change.value, 9) for other in others] == [0, 0]


def test_the_published_interaction_is_large() -> None:
    found = effects.main_effects(PUBLISHED, FACTORS)
    first = effects.interactions(PUBLISHED, FACTORS, found)[0]
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


def history(train: list[float], val: list[float], loss: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epoch": range(1, len(val) + 1),
            "train_accuracy": train,
            "val_accuracy": val,
            "val_loss": loss,
        }
    )


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


def test_a_verdict_agrees_only_where_every_part_is_shown() -> None:
    def verdict(*holds: bool | None) -> Verdict:
        parts = [Evidence("part", each) for each in holds]
        return conclusions.conclude(
            "claim", *parts, Evidence("by the way", False, aside=True)
        ).verdict

    assert verdict(True, True) == Verdict.AGREES
    assert verdict(True, None) == Verdict.IN_PART
    assert verdict(True, False) == Verdict.IN_PART
    assert verdict(False, None) == Verdict.DISAGREES
    assert verdict(False) == Verdict.DISAGREES
    assert verdict(None) == Verdict.OPEN


def test_epochs_help_in_most_cases_or_not() -> None:
    up = history([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], [2.0, 1.9, 1.8, 1.7])
    over = history([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.3], [1.0, 0.9, 0.8, 1.0])
    agrees = conclusions.on_epochs(effects.late_gains({"a": up, "b": up, "c": over}))
    assert agrees.verdict == Verdict.AGREES
    assert "validation accuracy in 2 of 3 trials" in agrees.evidence[1].text
    assert "In 1 of 3 trials the validation loss" in agrees.evidence[2].text
    part = conclusions.on_epochs(effects.late_gains({"a": up, "b": over, "c": over}))
    assert parts(part) == [True, False]
    assert conclusions.on_epochs(effects.late_gains({})).verdict == Verdict.OPEN


def test_the_published_grid_does_not_show_which_factor_matters_most() -> None:
    conclusion = conclusions.on_factors(PUBLISHED, FACTORS)
    assert parts(conclusion) == [True, True, None, None]
    assert conclusion.verdict == Verdict.IN_PART
    assert "relu is better than sigmoid by +0.310" in conclusion.evidence[0].text
    assert "+0.503" in conclusion.evidence[4].text  # with sgd


def test_factors_that_matter_as_claimed_agree_and_the_reverse_disagrees() -> None:
    assert conclusions.on_factors(design(additive, seeds=3), FACTORS).verdict == Verdict.AGREES

    def reverse(activation: str, batch_size: int, optimizer: str, seed: int) -> float:
        return 0.1 * (activation == "sigmoid") + 0.2 * (optimizer == "sgd") + batch_size / 100

    reversed_design = design(reverse, seeds=3)
    assert parts(conclusions.on_factors(reversed_design, FACTORS)) == [False, False, False, False]


def test_a_batch_size_that_may_matter_as_much_as_the_optimizer_is_not_the_least() -> None:
    """Its effect is smaller than the optimizer's with one seed, and larger with the next."""

    def even(activation: str, batch_size: int, optimizer: str, seed: int) -> float:
        batch = {32: 0.06, 64: 0.03, 128: 0.0}[batch_size] * (0.8 + 0.15 * seed)
        return 0.4 + 0.2 * (activation == "relu") + 0.06 * (optimizer == "adam") + batch

    conclusion = conclusions.on_factors(design(even, seeds=3), FACTORS)
    assert parts(conclusion) == [True, True, True, None]
    assert "Whether the batch size matters least is not certain." in conclusion.evidence[3].text


def test_two_seeds_decide_nothing_about_factors() -> None:
    assert conclusions.on_factors(design(additive, seeds=2), FACTORS).verdict == Verdict.OPEN


def test_factors_that_were_not_varied_tell_nothing() -> None:
    table = design(additive).query("optimizer == 'adam'")
    conclusion = conclusions.on_factors(table, ["activation", "batch_size"])
    assert conclusion.verdict == Verdict.OPEN
    assert "optimizer" in conclusion.evidence[0].text


def networks(**accuracies: list[float]) -> pd.DataFrame:
    rows = [
        (name, seed, value)
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["architecture", "seed", "test_accuracy"])


def predictions(right: int, images: int = 1000) -> pd.DataFrame:
    labels = np.arange(images, dtype=np.uint8) % 10
    taken = np.where(np.arange(images) < right, labels, (labels + 1) % 10)
    return prediction_table(np.eye(10, dtype=np.float32)[taken], labels)


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_do_not_tell_the_best_network(seeds: int) -> None:
    table = networks(small=[0.5] * seeds, wide=[0.6] * seeds, deep=[0.9] * seeds)
    shown = {"wide": predictions(600), "deep": predictions(900)}
    conclusion = conclusions.on_architectures(table, shown)
    assert conclusion.verdict == Verdict.OPEN
    claim, aside = conclusion.evidence
    assert "deep less wide is +0.300. With" in claim.text
    assert aside.aside
    assert "deep less wide: accuracy +30.00 points (95 % interval " in aside.text
    assert "McNemar" in aside.text
    assert len(conclusions.on_architectures(table, {}).evidence) == 1


def test_several_seeds_tell_the_best_network_by_themselves() -> None:
    deep = networks(small=[0.6] * 3, wide=[0.63, 0.62, 0.64], deep=[0.67, 0.66, 0.68])
    assert conclusions.on_architectures(deep, {}).verdict == Verdict.AGREES
    wide = networks(small=[0.6] * 3, wide=[0.70, 0.71, 0.72], deep=[0.67, 0.66, 0.68])
    assert conclusions.on_architectures(wide, {}).verdict == Verdict.DISAGREES
    noise = networks(small=[0.6] * 3, wide=[0.63, 0.70, 0.64], deep=[0.67, 0.66, 0.68])
    assert conclusions.on_architectures(noise, {}).verdict == Verdict.OPEN
    behind = networks(small=[0.7] * 3, wide=[0.70, 0.71, 0.69], deep=[0.50, 0.51, 0.52])
    assert conclusions.on_architectures(behind, {}).verdict == Verdict.DISAGREES


def test_networks_are_compared_in_the_seeds_and_settings_that_all_three_have() -> None:
    """A network that lost its worst trial is not the better for it."""
    nan = math.nan
    lost = networks(small=[0.6] * 4, wide=[0.70, 0.71, 0.69, nan], deep=[0.72, 0.73, 0.71, 0.1])
    conclusion = conclusions.on_architectures(lost, {})
    assert conclusion.verdict == Verdict.AGREES
    assert "deep 0.720, wide 0.700, small 0.600" in conclusion.evidence[0].text
    apart = networks(small=[0.6, nan], wide=[0.6, nan], deep=[nan, 0.7])
    assert conclusions.on_architectures(apart, {}).verdict == Verdict.OPEN
    seeds = pd.concat([lost.assign(optimizer=name) for name in ("sgd", "adam")])
    factors = ["architecture", "optimizer"]
    one = conclusions.on_architectures(seeds[seeds["seed"] == 0], {}, factors)
    assert one.verdict == Verdict.OPEN  # settings are no seeds
    assert conclusions.on_architectures(seeds, {}, factors).verdict == Verdict.AGREES


def test_networks_that_are_missing_are_named() -> None:
    assert conclusions.on_architectures(None, {}).verdict == Verdict.OPEN
    conclusion = conclusions.on_architectures(networks(small=[0.6], deep=[math.nan]), {})
    assert conclusion.verdict == Verdict.OPEN
    assert conclusion.evidence[0].text == "Not finished: deep, wide."


def confusion(counts: object) -> pd.DataFrame:
    index = pd.Index(CLASSES, name="true")
    return pd.DataFrame(np.array(counts), index, pd.Index(CLASSES, name="predicted"))


def test_the_published_tables_bear_out_the_pairs_but_not_the_classes() -> None:
    conclusion = conclusions.on_classes(confusion(CONFUSION))
    cats, birds, best, _ = conclusion.evidence
    assert "mistaken for each other 334 times, rank 1;" in cats.text
    assert "mistaken for each other 178 times, rank 2;" in birds.text
    assert cats.holds is True
    assert "Best known, by F1: automobile 0.82, ship 0.80, truck 0.79" in best.text
    assert "worst: cat 0.52" in best.text
    assert best.holds is not True


def test_classes_that_are_clearly_otherwise_disagree() -> None:
    counts = np.full((10, 10), 5) + np.diag([900] * 8 + [100] * 2)
    counts[0, 8] += 300
    counts[1, 9] += 300
    counts[2, 6] += 300
    assert parts(conclusions.on_classes(confusion(counts))) == [False, False, False]


def test_pairs_that_are_never_confused_are_not_the_most_confused() -> None:
    perfect = np.diag([100] * 10)
    cats, birds, best, _ = conclusions.on_classes(confusion(perfect)).evidence
    assert (cats.holds, birds.holds, best.holds) == (False, False, False)
    assert "mistaken for each other 0 times, rank 45;" in cats.text
    even = perfect.copy()
    even[3, 5] = even[8, 9] = 50  # cat for dog, ship for truck
    assert "50 times, rank 2;" in conclusions.on_classes(confusion(even)).evidence[0].text


def test_resamples_have_the_images_of_the_original() -> None:
    counts = np.array(CONFUSION)
    again = conclusions.resample(counts, times=50)
    assert again.shape == (50, 10, 10)
    assert (again.sum(axis=(1, 2)) == 10_000).all()
    np.testing.assert_allclose(again.mean(axis=0), counts, atol=5 * np.sqrt(counts.max() / 50))
    np.testing.assert_array_equal(again, conclusions.resample(counts, times=50))


def test_f1_scores_are_those_of_the_report() -> None:
    counts = confusion(CONFUSION)
    np.testing.assert_allclose(conclusions.f1_scores(counts.to_numpy()), per_class(counts)["f1"])


@pytest.mark.parametrize(
    ("best", "holds"),
    [
        ((0.704, 0.695, 0.713), True),
        ((0.71, 0.70, 0.72), True),
        ((0.71, 0.69, 0.73), None),
        ((0.8, 0.79, 0.81), False),
        ((0.6, 0.59, 0.61), False),
    ],
)
def test_three_seeds_compare_the_level_with_the_published_one(
    best: tuple[float, float, float], holds: bool | None
) -> None:
    conclusion = conclusions.on_level(Estimate(*best, 3), (0.704, 0.695, 0.713))
    assert parts(conclusion) == [holds, None]


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_do_not_tell_whether_the_level_is_the_published_one(
    seeds: int,
) -> None:
    conclusion = conclusions.on_level(
        Estimate(0.704, math.nan, math.nan, seeds), (0.71, 0.70, 0.72)
    )
    assert conclusion.verdict == Verdict.OPEN
    level, images, *_ = conclusion.evidence
    assert "0.704, +0.004 from the published 0.70, which is of one training. With" in level.text
    assert images.aside
    assert "0.700 to 0.720" in images.text


def test_numbers_are_rounded_half_up_whatever_a_sum_did_to_them() -> None:
    assert formatting.fixed(0.7035) == formatting.fixed(0.70349999999999) == "0.704"
    assert formatting.fixed(0.5345) == formatting.fixed(0.53449999999999) == "0.535"
    halves = [k / 1000 + 0.0005 for k in range(1000)]
    assert [formatting.fixed(half) for half in halves] == [
        f"{(k + 1) / 1000:.3f}" for k in range(1000)
    ]
    assert formatting.signed(0.7035 - 0.68) == "+0.024"
    assert formatting.signed(-0.0214) == "−0.021"
    assert formatting.signed(-0.0001) == "0.000"
