"""TrialConfig: all that determines one training, besides the data and the software."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    PrivateAttr,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from cifar_mlflow.architectures import ANY_SIZE, SMALLEST, Architecture
from cifar_mlflow.errors import UsageError

Activation = Literal[
    "relu", "sigmoid", "tanh", "elu", "selu", "gelu", "silu", "leaky_relu", "softplus"
]
Optimizer = Literal[
    "sgd", "adam", "adamw", "nadam", "adamax", "rmsprop", "adagrad", "adadelta", "muon"
]
# Height and width of the images in a data set, in pixels.
SMALLEST_IMAGE, LARGEST_IMAGE = 16, 128
SEEDS = 2**31  # random seeds are below this
FULL_SIZE = "32"  # pixels; the sizes of a resolution are those of images of this size
WITH_MOMENTUM = ("sgd", "rmsprop", "muon")


def _resolution(value: str) -> str:
    sizes = value.split("-")
    if (
        not all(re.fullmatch("1[6-9]|2[0-9]|3[0-2]", size) for size in sizes)
        or sizes[-1] != FULL_SIZE
    ):
        raise ValueError("input should be sizes of 16 to 32 pixels, the last 32, such as 20-24-32")
    return value


class Parameters(BaseModel):
    """Base of all parameter classes: immutable, no unknown names, docstrings as help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def help_text(field: FieldInfo) -> str:
    """What a parameter means, with the allowed words where the description does not name them all."""
    text = " ".join((field.description or "").split())
    words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if len(words) < 2 or all(word in text for word in words):
        return text
    return f"{text}; one of {', '.join(words)}"


