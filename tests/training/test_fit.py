"""Real trainings, of a few hundred images for a few epochs."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cifar_mlflow import errors
from cifar_mlflow.architectures import ARCHITECTURES, small
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet, Splits
from cifar_mlflow.errors import CheckpointError
from cifar_mlflow.training import fit
from cifar_mlflow.training.checkpoint import Checkpoint, Epoch, best
from cifar_mlflow.training.network import build
from cifar_mlflow.training.origin import Origin
from tests import standin

pytestmark = pytest.mark.usefixtures("tensorflow")
QUICK = {"architecture": "small", "optimizer": "adam", "epochs": 3}


def quick(**changes: object) -> TrialConfig:
    return TrialConfig.model_validate(QUICK | changes)


def run(config: TrialConfig, data: DataSet) -> fit.Trained:
    return fit.train(config, data, on_epoch=lambda checkpoint: None)


def weights(trained: fit.Trained) -> list[np.ndarray]:
    return [np.asarray(weight) for weight in trained.model.get_weights()]


def without_time(history: list[Epoch]) -> list[Epoch]:
    return [dataclasses.replace(epoch, epoch_seconds=0) for epoch in history]


@dataclasses.dataclass(frozen=True)
class Usual:
    """A training of three epochs, and the checkpoint after each of them."""

    trained: fit.Trained
    checkpoints: list[Checkpoint]


@pytest.fixture(scope="module")
def usual(tensorflow: None, shared_cifar10: DataSet) -> Usual:
    checkpoints: list[Checkpoint] = []
    trained = fit.train(quick(), shared_cifar10, checkpoints.append)
    return Usual(trained, checkpoints)


def test_the_same_seed_gives_the_same_weights_and_history(
    usual: Usual, small_cifar10: DataSet
) -> None:
    again = run(quick(), small_cifar10)
    for one, other in zip(weights(usual.trained), weights(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert without_time(again.history) == without_time(usual.trained.history)


ALL_CHOICES = {
    "architecture": "airbench93",
    "activation": "silu",
    "batch_size": 32,
    "optimizer": "muon",
    "schedule": "triangular",
    "momentum": 0.7,
    "weight_decay": 0.01,
    "lookahead": 2,
    "label_smoothing": 0.2,
    "class_weights": "balanced",
    "augment": "flip-crop",
    "resolution": "16-32",
    "order_seed": 1,
}


@pytest.mark.parametrize(
    "choices",
    [
        {"optimizer": "sgd", "epochs": 2, "tta": "flip-shift"},
        # A high learning rate makes the last epoch differ from the best one.
        {"keep": "best", "learning_rate": 0.02},
        {"validation_fraction": 0, "class_weights": "balanced", "epochs": 2},
        {"epochs": 2, **ALL_CHOICES},
    ],
    ids=["sgd", "best", "all images", "all choices"],
)
def test_a_training_resumed_after_any_epoch_ends_as_one_that_was_not_interrupted(
    small_cifar10: DataSet, choices: dict[str, object]
) -> None:
    config = quick(**choices)
    test = small_cifar10.examples("test")
    saved: list[bytes] = []
    whole = fit.train(config, small_cifar10, lambda epoch: saved.append(epoch.to_bytes()))

    assert len(saved) == config.epochs
    if config.keep == "best":
        assert best(whole.history).epoch < config.epochs
    for content in saved:
        resumed = fit.train(
            config, small_cifar10, lambda checkpoint: None, start=Checkpoint.from_bytes(content)
        )
        for one, other in zip(weights(whole), weights(resumed), strict=True):
            np.testing.assert_array_equal(one, other)
        assert without_time(resumed.history) == without_time(whole.history)
        assert resumed.kept.epoch == whole.kept.epoch
        np.testing.assert_array_equal(
            fit.predict(resumed.model, test), fit.predict(whole.model, test)
        )


def test_lookahead_goes_back_to_the_initial_weights_of_the_images(small_cifar10: DataSet) -> None:
    config = quick(architecture="airbench93", lookahead=5)
    network = fit.prepare(config, small_cifar10.split(0.2).train.images, 10)
    slow = [each for each in network.optimizer.variables if "slow" in each.path]
    assert len(slow) == len(network.trainable_variables)
    for kept, weight in zip(slow, network.trainable_variables, strict=True):
        np.testing.assert_array_equal(kept, weight)


def test_a_checkpoint_of_another_network_is_refused(usual: Usual, small_cifar10: DataSet) -> None:
    other = quick(activation="tanh")
    theirs, ours = (fit.origin(config, standin.EMPTY)["network"] for config in (quick(), other))
    with pytest.raises(CheckpointError, match=f"network {theirs}, now {ours}$"):
        fit.train(other, small_cifar10, lambda _: None, start=usual.checkpoints[0])


@pytest.mark.parametrize("part", ["network", "optimizer", "best_weights"])
def test_a_checkpoint_whose_arrays_do_not_fit_is_refused(
    usual: Usual, small_cifar10: DataSet, part: str
) -> None:
    config = quick(keep="best")
    arrays: dict[str, Any] = {part: [np.zeros(3, np.float32)]}
    unfit = dataclasses.replace(usual.checkpoints[0], **arrays)
    with pytest.raises(CheckpointError, match="do not have the shapes"):
        fit.restore(config, unfit, small_cifar10)


def test_what_was_trained_before_does_not_change_the_origin() -> None:
    before = fit.origin(quick(), standin.EMPTY)
    fit.network_fingerprint.cache_clear()
    build(TrialConfig(), (32, 32, 3), 10)  # layers are named by counting
    assert fit.origin(quick(), standin.EMPTY) == before
    assert fit.origin(quick(seed=1, epochs=7, keep="best"), standin.EMPTY) == before


def test_a_change_of_layers_loss_or_optimizer_changes_the_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = fit.origin(quick(), standin.EMPTY)

    def average_pooling(activation: str) -> list[keras.layers.Layer]:
        first, _, *others = small(activation)
        return [first, keras.layers.AveragePooling2D(2), *others]

    monkeypatch.setitem(ARCHITECTURES, "small", average_pooling)
    uncached = fit.network_fingerprint.__wrapped__
    monkeypatch.setattr(fit, "network_fingerprint", uncached)
    edited = fit.origin(quick(), standin.EMPTY)
    assert differing(before, edited) == {"network"}
    assert differing(edited, fit.origin(quick(optimizer="sgd"), standin.EMPTY)) == {
        "compile_config"
    }
    ignoring = functools.partial(keras.losses.SparseCategoricalCrossentropy, ignore_class=3)
    monkeypatch.setattr(keras.losses, "SparseCategoricalCrossentropy", ignoring)
    assert differing(edited, fit.origin(quick(), standin.EMPTY)) == {"compile_config"}


# Of trials on CIFAR-10 that are tracked already; Keras 3.15 makes them.
FINGERPRINTS: list[tuple[dict[str, object], str]] = [
    ({}, "90a6b79d4b8e"),
    ({"architecture": "small"}, "2df1b4fe5294"),
    (
        {"architecture": "airbench93", "activation": "gelu", "resolution": "20-24-32"},
        "8c5d4d0d4f60",
    ),
]


@pytest.mark.parametrize(("choices", "fingerprint"), FINGERPRINTS)
def test_networks_for_cifar10_keep_their_fingerprints(
    choices: dict[str, object], fingerprint: str
) -> None:
    config = TrialConfig.model_validate(choices)
    assert fit.origin(config, standin.EMPTY)["network"] == fingerprint


def test_networks_for_other_images_or_classes_have_other_fingerprints() -> None:
    larger = dataclasses.replace(standin.EMPTY, image_shape=(48, 48, 3))
    fewer = dataclasses.replace(standin.EMPTY, classes=("cat", "dog"))
    found = {fit.origin(quick(), data)["network"] for data in (standin.EMPTY, larger, fewer)}
    assert len(found) == 3


def differing(one: Origin, other: Origin) -> set[str]:
    return {part for part in one if one[part] != other[part]}


def test_the_seed_gives_the_initial_weights_and_the_order_seed_leaves_them(
    small_cifar10: DataSet,
) -> None:
    images = small_cifar10.examples("train").images
    first, same, other = (
        fit.prepare(quick(**seeds), images, classes=10).get_weights()
        for seeds in ({"seed": 1}, {"seed": 1, "order_seed": 2}, {"seed": 2, "order_seed": 1})
    )
    for one, another in zip(first, same, strict=True):
        np.testing.assert_array_equal(one, another)
    assert not np.array_equal(first[0], other[0])


def test_training_learns_the_classes(small_cifar10: DataSet) -> None:
    test = small_cifar10.examples("test")
    trained = run(quick(epochs=15, batch_size=16), small_cifar10)
    assert trained.history[-1].train_loss < trained.history[0].train_loss
    predicted = fit.predict(trained.model, test).argmax(axis=1)
    assert (predicted == test.labels).mean() > 0.5


def test_there_is_a_checkpoint_after_each_epoch_with_the_history_so_far(usual: Usual) -> None:
    history = usual.trained.history
    assert [list(each.history) for each in usual.checkpoints] == [history[:n] for n in (1, 2, 3)]
    assert all(epoch.learning_rate == pytest.approx(0.001) for epoch in history)


def test_an_epoch_has_the_learning_rate_of_its_first_step(small_cifar10: DataSet) -> None:
    trained = run(quick(schedule="linear", epochs=2, learning_rate=0.01), small_cifar10)
    rates = [epoch.learning_rate for epoch in trained.history]
    assert rates == pytest.approx([0.01, 0.005])


def validated(trained: fit.Trained, data: Splits) -> float:
    """The validation accuracy of the weights that a training ends with."""
    predicted = fit.predict(trained.model, data.validation).argmax(axis=1)
    return float((predicted == data.validation.labels).mean())


def test_the_model_has_no_optimizer(small_cifar10: DataSet) -> None:
    """Keras would warn those who load it that the optimizer's variables are missing."""
    trained = run(quick(tta="flip", epochs=1), small_cifar10)
    assert trained.val_accuracy is not None
    assert not trained.model.compiled


