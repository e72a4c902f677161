"""Estimates with intervals, and tests of differences: what may be chance, between trainings or images.

Replicates are trials that differ by their seed alone. Differences between their means are judged by
Welch's t-test (Biometrika 34, 1947), which needs no equal variances, as Colas, Sigaud and Oudeyer
recommend for a few seeds ("How Many Random Seeds?", 2018, arXiv:1806.08295). The p-values are adjusted
for the number of comparisons by Holm's method (Scandinavian Journal of Statistics 6, 1979), as Demšar
does where many are compared with one (JMLR 7, 2006). How large a difference such a test can find is
computed from the noncentral t distribution (Cohen, Statistical Power Analysis, 1988, chapter 2).

What other test images would change is measured by the percentile bootstrap over the images (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13) and by McNemar's test (Psychometrika 12,
1947; for classifiers: Dietterich, Neural Computation 10, 1998).
"""

# statsmodels has McNemar's test, Holm's adjustment and the analysis of variance (`effects.variance_shares`).
# It would add two packages to every lock file in place of about 25 lines.

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy  # imports its parts when they are first used

from cifar_mlflow.formatting import percent, signed

CONFIDENCE = 0.95  # of every interval
INTERVAL = f"{percent(CONFIDENCE, 0)} interval"
SIGNIFICANCE = 0.05
POWER = 0.8  # the usual share of cases in which a test should find a difference
# Fewer values give neither an interval nor a test: from two, an interval is too wide to be of use.
MIN_VALUES = 3
ROUNDING = 1e-9  # a smaller standard deviation counts as zero
SHARES = 100  # quantiles of a beta distribution that a power is the mean over
RESAMPLES = 2000
RESAMPLES_AT_ONCE = 100  # fit into a processor's cache; more at once is slower
# From this many disagreements on, the chi-square distribution replaces the binomial one, as is usual.
EXACT_BELOW = 25


# Means of replicates ----------------------------------------------------------------------------


class Estimate(NamedTuple):
    """A mean, its 95 % interval (NaN where ``n`` is below 3), and the number of values behind it."""

    value: float
    low: float
    high: float
    n: int

    @property
    def certain(self) -> bool:
        """Whether the interval is known and excludes 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{signed(self.low)}, {signed(self.high)}]"
        return f"{signed(self.value)}{interval}"


def estimate(values: "Sequence[float] | pd.Series[float]") -> Estimate:
    """The mean of independent values with its interval by Student's t; all NaN without a value."""
    array = np.asarray(values, float)
    n = len(array)
    mean = float(array.mean()) if n else math.nan
    margin = float(array.std(ddof=1) * margins(np.array(n))) if n > 1 else math.nan
    return Estimate(mean, mean - margin, mean + margin, n)


def estimates(
    values: "pd.Series[float]", groups: "pd.Series[str]", highest: float = np.inf
) -> pd.DataFrame:
    """One row for each group, in order of appearance, from its values that are not NaN.

    Columns: n; mean; sd, the standard deviation with n - 1 in the denominator, NaN where n < 2; low and
    high, the 95 % interval of the mean by Student's t; single_low and single_high, the 95 % prediction
    interval of one more value (Hahn and Meeker, Statistical Intervals, 1991, chapter 4). Intervals are
    NaN where n < 3.

    Args:
        values: measures between 0 and ``highest``. The true mean lies there too, so an interval that is
            clipped to these bounds covers it as often.
    """
    by_group = values.groupby(groups, sort=False)
    table = pd.DataFrame({"n": by_group.count(), "mean": by_group.mean(), "sd": by_group.std()})
    margin = table["sd"] * margins(table["n"].to_numpy())
    single = margin * np.sqrt(table["n"] + 1)
    return table.assign(
        low=(table["mean"] - margin).clip(lower=0),
        high=(table["mean"] + margin).clip(upper=highest),
        single_low=(table["mean"] - single).clip(lower=0),
        single_high=(table["mean"] + single).clip(upper=highest),
    )


def margins(n: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Half the width of the interval of a mean of n values, in standard deviations; NaN below 3."""
    enough = np.where(n < MIN_VALUES, np.nan, n)
    margin: npt.NDArray[np.float64] = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, enough - 1) / np.sqrt(
        enough
    )
    return margin


def against_best(estimates: pd.DataFrame, best: str) -> "pd.Series[float]":
    """The adjusted p-value of the difference between each group's mean and the best's.

    NaN for the best itself, and where there is no test: one of the two has fewer than 3 values, or
    neither has any spread.

    Args:
        estimates: a table of `estimates`; ``best`` is a name in its index.
    """
    top = estimates.loc[best]
    others = estimates.drop(index=best)
    enough = np.minimum(others["n"], top["n"]) >= MIN_VALUES
    others = others[enough & (others["sd"] + top["sd"] > ROUNDING)]
    test = scipy.stats.ttest_ind_from_stats(
        *top[["mean", "sd", "n"]], *others[["mean", "sd", "n"]].to_numpy().T, equal_var=False
    )
    return holm(pd.Series(test.pvalue, others.index)).reindex(estimates.index)


def holm(p_values: "pd.Series[float]") -> "pd.Series[float]":
    """Holm's step-down adjustment of the p-values of a family of tests."""
    ordered = p_values.sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)


# Power ------------------------------------------------------------------------------------------