class TrialConfig(Parameters):
    """One training of one configuration; with an equal `key`, on equal data, it is the same trial.

    A new field needs a default that trains as before, and a default must never change: `key` leaves
    out what is at its default.
    """

    VARIED: ClassVar = ("activation", "batch_size", "optimizer", "architecture")
    """The factors that the paper varies, in the order in which a trial's name shows them."""

    architecture: Architecture = "deep"
    """the network; small, wide and deep are the paper's first, second and third"""
    activation: Activation = "relu"
    """activation function of the hidden layers"""
    batch_size: int = Field(default=32, gt=0, lt=2**31)
    """training images per step"""
    optimizer: Optimizer = "sgd"
    """optimizer, by its Keras name; muon is this project's own"""
    # auto and the number that it stands for are two trials: only the optimizer knows that number.
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = "auto"
    """learning rate; auto is the optimizer's default: Keras', or 0.24 for muon"""
    schedule: Literal["constant", "linear", "cosine", "triangular"] = "constant"
    """learning rate over the steps: constant; linear or cosine, falling to zero; or triangular, rising
    from zero for the first fifth and then falling back"""
    momentum: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    """momentum of sgd (Nesterov's), rmsprop or muon; auto is the optimizer's default"""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    """decoupled weight decay: each step takes this share of a weight, times the learning rate; with muon
    convolutions keep their norm, and only other weights decay; auto is the optimizer's default"""
    lookahead: int = Field(default=0, ge=0)
    """number of steps after which weights move halfway back to where the last move left them; 0 for
    never"""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """share of each training label that is spread over all classes"""
    class_weights: Literal["none", "balanced"] = "none"
    """weight of a training image in the loss: none, the same for all; balanced, the inverse of the size
    of its class, so that all classes count alike"""
    augment: Literal["none", "flip", "flip-crop", "flip-rotate"] = "none"
    """random changes to training images: flip, mirroring every other epoch; crop, shifts of up to 2
    pixels; rotate, by up to 36 degrees"""
    resolution: Annotated[str, AfterValidator(_resolution)] = FULL_SIZE
    """sizes that the training images grow through, each for an equal share of the epochs, such as
    20-24-32; in pixels for images of 32 x 32, and scaled for others (24 means 48 with image_size=64)"""
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """number format of the training; mixed_bfloat16 needs a processor that has it"""
    tta: Literal["none", "flip", "flip-shift"] = "none"
    """test-time augmentation, part of the model: it averages over the image and its mirror image, and
    over both shifted by a pixel"""
    epochs: PositiveInt = 20
    """passes over the training images"""
    validation_fraction: float = Field(default=0.2, ge=0, lt=1)
    """share of the training images held out for validation (of CIFAR-10 the last ones; of your own
    images chosen by content); 0 trains on all images and gives no validation accuracy"""
    seed: int = Field(default=0, ge=0, lt=SEEDS)
    """random seed of the initial weights and, unless order_seed is given, of the order of the images"""
    # auto and the number that it stands for are two trials here too: order_seed=0 with several seeds is
    # a study of the initial weights, and auto is not.
    order_seed: Annotated[int, Field(ge=0, lt=SEEDS)] | Literal["auto"] = "auto"
    """random seed of the order of the images and of their augmentation; auto is the value of seed"""
    keep: Literal["last", "best"] = "last"
    """the weights to keep: last, those of the last epoch; best, those of the epoch with the best
    validation accuracy"""

    @field_validator("momentum")
    @classmethod
    def _has_momentum(cls, value: object, info: ValidationInfo) -> object:
        optimizer = info.data.get("optimizer")
        if value != "auto" and optimizer and optimizer not in WITH_MOMENTUM:
            raise ValueError(f"{optimizer} has no momentum; {', '.join(WITH_MOMENTUM)} have")
        return value

    @field_validator("resolution")
    @classmethod
    def _takes_any_size(cls, value: str, info: ValidationInfo) -> str:
        architecture = info.data.get("architecture")
        if value != FULL_SIZE and architecture and architecture not in ANY_SIZE:
            raise ValueError(
                f"{architecture} takes only {FULL_SIZE}; {', '.join(sorted(ANY_SIZE))} take any size"
            )
        return value

    @field_validator("keep")
    @classmethod
    def _has_validation(cls, value: str, info: ValidationInfo) -> str:
        if value == "best" and info.data.get("validation_fraction") == 0:
            raise ValueError(
                "this needs validation images, and validation_fraction=0 leaves none; input should be "
                "'last'"
            )
        return value

    # For its name alone: the factors of its study, and the recipe that it is a variant of.
    _varied: frozenset[str] = PrivateAttr(default=frozenset())
    _recipe: "Recipe | None" = PrivateAttr(default=None)

    @property
    def key(self) -> str:
        """The trial's identity: 12 hexadecimal digits of the SHA-256 of all that is not at its default.

        So a new field leaves the keys of all tracked trials as they are.
        """
        text = json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """A readable name, such as ``relu-128-adam-deep``; other factors where not at their default.

        A trial of a recipe is named after that, and after what differs from it: ``fast-seed=1``. What its
        study varies comes first, and activations are cut to four letters, because MLflow's table of runs
        shows about eleven characters: these distinguish the trials of the paper's studies.
        """
        values = self.model_dump()
        if self._recipe:
            base, parts = self._recipe.values, {"recipe": self._recipe.name}
        else:
            base = type(self)().model_dump()
            parts = {name: str(values[name]) for name in self.VARIED}
            parts["activation"] = parts["activation"][:4]
        parts |= {
            name: f"{name}={value}"
            for name, value in values.items()
            if name not in parts and value != base.get(name)
        }
        return "-".join(parts[name] for name in sorted(parts, key=lambda n: n not in self._varied))

    def among(self, varied: Iterable[str], recipe: "Recipe | None" = None) -> Self:
        """The same trial in a study that varies these factors, and with the name of a recipe."""
        trial = self.model_copy()
        trial._varied = frozenset(varied)
        trial._recipe = recipe
        return trial

    @property
    def on_all_images(self) -> Self:
        """The same trial, trained on all training images, so that none are left for validation."""
        return self.model_copy(update={"validation_fraction": 0.0})

    def training_size(self, epoch: int, full_size: int) -> int:
        """Height and width of the training images in an epoch, counted from 1, in pixels.

        The last epoch has the last size, however few epochs there are.

        Args:
            full_size: that of the images in the data set.
        """
        sizes = self.resolution.split("-")
        size = int(sizes[math.ceil(epoch * len(sizes) / self.epochs) - 1])
        return round(size * full_size / int(FULL_SIZE))

    def check_size(self, full_size: int) -> None:
        """Refuse images that are too small for the network, at any time of the training.

        Args:
            full_size: height and width of the images in the data set, in pixels.

        Raises:
            UsageError: they are.
        """
        smallest = min(self.training_size(epoch, full_size) for epoch in range(1, self.epochs + 1))
        if smallest < (needed := SMALLEST.get(self.architecture, 1)):
            at = "" if smallest == full_size else f" at resolution={self.resolution}"
            raise UsageError(
                f"architecture={self.architecture}: it takes images of {needed} x {needed} pixels or "
                f"more, and these have {smallest} x {smallest}{at}"
            )

    @property
    def changes_for_use(self) -> bool:
        """Whether the finished model computes otherwise than the network did in training."""
        return self.tta != "none" or self.precision != "float32"

    @property
    def network_config(self) -> "TrialConfig":
        """The trial with everything at its default that its network does not depend on in training."""
        names = ("architecture", "activation", "resolution", "precision")
        return TrialConfig(**self.model_dump(include=set(names)))

    @property
    def configuration(self) -> "TrialConfig":
        """The trial with the default seed: what trials that differ only in their seed share.

        Its name does not mention the seed, though its recipe may have another.
        """
        seed = {"seed": type(self).model_fields["seed"].default}
        shared = self.model_copy(update=seed)
        if recipe := self._recipe:
            shared._recipe = replace(recipe, values={**recipe.values, **seed})
        return shared


@dataclass(frozen=True)
class Recipe:
    """A name, and the values of the fields that a trial has if nothing else is given."""

    name: str
    values: Mapping[str, object]


def combinations(
    values: Mapping[str, Sequence[object]], recipe: Recipe | None = None
) -> list[TrialConfig]:
    """Every combination of the values of some fields; the last field varies fastest.

    Args:
        recipe: what the trials are named after.

    Raises:
        pydantic.ValidationError: a value is not allowed for its field.
        UsageError: two combinations are one trial in two spellings, such as 0.1 and 1e-1.
    """
    varied = [name for name, several in values.items() if len(several) > 1]
    trials: dict[str, TrialConfig] = {}
    for combination in itertools.product(*values.values()):
        trial = TrialConfig.model_validate(dict(zip(values, combination))).among(varied, recipe)
        if trial.key in trials:
            raise UsageError(f"the trial {trial.name} is given twice")
        trials[trial.key] = trial
    return list(trials.values())
