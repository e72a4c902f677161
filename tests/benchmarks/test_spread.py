"""The variance components of two seeds, against ones counted by hand."""

import math

import pandas as pd
import pytest

from benchmarks.spread import components
from cifar_mlflow.errors import UsageError

CROSSED = pd.DataFrame(
    {
        "seed": [0, 0, 1, 1],
        "order_seed": [0, 1, 0, 1],
        "test_loss": [1.0, 2.0, 5.0, 8.0],
    }
)


def test_each_seed_has_its_share_of_the_variance() -> None:
    found = components(CROSSED, "test_loss")
    # Mean squares of 25, 4 and 1, with one degree of freedom each; each mean is of two trials.
    assert found.loc["seed", "deviation"] == pytest.approx(math.sqrt((25 - 1) / 2))
    assert found.loc["order_seed", "deviation"] == pytest.approx(math.sqrt((4 - 1) / 2))
    assert found.loc["both", "deviation"] == pytest.approx(1)
    # The F distribution with (1, 1) degrees of freedom is the square of Cauchy's.
    assert found.loc["seed", "p"] == pytest.approx(1 - 2 * math.atan(5) / math.pi)


def test_a_seed_that_explains_less_than_the_noise_has_no_share() -> None:
    found = components(CROSSED.assign(test_loss=[1.0, 2.0, 2.0, 1.0]), "test_loss")
    assert found["deviation"].to_dict() == {"seed": 0, "order_seed": 0, "both": pytest.approx(1)}


@pytest.mark.parametrize("kept", [[0, 1, 2], [0, 1], [0, 2]])
def test_seeds_that_are_not_crossed_have_no_components(kept: list[int]) -> None:
    with pytest.raises(UsageError, match="every seed with every order_seed"):
        components(CROSSED.iloc[kept], "test_loss")
