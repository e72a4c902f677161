import hashlib
import pickle

import pytest
from pydantic import ValidationError

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.errors import UsageError, one_line


def refusal(**values: object) -> str:
    with pytest.raises(ValidationError) as caught:
        TrialConfig.model_validate(values)
    return one_line(caught.value)


def test_a_learning_rate_is_a_number_or_auto() -> None:
    assert TrialConfig().learning_rate == "auto"
    assert TrialConfig.model_validate({"learning_rate": "auto"}).learning_rate == "auto"
    assert TrialConfig.model_validate({"learning_rate": "0.5"}).learning_rate == 0.5


def test_a_trial_is_its_configuration_however_it_is_spelled() -> None:
    spelled = TrialConfig.model_validate({"learning_rate": "1e-2", "batch_size": "32"})
    assert spelled.key == TrialConfig(learning_rate=0.01).key


def test_trials_that_differ_have_different_keys() -> None:
    keys = {TrialConfig(seed=seed, epochs=epochs).key for seed in (0, 1) for epochs in (19, 20)}
    assert len(keys) == 4


class Extended(TrialConfig):
    """What a later version may be: with one field more."""

    later: float = 0.0


@pytest.mark.parametrize("changes", [{}, {"seed": 3, "optimizer": "adam"}])
def test_a_new_field_leaves_the_keys_and_names_of_tracked_trials(
    changes: dict[str, object],
) -> None:
    tracked, same = TrialConfig.model_validate(changes), Extended.model_validate(changes)
    assert (same.key, same.name) == (tracked.key, tracked.name)
    other = Extended.model_validate({**changes, "later": 0.1})
    assert other.key != tracked.key
    assert other.name == f"{tracked.name}-later=0.1"


def test_no_default_ever_changes_because_keys_leave_defaults_out() -> None:
    defaults = {
        "architecture": "deep",
        "activation": "relu",
        "batch_size": 32,
        "optimizer": "sgd",
        "learning_rate": "auto",
        "epochs": 20,
        "validation_fraction": 0.2,
        "seed": 0,
        "order_seed": "auto",
        "keep": "last",
        "schedule": "constant",
        "momentum": "auto",
        "weight_decay": "auto",
        "lookahead": 0,
        "label_smoothing": 0,
        "augment": "none",
        "resolution": "32",
        "precision": "float32",
        "tta": "none",
    }
    assert defaults.items() <= TrialConfig().model_dump().items()
    assert TrialConfig().key == hashlib.sha256(b"{}").hexdigest()[:12]


def test_a_name_shows_what_is_not_at_its_default() -> None:
    assert TrialConfig(batch_size=128, optimizer="adam").name == "relu-128-adam-deep"
    trial = TrialConfig(seed=3, learning_rate=0.1)
    assert trial.name == "relu-32-sgd-deep-learning_rate=0.1-seed=3"


