import numpy as np
import numpy.typing as npt
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet, Examples
from cifar_mlflow.training import batches

pytestmark = pytest.mark.usefixtures("tensorflow")
COUNT = 107


def numbered() -> Examples:
    """Images that begin with their number, which is their label too."""
    images = np.zeros((COUNT, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(COUNT)
    return Examples(images, np.arange(COUNT, dtype=np.uint8))


def photographs() -> Examples:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (COUNT, 32, 32, 3), np.uint8)
    return Examples(images, np.arange(COUNT, dtype=np.uint8))


def epoch_of(
    examples: Examples, number: int = 1, **changes: object
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """The images and labels of an epoch, in the order of the labels."""
    config = TrialConfig.model_validate(changes)
    data = batches.for_training(*batches.tensors(examples), 10, config, number)
    images, labels = (np.concatenate(part) for part in zip(*data.as_numpy_iterator()))
    if labels.ndim == 2:
        return images, labels
    return images[np.argsort(labels)], np.sort(labels)


def test_every_image_is_seen_once_an_epoch_in_an_order_of_its_own() -> None:
    orders = []
    for epoch in (1, 2):
        data = batches.for_training(*batches.tensors(numbered()), 10, TrialConfig(), epoch)
        seen = list(data.as_numpy_iterator())
        assert [len(labels) for _, labels in seen] == [32, 32, 32, 11]
        orders.append(np.concatenate([labels for _, labels in seen]))
        pixels = np.concatenate([images[:, 0, 0, 0] for images, _ in seen])
        np.testing.assert_array_equal(pixels, orders[-1])
        np.testing.assert_array_equal(np.sort(pixels), np.arange(COUNT))
    assert (orders[0] != orders[1]).any()


def test_images_for_evaluation_keep_their_order() -> None:
    data = batches.for_evaluation(*batches.tensors(numbered()))
    seen = np.concatenate([labels for _, labels in data.as_numpy_iterator()])
    np.testing.assert_array_equal(seen, np.arange(COUNT))


def test_two_epochs_show_both_sides_of_each_image() -> None:
    given = photographs()
    mirrored = given.images[:, :, ::-1]
    first, second = (epoch_of(given, number, augment="flip")[0] for number in (1, 2))
    was_mirrored = (first == mirrored).all(axis=(1, 2, 3))
    expected = np.where(was_mirrored[:, None, None, None], given.images, mirrored)
    assert 0.25 < was_mirrored.mean() < 0.75
    np.testing.assert_array_equal(
        first, np.where(was_mirrored[:, None, None, None], mirrored, given.images)
    )
    np.testing.assert_array_equal(second, expected)


def test_a_shifted_image_is_a_window_of_the_image_with_reflected_edges() -> None:
    given = photographs()
    changed, _ = epoch_of(given, augment="flip-crop")
    padded = np.pad(given.images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    shifts = set()
    for image, source in zip(changed, padded, strict=True):
        windows = {
            (down, right, side): window[:, ::side]
            for down in range(5)
            for right in range(5)
            for side in (1, -1)
            for window in [source[down : down + 32, right : right + 32]]
        }
        (found,) = [how for how, window in windows.items() if (window == image).all()]
        shifts.add(found[:2])
    assert len(shifts) == 25


def test_a_rotated_image_turns_about_its_centre() -> None:
    images = photographs().images[:3]
    angles = np.array([0, np.pi / 2, np.pi], np.float32)
    turned = np.asarray(batches.rotated(images, angles))
    expected = [np.rot90(image, turns) for image, turns in zip(images, (0, 1, 2), strict=True)]
    # Bilinear interpolation is off by a rounding error.
    assert np.abs(turned.astype(int) - np.stack(expected)).max() <= 1


def test_rotated_images_keep_their_middle() -> None:
    given = photographs()
    given.images[:, 14:18, 14:18] = 7
    changed, _ = epoch_of(given, augment="flip-rotate")
    np.testing.assert_array_equal(changed[:, 15:17, 15:17], 7)
    assert (changed != given.images).any(axis=(1, 2, 3)).all()


def test_changes_are_the_same_for_the_same_seed_and_epoch_only() -> None:
    given = photographs()
    again, same = (epoch_of(given, augment="flip-crop")[0] for _ in range(2))
    np.testing.assert_array_equal(again, same)
    for other in (
        epoch_of(given, augment="flip-crop", seed=1),
        epoch_of(given, 3, augment="flip-crop"),
    ):
        assert (other[0] != again).any()


@pytest.mark.parametrize("augment", ["none", "flip-crop", "flip-rotate"])
def test_the_order_seed_alone_draws_the_batches_where_it_is_given(augment: str) -> None:
    def batches_of(**seeds: object) -> npt.NDArray[np.uint8]:
        config = TrialConfig.model_validate({"augment": augment, **seeds})
        data = batches.for_training(*batches.tensors(photographs()), 10, config, epoch=2)
        return np.concatenate([images for images, _ in data.as_numpy_iterator()])

    given = batches_of(seed=3)
    np.testing.assert_array_equal(batches_of(seed=3, order_seed="auto"), given)
    np.testing.assert_array_equal(batches_of(seed=0, order_seed=3), given)
    assert (batches_of(seed=3, order_seed=0) != given).any()


def test_by_default_batches_are_drawn_as_before_there_was_an_order_seed() -> None:
    config = TrialConfig(seed=5, augment="flip-crop")
    data = batches.for_training(*batches.tensors(numbered()), 10, config, epoch=2)
    seen = np.concatenate([labels for _, labels in data.as_numpy_iterator()])
    order = np.random.default_rng([5, 2]).permutation(COUNT)
    np.testing.assert_array_equal(seen, order)
    mirrored, shifts, _ = batches.changes(config, 2, COUNT, np.random.default_rng([5, 2]))
    np.testing.assert_array_equal(mirrored, np.random.default_rng([5, 0]).random(COUNT) >= 0.5)
    np.testing.assert_array_equal(
        shifts, np.random.default_rng([5, 2]).integers(-2, 2, (COUNT, 2), np.int32, endpoint=True)
    )


def test_images_grow_through_the_sizes_of_the_resolution() -> None:
    growing = {"architecture": "airbench93", "resolution": "16-24-32", "epochs": 6}
    sizes = [epoch_of(photographs(), number, **growing)[0].shape[1:3] for number in range(1, 7)]
    assert sizes == [(16, 16)] * 2 + [(24, 24)] * 2 + [(32, 32)] * 2


def test_a_pixel_of_a_smaller_image_is_the_mean_of_those_that_it_covers() -> None:
    given = photographs()
    halved, _ = epoch_of(given, architecture="airbench93", resolution="16-32", epochs=2)
    means = given.images.reshape(COUNT, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    assert np.abs(halved - means).max() <= 0.5


def test_label_smoothing_spreads_a_share_of_each_label_over_all_classes() -> None:
    given = Examples(photographs().images, (np.arange(COUNT) % 10).astype(np.uint8))
    _, smooth = epoch_of(given, label_smoothing=0.2)
    np.testing.assert_allclose(smooth.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(smooth.max(axis=1), 0.82, atol=1e-6)
    np.testing.assert_allclose(smooth.min(axis=1), 0.02, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0, 0.2])
def test_balanced_weights_make_all_classes_count_alike(smoothing: float) -> None:
    labels = np.repeat(np.arange(3, dtype=np.uint8), [80, 20, 7])
    given = batches.tensors(Examples(photographs().images, labels))
    config = TrialConfig(class_weights="balanced", label_smoothing=smoothing)
    data = batches.for_training(*given, 3, config, 1)
    _, truth, weights = (np.concatenate(part) for part in zip(*data.as_numpy_iterator()))
    if smoothing:
        truth = truth.argmax(axis=1)
    np.testing.assert_allclose(weights, compute_sample_weight("balanced", truth), rtol=1e-6)
    np.testing.assert_allclose(np.bincount(truth, weights), COUNT / 3, rtol=1e-5)


def test_larger_images_grow_in_proportion() -> None:
    large = np.zeros((4, 64, 64, 3), np.uint8)
    given = batches.tensors(Examples(large, np.arange(4, dtype=np.uint8)))
    config = TrialConfig(architecture="airbench93", resolution="24-32", epochs=2)
    sizes = [next(iter(batches.for_training(*given, 4, config, n)))[0].shape[1] for n in (1, 2)]
    assert sizes == [48, 64]


def test_images_that_lie_at_any_address_can_be_trained_on() -> None:
    memory = np.arange(10 * 3072 + 64).astype(np.uint8)
    for shift in (0, 1, 16):
        images = memory[shift : shift + 10 * 3072].reshape(10, 32, 32, 3)
        data = batches.for_evaluation(*batches.tensors(Examples(images, np.zeros(10, np.uint8))))
        ((seen, _),) = data
        np.testing.assert_array_equal(seen, images)


def test_images_are_not_copied_into_the_process(small_cifar10: DataSet) -> None:
    train = small_cifar10.split(0.2).train
    tensor, _ = batches.tensors(train)
    train.images[0, 0, 0, 0] += 1  # copy-on-write: changes this mapping, not the file
    assert int(tensor[0, 0, 0, 0]) == int(train.images[0, 0, 0, 0])
