import numpy as np
import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.training import initial
from cifar_mlflow.training.initial import initialise, moments, whitening, with_identity
from cifar_mlflow.training.network import build

pytestmark = pytest.mark.usefixtures("tensorflow")


def test_whitened_patches_are_centred_and_uncorrelated_with_variance_one() -> None:
    random = np.random.default_rng(0)
    smooth = random.integers(0, 128, (60, 9, 9, 1)).repeat(3, axis=3)
    images = (smooth + random.integers(0, 128, (60, 9, 9, 3))).astype(np.uint8)
    kernel, bias = whitening(images, 2)
    windows = np.lib.stride_tricks.sliding_window_view(images / 255, (2, 2), axis=(1, 2))
    outputs = np.einsum("nabchw,hwcf->nabf", windows, kernel).reshape(-1, 24) + bias
    np.testing.assert_allclose(outputs.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(outputs[:, :12], rowvar=False), np.eye(12), atol=0.02)
    np.testing.assert_allclose(outputs[:, 12:], -outputs[:, :12], atol=1e-5)


def test_mean_and_covariance_of_patches_are_the_same_from_parts_of_the_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), np.uint8)
    mean, covariance = at_once = moments(images, 2)
    windows = np.lib.stride_tricks.sliding_window_view(images / 255, (2, 2), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)
    np.testing.assert_allclose(mean, patches.mean(axis=0))
    np.testing.assert_allclose(covariance, np.cov(patches, rowvar=False))
    monkeypatch.setattr(initial, "AT_ONCE", 3)
    for parted, whole in zip(moments(images, 2), at_once, strict=True):
        np.testing.assert_array_equal(parted, whole)


def test_the_first_filters_copy_their_inputs() -> None:
    images = np.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype(np.float32)
    kernel = with_identity(np.ones((3, 3, 4, 6), np.float32))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    outputs = np.einsum("nabchw,hwcf->nabf", windows, kernel)
    np.testing.assert_allclose(outputs[..., :4], images, atol=1e-6)
    assert np.ptp(outputs[..., 4:]) > 0


def test_networks_of_the_paper_keep_their_random_weights(small_cifar10: DataSet) -> None:
    network = build(TrialConfig(), (32, 32, 3), 10)
    before = network.get_weights()
    initialise(network, small_cifar10.split(0.2).train.images)
    for one, other in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_whitening_is_not_trained() -> None:
    network = build(TrialConfig(architecture="airbench93"), (32, 32, 3), 10)
    assert all("whitening" not in weight.path for weight in network.trainable_weights)
    assert sum("whitening" in weight.path for weight in network.weights) == 2
