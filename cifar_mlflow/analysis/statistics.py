"""What replicates, trials alike but for their seed, tell: mean, spread, and which differences are noise.

Differences are judged by Welch's t-test (Biometrika 34, 1947), which wants no equal variances, as Colas,
Sigaud and Oudeyer recommend for a few seeds ("How Many Random Seeds?", 2018, arXiv:1806.08295), with
the probabilities adjusted for the number of comparisons by Holm's method (Scandinavian Journal of
Statistics 6, 1979), as Demšar does where many are compared with one (JMLR 7, 2006).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from sklearn.metrics import confusion_matrix

from cifar_mlflow.formatting import signed

CONFIDENCE = 0.95  # of every interval
RESAMPLES = 2000
RESAMPLES_AT_ONCE = 100  # what fits a processor's cache; more at once is slower
# From this many images on which two models disagree, the chi-square distribution stands for the
# binomial one: a usual limit.
EXACT_BELOW = 25


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    table: counts (2, 2), rows: the first model right and wrong; columns: the second right and wrong.
    """

    table: pd.DataFrame
    difference: float  # accuracy of the first less that of the second
    low: float  # of the difference's interval
    high: float
    test: str
    p_value: float  # of no difference

    def __str__(self) -> str:
        interval = f"95 % interval {100 * self.low:+.2f} to {100 * self.high:+.2f}"
        verdict = (
            "more than the choice of images explains"
            if self.p_value < 1 - CONFIDENCE
            else "which the choice of images alone may explain"
        )
        return (
            f"accuracy {100 * self.difference:+.2f} points ({interval}), {verdict} "
            f"(McNemar's test, {self.test}: p = {self.p_value:.2g})"
        )


def bootstrap(
    sample: npt.NDArray[Any], statistic: Callable[..., Any], resamples: int, seed: int
) -> tuple[Any, Any]:
    """The bounds of the percentile interval; ``statistic`` takes an axis."""
    if len(sample) < 2:  # every resample would be the sample again
        return np.nan, np.nan
    interval = stats.bootstrap(
        (sample,),
        statistic,
        n_resamples=resamples,
        batch=RESAMPLES_AT_ONCE,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return interval.low, interval.high


def compare(first: pd.DataFrame, second: pd.DataFrame, seed: int = 0) -> Comparison:
    """McNemar's test and a paired bootstrap interval of two models' accuracies.

    Only images on which one model is right and the other wrong tell them apart (McNemar, Psychometrika
    1947; for classifiers: Dietterich, Neural Computation 1998). With fewer than 25 of them the test is
    the exact binomial one, else chi-square with continuity correction (Edwards, Psychometrika 1948).

    Args:
        first, second: prediction tables of the same images in the same order; one image makes no
            interval, and NaN its bounds.

    Raises:
        ValueError: the tables are not of the same images.
    """
    if first["true"].tolist() != second["true"].tolist():
        raise ValueError("the two prediction tables are not of the same images")
    right = [(table["true"] == table["predicted"]).to_numpy() for table in (first, second)]
    counts = confusion_matrix(*right, labels=[True, False])
    outcomes = ["right", "wrong"]
    test, p_value = mcnemar(int(counts[0, 1]), int(counts[1, 0]))
    differences = right[0].astype(np.float64) - right[1]
    low, high = bootstrap(differences, np.mean, RESAMPLES, seed)
    return Comparison(
        table=pd.DataFrame(
            counts,
            index=pd.Index(outcomes, name="first"),
            columns=pd.Index(outcomes, name="second"),
        ),
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        test=test,
        p_value=p_value,
    )


def mcnemar(only_first: int, only_second: int) -> tuple[str, float]:
    """The test's name and the p-value, from the images that only one of two models classified right."""
    disagreements = only_first + only_second
    if disagreements < EXACT_BELOW:
        p_value = stats.binomtest(only_first, disagreements, 0.5).pvalue if disagreements else 1.0
        return "exact binomial", float(p_value)
    statistic = max(abs(only_first - only_second) - 1, 0) ** 2 / disagreements
    return "chi-square with continuity correction", float(stats.chi2.sf(statistic, df=1))


# From fewer values there is neither an interval nor a test: two make one too wide to be of use.
FEWEST = 3
SIGNIFICANCE = 0.05
ROUNDING = 1e-9  # a standard deviation below it is none


def estimates(
    values: "pd.Series[float]", groups: "pd.Series[str]", highest: float = np.inf
) -> pd.DataFrame:
    """A row for each group, in order of appearance, of its values that are not NaN.

    Columns: n; mean; sd, the standard deviation with n - 1 in the denominator, NaN where n < 2; low and
    high, the 95 % interval of the mean by Student's t, NaN where n < 3.

    Args:
        values: measures that lie between 0 and ``highest``.
    """
    by_group = values.groupby(groups, sort=False)
    table = pd.DataFrame({"n": by_group.count(), "mean": by_group.mean(), "sd": by_group.std()})
    half = table["sd"] * margins(table["n"].to_numpy())
    # The true mean lies between the measure's bounds, so an interval that is cut there covers it as often.
    return table.assign(
        low=(table["mean"] - half).clip(lower=0), high=(table["mean"] + half).clip(upper=highest)
    )


def margins(n: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Half the width of the interval of a mean of n values, in standard deviations; NaN below 3."""
    enough = np.where(n < FEWEST, np.nan, n)
    half: npt.NDArray[np.float64] = stats.t.ppf((1 + CONFIDENCE) / 2, enough - 1) / np.sqrt(enough)
    return half


def against_best(estimates: pd.DataFrame, best: str) -> "pd.Series[float]":
    """The adjusted probability that a group's mean differs from the best's by chance alone.

    NaN for the best itself, and where it cannot be told: one of the two has fewer than 3 values, or
    neither has any spread.
    """
    top = estimates.loc[best]
    others = estimates.drop(index=best)
    enough = np.minimum(others["n"], top["n"]) >= FEWEST
    others = others[enough & (others["sd"] + top["sd"] > ROUNDING)]
    test = stats.ttest_ind_from_stats(
        *top[["mean", "sd", "n"]], *others[["mean", "sd", "n"]].to_numpy().T, equal_var=False
    )
    return holm(pd.Series(test.pvalue, others.index)).reindex(estimates.index)


def holm(probabilities: "pd.Series[float]") -> "pd.Series[float]":
    """Holm's step-down adjustment of the probabilities of a family of tests."""
    ordered = probabilities.sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)


class Estimate(NamedTuple):
    """A mean, its interval (NaN where ``n`` is below 3), and the number of values it is from."""

    value: float
    low: float
    high: float
    n: int

    @property
    def certain(self) -> bool:
        """Whether the interval is known and leaves out 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        interval = f" [{signed(self.low)}, {signed(self.high)}]" if self.n >= FEWEST else ""
        return f"{signed(self.value)}{interval}"


def estimate(values: "Sequence[float] | pd.Series[float]") -> Estimate:
    """The mean of independent values with its interval; all NaN where there is no value."""
    array = np.asarray(values, float)
    if not len(array):
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean, n = float(array.mean()), len(array)
    half = float(array.std(ddof=1) * margins(np.array(n))) if n >= FEWEST else math.nan
    return Estimate(mean, mean - half, mean + half, n)
