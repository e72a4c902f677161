import math

import numpy as np
import pandas as pd
import pytest

from cifar_mlflow.analysis import effects
from cifar_mlflow.analysis.metrics import prediction_table
from cifar_mlflow.analysis.statistics import Estimate
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.paper import CONFUSION
from cifar_mlflow.report import conclusions
from cifar_mlflow.report.conclusions import Conclusion, Evidence, Verdict
from tests.designs import FACTORS, PUBLISHED, additive, design, history


def parts(conclusion: Conclusion) -> list[bool | None]:
    return [part.holds for part in conclusion.evidence if not part.aside]


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
    assert verdict(None) == Verdict.INCONCLUSIVE


def test_epochs_help_in_most_cases_or_not() -> None:
    up = history([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], [2.0, 1.9, 1.8, 1.7])
    over = history([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.3], [1.0, 0.9, 0.8, 1.0])
    agrees = conclusions.on_epochs(effects.late_gains({"a": up, "b": up, "c": over}))
    assert agrees.verdict == Verdict.AGREES
    assert "validation accuracy in 2 of 3 trials" in agrees.evidence[1].text
    assert "In 1 of 3 trials the validation loss" in agrees.evidence[2].text
    part = conclusions.on_epochs(effects.late_gains({"a": up, "b": over, "c": over}))
    assert parts(part) == [True, False]
    assert conclusions.on_epochs(effects.late_gains({})).verdict == Verdict.INCONCLUSIVE


def test_trials_without_validation_show_the_gain_in_training_alone() -> None:
    nan = math.nan
    gains = pd.DataFrame({"train_gain": [0.1], "val_gain": [nan], "loss_rise": [nan]})
    conclusion = conclusions.on_epochs(gains)
    assert parts(conclusion) == [True, None]
    assert conclusion.evidence[-1].text == "No trial has a validation accuracy."


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
    assert (
        conclusions.on_factors(design(additive, seeds=2), FACTORS).verdict == Verdict.INCONCLUSIVE
    )


def test_factors_that_were_not_varied_are_inconclusive() -> None:
    table = design(additive).query("optimizer == 'adam'")
    conclusion = conclusions.on_factors(table, ["activation", "batch_size"])
    assert conclusion.verdict == Verdict.INCONCLUSIVE
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
    return prediction_table(np.eye(10, dtype=np.float32)[taken], labels, CLASSES)


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_do_not_decide_which_network_is_best(seeds: int) -> None:
    table = networks(small=[0.5] * seeds, wide=[0.6] * seeds, deep=[0.9] * seeds)
    shown = {"wide": predictions(600), "deep": predictions(900)}
    conclusion = conclusions.on_architectures(table, shown)
    assert conclusion.verdict == Verdict.INCONCLUSIVE
    claim, aside = conclusion.evidence
    assert "deep less wide is +0.300. With" in claim.text
    assert aside.aside
    assert "deep less wide: accuracy +30.00 points (95 % interval " in aside.text
    assert "McNemar" in aside.text
    assert len(conclusions.on_architectures(table, {}).evidence) == 1


def test_several_seeds_decide_which_network_is_best_by_themselves() -> None:
    deep = networks(small=[0.6] * 3, wide=[0.63, 0.62, 0.64], deep=[0.67, 0.66, 0.68])
    assert conclusions.on_architectures(deep, {}).verdict == Verdict.AGREES
    wide = networks(small=[0.6] * 3, wide=[0.70, 0.71, 0.72], deep=[0.67, 0.66, 0.68])
    assert conclusions.on_architectures(wide, {}).verdict == Verdict.DISAGREES
    noise = networks(small=[0.6] * 3, wide=[0.63, 0.70, 0.64], deep=[0.67, 0.66, 0.68])
    assert conclusions.on_architectures(noise, {}).verdict == Verdict.INCONCLUSIVE
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
    assert conclusions.on_architectures(apart, {}).verdict == Verdict.INCONCLUSIVE
    seeds = pd.concat([lost.assign(optimizer=name) for name in ("sgd", "adam")])
    factors = ["architecture", "optimizer"]
    one = conclusions.on_architectures(seeds[seeds["seed"] == 0], {}, factors)
    assert one.verdict == Verdict.INCONCLUSIVE  # settings are no seeds
    assert conclusions.on_architectures(seeds, {}, factors).verdict == Verdict.AGREES


def test_networks_that_are_missing_are_named() -> None:
    assert conclusions.on_architectures(None, {}).verdict == Verdict.INCONCLUSIVE
    conclusion = conclusions.on_architectures(networks(small=[0.6], deep=[math.nan]), {})
    assert conclusion.verdict == Verdict.INCONCLUSIVE
    assert conclusion.evidence[0].text == "Not finished: deep, wide."


def confusion(counts: object) -> pd.DataFrame:
    index = pd.Index(CLASSES, name="true")
    return pd.DataFrame(np.array(counts), index, pd.Index(CLASSES, name="predicted"))


def test_the_published_tables_support_the_pairs_but_not_the_classes() -> None:
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
def test_three_seeds_compare_the_accuracy_with_the_published_one(
    best: tuple[float, float, float], holds: bool | None
) -> None:
    conclusion = conclusions.on_level(Estimate(*best, 3), (0.704, 0.695, 0.713))
    assert parts(conclusion) == [holds, None]


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_do_not_decide_whether_the_published_accuracy_is_reached(
    seeds: int,
) -> None:
    conclusion = conclusions.on_level(
        Estimate(0.704, math.nan, math.nan, seeds), (0.71, 0.70, 0.72)
    )
    assert conclusion.verdict == Verdict.INCONCLUSIVE
    level, images, *_ = conclusion.evidence
    assert "0.704, +0.004 from the published 0.70, which is of one trial. With" in level.text
    assert images.aside
    assert "0.700 to 0.720" in images.text