def power(difference: float, n: int) -> float:
    """The share of cases in which Welch's test at 5 % finds the greater mean of two groups.

    Exact for normal values of one standard deviation. The sum of the two sample variances, which the
    statistic is divided by, is independent of the first one's share of it, which alone determines
    Welch's degrees of freedom: so the power is a mean over that share, which follows a beta distribution.

    Args:
        difference: between the true means, in standard deviations.
        n: values in each group, at least 2.
    """
    half = (n - 1) / 2
    shares = scipy.stats.beta.ppf((np.arange(SHARES) + 0.5) / SHARES, half, half)
    freedom = (n - 1) / (shares**2 + (1 - shares) ** 2)
    critical = scipy.stats.t.isf(SIGNIFICANCE / 2, freedom)
    found = scipy.stats.nct.sf(critical, 2 * n - 2, difference * math.sqrt(n / 2))
    return float(np.mean(found))


def detectable_difference(n: int) -> float:
    """The smallest difference of two means that `power` finds in 80 % of cases, in standard deviations.

    NaN for fewer than 3 values in each group, which are not tested.
    """
    if n < MIN_VALUES:
        return math.nan
    largest = 4.0  # more than three values in each group need
    return float(scipy.optimize.brentq(lambda difference: power(difference, n) - POWER, 0, largest))


def pooled_sd(estimates: pd.DataFrame) -> float:
    """The standard deviation that the groups of a table of `estimates` share; NaN if it is unknown."""
    several = estimates[estimates["n"] > 1]
    freedom = several["n"] - 1
    variance = (several["sd"] ** 2 * freedom).sum() / freedom.sum() if len(several) else math.nan
    return math.sqrt(variance)


# Bootstrap over images --------------------------------------------------------------------------


def resampled_means(
    rows: npt.NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Means (resamples, K) of bootstrap resamples of ``rows`` (N, K)."""
    random = np.random.default_rng(seed)
    n = len(rows)
    means = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, resamples - start)
        drawn = random.integers(0, n, (size, n)) + n * np.arange(size)[:, np.newaxis]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means.append(times @ rows / n)
    return np.concatenate(means)


def resampled_counts(
    counts: npt.NDArray[np.int64], resamples: int = RESAMPLES, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Counts (resamples, …) of bootstrap resamples of the images behind ``counts``, of any shape."""
    images = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(images, counts.ravel() / images, resamples)
    return drawn.reshape(resamples, *counts.shape)


def percentile_interval(resampled: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The bounds (2, K) of the 95 % intervals of K statistics, from resampled values (resamples, K)."""
    tail = (1 - CONFIDENCE) / 2
    shares = np.array([[tail], [1 - tail]])
    bounds: npt.NDArray[np.float64] = scipy.stats.quantile(resampled, shares, axis=0)
    return bounds


# Two models on the same images ------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    table: counts (2, 2), rows: the first model right and wrong; columns: the second right and wrong.
    """

    table: pd.DataFrame
    difference: float  # accuracy of the first less that of the second
    low: float  # of the difference's 95 % interval
    high: float
    test: str
    p_value: float  # of no difference

    def __str__(self) -> str:
        difference, low, high = (
            signed(100 * share, 2) for share in (self.difference, self.low, self.high)
        )
        verdict = (
            "more than the choice of images explains"
            if self.p_value < SIGNIFICANCE
            else "which the choice of images alone may explain"
        )
        return (
            f"accuracy {difference} points ({INTERVAL} {low} to {high}), {verdict} "
            f"(McNemar's test, {self.test}: p = {self.p_value:.2g})"
        )


def compare(first: pd.DataFrame, second: pd.DataFrame) -> Comparison:
    """McNemar's test and a paired bootstrap interval of two models' accuracies.

    Args:
        first, second: prediction tables of the same images in the same order. A single image gives no
            interval: its bounds are NaN.

    Raises:
        ValueError: the tables are not of the same images.
    """
    if first["true"].tolist() != second["true"].tolist():
        raise ValueError("the two prediction tables are not of the same images")
    right = [(table["true"] == table["predicted"]).to_numpy() for table in (first, second)]
    one, other = (pd.Series(each, name=name) for each, name in zip(right, ("first", "second")))
    words = {True: "right", False: "wrong"}
    table = cross_table(one, other, list(words)).rename(index=words, columns=words)
    (_, only_first), (only_second, _) = table.to_numpy().tolist()
    test, p_value = mcnemar(only_first, only_second)
    differences = right[0].astype(np.float64) - right[1]
    low = high = math.nan
    if len(differences) > 1:
        low, high = map(
            float, percentile_interval(resampled_means(differences[:, np.newaxis]))[:, 0]
        )
    return Comparison(
        table=table,
        difference=float(differences.mean()),
        low=low,
        high=high,
        test=test,
        p_value=p_value,
    )


def cross_table(
    first: "pd.Series[Any]", second: "pd.Series[Any]", values: list[Any]
) -> pd.DataFrame:
    """How often each pair of values occurs: rows are the first one's values, columns the second one's."""
    kind = pd.CategoricalDtype(values)
    counts = pd.crosstab(first.astype(kind), second.astype(kind), dropna=False)
    return pd.DataFrame(
        counts.to_numpy(),
        index=pd.Index(values, name=first.name),
        columns=pd.Index(values, name=second.name),
    )


def mcnemar(only_first: int, only_second: int) -> tuple[str, float]:
    """The test's name and its p-value, from the images that only one of two models classified right.

    Below 25 such images the test is the exact binomial one, else chi-square with continuity correction
    (Edwards, Psychometrika 13, 1948).
    """
    disagreements = only_first + only_second
    if disagreements < EXACT_BELOW:
        p_value = (
            scipy.stats.binomtest(only_first, disagreements, 0.5).pvalue if disagreements else 1.0
        )
        return "exact binomial", float(p_value)
    statistic = max(abs(only_first - only_second) - 1, 0) ** 2 / disagreements
    return "chi-square with continuity correction", float(scipy.stats.chi2.sf(statistic, df=1))
