import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cifar_mlflow.analysis import statistics
from cifar_mlflow.analysis.metrics import prediction_table
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.paper import CONFUSION

VALUES = {"a": [0.70, 0.71, 0.72], "b": [0.69, 0.70, 0.68, 0.69], "c": [0.1] * 3, "d": [0.5]}


def estimates(values: dict[str, list[float]]) -> pd.DataFrame:
    groups = pd.Series([name for name, group in values.items() for _ in group])
    return statistics.estimates(pd.Series(np.concatenate(list(values.values()))), groups)


def test_estimates_agree_with_scipy_whatever_the_size_of_a_group() -> None:
    table = estimates(VALUES)
    assert list(table.index) == list(VALUES)
    for name in ("a", "b"):
        values = np.array(VALUES[name])
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        row = table.loc[name]
        assert row["n"] == len(values)
        assert row["mean"] == pytest.approx(values.mean())
        assert row["sd"] == pytest.approx(values.std(ddof=1))
        assert (row["low"], row["high"]) == pytest.approx(tuple(interval))


def test_an_interval_of_a_single_value_covers_one_more_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    drawn = random.normal(0.5, 0.01, (4000, 6))  # five to estimate from, and one more
    table = estimates({str(row): values[:5] for row, values in enumerate(drawn)})
    covered = (table["single_low"] <= drawn[:, 5]) & (drawn[:, 5] <= table["single_high"])
    assert covered.mean() == pytest.approx(0.95, abs=0.01)


def test_one_value_has_a_mean_and_no_spread() -> None:
    row = estimates(VALUES).loc["d"]
    assert (row["n"], row["mean"]) == (1, 0.5)
    assert row[["sd", "low", "high", "single_low", "single_high"]].isna().all()


def test_two_values_have_a_spread_and_no_interval() -> None:
    row = estimates({"a": [0.81, 0.99]}).loc["a"]
    assert row["sd"] == pytest.approx(0.18 / np.sqrt(2))
    assert row[["low", "high", "single_low", "single_high"]].isna().all()


def test_an_interval_is_cut_at_the_bounds_of_the_measure() -> None:
    values = pd.Series([0.90, 0.95, 1.0, 0.0, 0.05, 0.1])
    groups = pd.Series(["high"] * 3 + ["low"] * 3)
    table = statistics.estimates(values, groups, highest=1)
    half = 4.302653 * 0.05 / np.sqrt(3)  # Student's t from a table
    assert table["low"].to_dict() == pytest.approx({"high": 0.95 - half, "low": 0})
    assert table["high"].to_dict() == pytest.approx({"high": 1, "low": 0.05 + half})
    assert statistics.estimates(values, groups)["high"].max() > 1


def test_missing_values_count_for_nothing() -> None:
    table = estimates({"a": [0.5, np.nan, 0.7], "none": [np.nan, np.nan]})
    assert table["n"].tolist() == [2, 0]
    assert table.loc["a", "mean"] == pytest.approx(0.6)
    assert table.loc["none"].drop("n").isna().all()


def test_values_that_agree_have_an_interval_of_no_width() -> None:
    row = estimates(VALUES).loc["c"]
    assert (row["sd"], row["low"], row["high"]) == pytest.approx((0, 0.1, 0.1))


def test_differences_to_the_best_are_welch_tests_adjusted_by_holm() -> None:
    values = VALUES | {"c": [0.10, 0.11, 0.12], "e": [0.72, 0.69, 0.60]}
    adjusted = statistics.against_best(estimates(values), "a")
    raw = {
        name: stats.ttest_ind(VALUES["a"], values[name], equal_var=False).pvalue
        for name in ("b", "c", "e")
    }
    least, middle, most = sorted(raw, key=lambda name: raw[name])
    assert (least, middle, most) == ("c", "b", "e")
    assert adjusted[least] == pytest.approx(3 * raw[least])
    assert adjusted[middle] == pytest.approx(2 * raw[middle])
    assert adjusted[most] == pytest.approx(max(raw[most], adjusted[middle]))


def test_the_best_itself_and_what_has_fewer_than_three_values_are_not_tested() -> None:
    values = estimates(VALUES | {"e": [0.5, 0.6]})
    adjusted = statistics.against_best(values, "a")
    assert adjusted.isna().tolist() == [True, False, False, True, True]
    assert statistics.against_best(values, "e").isna().all()


def test_two_groups_without_spread_are_not_tested() -> None:
    table = estimates({"a": [0.2] * 3, "b": [0.1] * 3, "c": [0.1, 0.11, 0.12]})
    assert statistics.against_best(table, "a").isna().tolist() == [True, True, False]


def test_holm_adjusts_a_worked_example() -> None:
    # By hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 raised to the one before it.
    adjusted = statistics.holm(pd.Series([0.01, 0.04, 0.03, 0.005], list("abcd")))
    assert adjusted.to_dict() == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert statistics.holm(pd.Series([0.9, 0.8])).tolist() == [1, 1]


@pytest.mark.parametrize(("difference", "n"), [(0.02 / 0.013, 3), (2.0, 5), (0.01 / 0.013, 28)])
def test_the_power_is_that_of_simulated_tests(difference: float, n: int) -> None:
    simulations = 20_000
    low, high = np.random.default_rng(0).normal(size=(2, n, simulations))
    test = stats.ttest_ind(high + difference, low, equal_var=False, alternative="greater")
    found = (test.pvalue < 0.025).mean()
    assert statistics.power(difference, n) == pytest.approx(found, abs=4 * 0.5 / simulations**0.5)


