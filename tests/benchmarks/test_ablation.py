"""The ablation's differences: between trainings of one seed, the worst change first."""

import math

import pandas as pd
import pytest

from benchmarks.ablation import differences

TABLE = pd.DataFrame(
    {
        "": [0.90, 0.92, 0.94],
        "augment=none": [0.87, 0.89, 0.91],
        "resolution=32": [math.nan, 0.93, 0.93],
        "schedule=constant": [0.80, math.nan, math.nan],
        "tta=none": [math.nan] * 3,
    }
)


def test_differences_are_between_trainings_of_one_seed() -> None:
    found = differences(TABLE)
    assert found["augment=none"].value == pytest.approx(-0.03)
    assert found["augment=none"].high == pytest.approx(-0.03)  # each seed lost the same
    assert found["augment=none"].n == 3
    assert found["resolution=32"].value == pytest.approx(0)  # 0.01 more and 0.01 less
    assert found["resolution=32"].n == 2


def test_the_change_that_costs_most_comes_first() -> None:
    assert [*differences(TABLE)] == ["schedule=constant", "augment=none", "resolution=32"]
