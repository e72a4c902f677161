"""Maps of made-up classifiers, of which is known where they look."""

import numpy as np
import numpy.typing as npt
import pytest

from cifar_mlflow.analysis.occlusion import log_odds, occlusion_maps

WHITE = np.full((2, 32, 32, 3), 255, np.uint8)


def bright(part: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Class 1 of two: the brighter the part, the more probable."""
    share = part.mean(axis=(1, 2, 3)) / 256
    return np.column_stack([1 - share, share])


def test_a_map_is_highest_where_the_classifier_looks() -> None:
    maps = occlusion_maps(lambda pixels: bright(pixels[:, 8:12, 20:24]), WHITE, np.array([1, 1]))
    assert maps.shape == (2, 8, 8)
    for values in maps:
        assert np.unravel_index(values.argmax(), values.shape) == (2, 5)  # in cells of 4 pixels
        seen = values > 0
        assert seen[1:4, 4:7].all()
        assert seen.sum() == 9  # a patch has two cells along a side, so the neighbours share in it


def test_what_speaks_for_one_class_speaks_against_the_other() -> None:
    other, own = occlusion_maps(lambda pixels: bright(pixels[:, :8]), WHITE, np.array([0, 1]))
    np.testing.assert_allclose(own, -other)
    assert (own[0] > 0).all()


def test_an_edge_is_covered_as_often_as_the_middle() -> None:
    values, _ = occlusion_maps(bright, WHITE, np.array([1, 1]))
    np.testing.assert_allclose(values[1:-1, 1:-1], values[3, 3])
    assert 0 < values[0, 0] < values[3, 3]  # there a part of the patch is outside


def test_a_classifier_that_does_not_look_has_a_flat_map() -> None:
    def blind(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.full((len(pixels), 10), 0.1, np.float32)

    np.testing.assert_array_equal(occlusion_maps(blind, WHITE, np.array([3, 4])), 0)


def test_a_probability_that_rounds_to_one_has_finite_and_exact_odds() -> None:
    sure = np.array([[1, 1e-20, 1e-20], [1, 0, 0]], np.float32)
    tiny, none = log_odds(sure, np.array([0, 0]))
    assert tiny == pytest.approx(-np.log(2e-20))
    assert np.isfinite(none)