def test_a_difference_is_detectable_with_a_power_of_80_percent() -> None:
    for n in (3, 5, 28, 1000):
        assert statistics.power(statistics.detectable_difference(n), n) == pytest.approx(0.8)
    # With a standard deviation of 0.013, three seeds find 0.02 in one case of four; 0.01 needs 28.
    assert statistics.power(0.02 / 0.013, 3) == pytest.approx(0.234, abs=0.001)
    assert 0.013 * statistics.detectable_difference(28) < 0.01
    assert 0.013 * statistics.detectable_difference(27) > 0.01
    assert np.isnan(statistics.detectable_difference(2))


def test_the_pooled_standard_deviation_weighs_groups_by_their_degrees_of_freedom() -> None:
    table = estimates({"a": [0.1, 0.3], "b": [0.5, 0.6, 0.7, 0.8], "c": [0.9]})
    squares = 2 * 0.1**2 + 2 * 0.15**2 + 2 * 0.05**2
    assert statistics.pooled_sd(table) == pytest.approx(np.sqrt(squares / (1 + 3)))
    assert np.isnan(statistics.pooled_sd(table.loc[["c"]]))


def test_resampled_means_are_those_of_rows_drawn_with_replacement() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3))
    means = statistics.resampled_means(rows, resamples=250, seed=1)
    random = np.random.default_rng(1)
    drawn = np.concatenate([random.integers(0, 50, (size, 50)) for size in (100, 100, 50)])
    np.testing.assert_allclose(means, rows[drawn].mean(axis=1))


def test_resampled_counts_have_the_images_of_the_original() -> None:
    counts = np.array(CONFUSION)
    resamples = statistics.resampled_counts(counts, resamples=50)
    assert resamples.shape == (50, 10, 10)
    assert (resamples.sum(axis=(1, 2)) == 10_000).all()
    np.testing.assert_allclose(resamples.mean(axis=0), counts, atol=5 * np.sqrt(counts.max() / 50))
    np.testing.assert_array_equal(resamples, statistics.resampled_counts(counts, resamples=50))


def test_a_percentile_interval_leaves_out_the_tails() -> None:
    (low,), (high,) = statistics.percentile_interval(np.arange(1001.0)[:, np.newaxis])
    assert (low, high) == pytest.approx((25, 975))


def test_an_estimate_and_a_table_of_estimates_have_the_same_interval() -> None:
    one = statistics.estimate(VALUES["b"])
    row = estimates(VALUES).loc["b"]
    assert (one.value, one.low, one.high) == pytest.approx((row["mean"], row["low"], row["high"]))


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.6]])
def test_an_estimate_from_fewer_than_three_values_has_no_interval(values: list[float]) -> None:
    few = statistics.estimate(values)
    assert few.n == len(values)
    assert np.isnan([few.low, few.high]).all()
    assert not few.certain


@pytest.mark.parametrize(
    ("only_first", "only_second", "expected"),
    [
        (0, 0, 1),
        (5, 5, 1),
        (6, 0, 2 / 2**6),  # all six on one side, or all on the other
        (1, 7, 2 * (1 + 8) / 2**8),
    ],
)
def test_few_disagreements_are_counted_exactly(
    only_first: int, only_second: int, expected: float
) -> None:
    test, p_value = statistics.mcnemar(only_first, only_second)
    assert test == "exact binomial"
    assert p_value == pytest.approx(expected)


def test_many_disagreements_use_the_corrected_chi_square() -> None:
    # (|59 - 121| - 1)^2 / 180 = 20.67; 0.05 is reached at 3.84.
    test, p_value = statistics.mcnemar(59, 121)
    assert test == "chi-square with continuity correction"
    assert p_value == pytest.approx(stats.chi2.sf(61**2 / 180, df=1))
    assert statistics.mcnemar(121, 59)[1] == p_value
    assert statistics.mcnemar(50, 50)[1] == 1


def certain(predicted: list[int], true: list[int]) -> pd.DataFrame:
    """A prediction table without a doubt."""
    probabilities = np.eye(10, dtype=np.float32)[predicted]
    return prediction_table(probabilities, np.array(true, np.uint8), CLASSES)


def test_two_models_are_compared_on_the_same_images() -> None:
    true = [0] * 100
    first = certain([0] * 70 + [1] * 30, true)
    second = certain([0] * 50 + [1] * 40 + [0] * 10, true)
    comparison = statistics.compare(first, second)
    assert comparison.table.to_numpy().tolist() == [[50, 20], [10, 20]]
    assert comparison.difference == pytest.approx(0.1)
    assert comparison.low < 0.1 < comparison.high
    assert comparison.p_value == statistics.mcnemar(20, 10)[1]
    # The differences of one image have this standard deviation; the interval is about 1.96 of it.
    spread = np.sqrt((0.3 - 0.1**2) / 100)
    assert comparison.high - comparison.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert str(comparison).startswith("accuracy +10.00 points (95 % interval ")
    assert "which the choice of images alone may explain (McNemar's test, chi-square" in str(
        comparison
    )


def test_a_single_image_gives_no_interval_of_the_difference() -> None:
    comparison = statistics.compare(certain([0], [0]), certain([1], [0]))
    assert (comparison.difference, comparison.p_value) == (1, 1)
    assert np.isnan([comparison.low, comparison.high]).all()


def test_a_model_is_no_better_than_itself() -> None:
    table = certain([0, 1, 2, 0], [0, 1, 1, 1])
    comparison = statistics.compare(table, table)
    assert (comparison.difference, comparison.low, comparison.high) == (0, 0, 0)
    assert comparison.p_value == 1


def test_models_on_different_images_are_not_compared() -> None:
    with pytest.raises(ValueError, match="not of the same images"):
        statistics.compare(certain([0], [0]), certain([0], [1]))