def test_the_weights_are_those_of_the_last_epoch(usual: Usual, small_cifar10: DataSet) -> None:
    last = usual.trained.history[-1]
    assert usual.trained.kept == last
    assert validated(usual.trained, small_cifar10.split(0.2)) == pytest.approx(last.val_accuracy)


def test_the_weights_are_those_of_the_best_epoch_where_that_is_asked_for(
    small_cifar10: DataSet,
) -> None:
    data = small_cifar10.split(0.2)
    # A high learning rate makes the last epoch differ from the best one.
    trained = run(quick(keep="best", epochs=6, learning_rate=0.02), small_cifar10)
    accuracies = [epoch.val_accuracy or 0 for epoch in trained.history]
    assert trained.kept.val_accuracy == max(accuracies) > accuracies[-1]
    assert validated(trained, data) == pytest.approx(max(accuracies))


def test_of_equally_good_epochs_the_first_is_the_best() -> None:
    accuracies = [0.5, 0.7, 0.7, 0.6]
    history = [Epoch(n, 1, 0, 1, a, 0.1, 1) for n, a in enumerate(accuracies, 1)]
    assert best(history).epoch == 2


def test_a_loss_that_is_not_finite_stops_the_training(small_cifar10: DataSet) -> None:
    with pytest.raises(errors.Diverged, match="training loss is nan in epoch 1"):
        run(quick(learning_rate=1e20), small_cifar10)


