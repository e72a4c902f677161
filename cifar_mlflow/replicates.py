"""What replicates, trials alike but for their seed, tell: mean, spread, and which differences are noise.

Differences are judged by Welch's t-test (Biometrika 34, 1947), which wants no equal variances, as Colas,
Sigaud and Oudeyer recommend for a few seeds ("How Many Random Seeds?", 2018, arXiv:1806.08295), with
the probabilities adjusted for the number of comparisons by Holm's method (Scandinavian Journal of
Statistics 6, 1979), as Demšar does where many are compared with one (JMLR 7, 2006).
"""

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
ROUNDING = 1e-9  # a standard deviation below it is none


def estimates(values: "pd.Series[float]", groups: "pd.Series[str]") -> pd.DataFrame:
    """A row for each group, in order of appearance, of its values that are not NaN.

    Columns: n; mean; sd, the standard deviation with n - 1 in the denominator; low and high, the 95 %
    interval of the mean by Student's t. The last three are NaN where n < 2.
    """
    by_group = values.groupby(groups, sort=False)
    table = pd.DataFrame({"n": by_group.count(), "mean": by_group.mean(), "sd": by_group.std()})
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, table["n"] - 1)
    half = quantile * table["sd"] / np.sqrt(table["n"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half)


def against_best(estimates: pd.DataFrame, best: str) -> "pd.Series[float]":
    """The adjusted probability that a group's mean differs from the best's by chance alone.

    NaN for the best itself, and where it cannot be told: one of the two has a single value, or
    neither has any spread.
    """
    top = estimates.loc[best]
    others = estimates.drop(index=best)
    spread = others["sd"] + top["sd"]  # NaN where n < 2
    others = others[spread > ROUNDING]
    test = stats.ttest_ind_from_stats(
        *top[["mean", "sd", "n"]], *others[["mean", "sd", "n"]].to_numpy().T, equal_var=False
    )
    return holm(pd.Series(test.pvalue, others.index)).reindex(estimates.index)


def holm(probabilities: "pd.Series[float]") -> "pd.Series[float]":
    """Holm's step-down adjustment of the probabilities of a family of tests."""
    ordered = probabilities.sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)
