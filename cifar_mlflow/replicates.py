"""What replicates, trials alike but for their seed, tell: mean, spread, and which differences are noise.

Differences are judged by Welch's t-test (Biometrika 34, 1947), which wants no equal variances, as Colas,
Sigaud and Oudeyer recommend for a few seeds ("How Many Random Seeds?", 2018, arXiv:1806.08295), with
the probabilities adjusted for the number of comparisons by Holm's method (Scandinavian Journal of
Statistics 6, 1979), as Demšar does where many are compared with one (JMLR 7, 2006).
"""

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from cifar_mlflow.evaluation import CONFIDENCE

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