def test_a_name_is_the_same_in_the_process_that_trains_the_trial() -> None:
    trial = TrialConfig(optimizer="adam", seed=1).among(["seed"])
    assert trial.name == "seed=1-relu-32-adam-deep"
    assert pickle.loads(pickle.dumps(trial)).name == trial.name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "adm"}, "optimizer=adm: input should be 'sgd', 'adam'"),
        ({"batch_size": "0"}, "batch_size=0: input should be greater than 0"),
        ({"epochs": "-1"}, "epochs=-1: input should be greater than 0"),
        (
            {"validation_fraction": "-0.1"},
            "validation_fraction=-0.1: input should be greater than or equal to 0",
        ),
        ({"validation_fraction": "1.5"}, "validation_fraction=1.5: input should be less than 1"),
        (
            {"learning_rate": "fast"},
            "learning_rate=fast: input should be a valid number or 'auto'",
        ),
        ({"learning_rate": "-1"}, "learning_rate=-1: input should be greater than 0 or 'auto'"),
        ({"learning_rate": "nan"}, "learning_rate=nan: input should be a finite number or 'auto'"),
        ({"seed": "-2"}, "seed=-2: input should be greater than or equal to 0"),
        (
            {"order_seed": "random"},
            "order_seed=random: input should be a valid integer or 'auto'",
        ),
        ({"architecture": "huge"}, "architecture=huge: input should be 'small', 'wide'"),
        ({"keep": ""}, "keep=: input should be 'last' or 'best'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(values: dict[str, str], message: str) -> None:
    assert refusal(**values).startswith(message)


def test_a_trial_on_all_images_is_another_trial_and_alike_in_the_rest() -> None:
    trial = TrialConfig(optimizer="adam", seed=1).among(["seed"])
    spelled = TrialConfig.model_validate(
        {"optimizer": "adam", "seed": "1", "validation_fraction": "0"}
    )
    assert trial.on_all_images.key == spelled.key != trial.key
    assert trial.on_all_images.name == "seed=1-relu-32-adam-deep-validation_fraction=0.0"


def test_images_grow_in_equal_shares_of_the_epochs() -> None:
    trial = TrialConfig(architecture="airbench93", resolution="20-24-24-32", epochs=8)
    sizes = [trial.training_size(epoch, 32) for epoch in range(1, 9)]
    assert sizes == [20, 20, 24, 24, 24, 24, 32, 32]


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 7, 20])
def test_however_few_the_epochs_images_never_shrink_and_the_last_ones_are_whole(
    epochs: int,
) -> None:
    trial = TrialConfig(architecture="airbench93", resolution="20-24-28-32", epochs=epochs)
    sizes = [trial.training_size(epoch, 32) for epoch in range(1, epochs + 1)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 32


@pytest.mark.parametrize("resolution", ["", "24", "33", "24-", "32-24", "8-32", "24-32px"])
def test_a_resolution_ends_at_the_full_size(resolution: str) -> None:
    message = refusal(architecture="airbench93", resolution=resolution)
    assert message.startswith(f"resolution={resolution}: ")
    assert message.endswith("such as 20-24-32")


def test_networks_that_flatten_take_images_of_one_size() -> None:
    assert refusal(resolution="24-32") == (
        "resolution=24-32: deep takes only 32; airbench93, airbench94, airbench95 take any size"
    )


def test_momentum_is_refused_by_optimizers_that_have_none() -> None:
    assert TrialConfig(momentum=0.9).momentum == 0.9
    assert refusal(optimizer="adam", momentum=0.9) == (
        "momentum=0.9: adam has no momentum; sgd, rmsprop, muon have"
    )


def test_the_best_epoch_is_refused_where_no_image_is_held_out_to_find_it() -> None:
    assert TrialConfig(validation_fraction=0).keep == "last"
    assert refusal(validation_fraction="0", keep="best") == (
        "keep=best: this needs validation images, and validation_fraction=0 leaves none; "
        "input should be 'last'"
    )


def test_images_of_another_size_grow_in_proportion() -> None:
    trial = TrialConfig(architecture="airbench93", resolution="20-24-32", epochs=3)
    assert [trial.training_size(epoch, 64) for epoch in (1, 2, 3)] == [40, 48, 64]
    assert [trial.training_size(epoch, 21) for epoch in (1, 2, 3)] == [13, 16, 21]


def test_images_that_are_too_small_for_the_network_are_refused() -> None:
    TrialConfig().check_size(18)
    with pytest.raises(UsageError) as caught:
        TrialConfig().check_size(17)
    line = "architecture=deep: it takes images of 18 x 18 pixels or more, and these have 17 x 17"
    assert str(caught.value) == line
    growing = TrialConfig(architecture="airbench93", resolution="16-32")
    growing.check_size(18)
    with pytest.raises(UsageError, match="these have 8 x 8 at resolution=16-32"):
        growing.check_size(16)


def test_factors_that_were_added_leave_the_keys_of_earlier_trials_as_they_are() -> None:
    assert TrialConfig().key == "44136fa355b3"
    assert TrialConfig(architecture="small").key == "f36984ee72fa"
    assert TrialConfig(class_weights="balanced").key != TrialConfig().key