def test_weights_that_the_last_step_spoils_stop_the_training(small_cifar10: DataSet) -> None:
    # One step: the training loss is from before it.
    config = quick(architecture="deep", optimizer="sgd", batch_size=160, learning_rate=1e30)
    with pytest.raises(errors.Diverged, match="validation loss is nan in epoch 1"):
        run(config, small_cifar10)


def test_a_weight_that_is_not_finite_is_found_where_the_losses_are() -> None:
    epoch = Epoch(2, 2.3, 0.1, 2.3, 0.1, 0.01, 1.0)
    fit.check_finite(epoch, [np.zeros(3)])
    with pytest.raises(errors.Diverged, match="after epoch 2"):
        fit.check_finite(epoch, [np.zeros(3), np.array([0, np.inf])])


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()


def test_tensorboard_gets_scalars_and_a_histogram_of_each_weight(
    small_cifar10: DataSet, tmp_path: Path
) -> None:
    trained = fit.train(quick(epochs=2), small_cifar10, lambda epoch: None, tensorboard=tmp_path)
    written = events(tmp_path)
    tags = written.Tags()["tensors"]
    assert {"train_loss", "val_accuracy"} <= set(tags)
    assert len(tags) == 4 + len(trained.model.trainable_variables)
    assert [event.step for event in written.Tensors("val_loss")] == [1, 2]


# Trained on all training images


def test_without_validation_all_training_images_train(
    small_cifar10: DataSet, tmp_path: Path
) -> None:
    config = quick(validation_fraction=0, label_smoothing=0.1, tta="flip", epochs=1)
    data = small_cifar10.split(config.validation_fraction)
    assert (len(data.train.labels), len(data.validation.labels)) == (200, 0)
    trained = fit.train(config, small_cifar10, lambda epoch: None, tensorboard=tmp_path)
    (epoch,) = trained.history
    assert trained.kept == epoch
    assert epoch.train_loss > 0
    assert (epoch.val_loss, epoch.val_accuracy) == (None, None)
    assert (trained.val_loss, trained.val_accuracy) == (None, None)
    tags = events(tmp_path).Tags()["tensors"]
    scalars = {tag for tag in tags if tag.startswith(("train", "val"))}
    assert scalars == {"train_loss", "train_accuracy"}
