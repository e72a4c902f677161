"""All that determines a trial, the grid of trials, and the parameters of every entry point.

The classes below are at once the command line, its help, the checks, the logged parameters and the
defaults that MLproject repeats (a test holds MLproject against them).
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    PrivateAttr,
    ValidationInfo,
    field_validator,
)

from cifar_mlflow.architectures import Architecture

Activation = Literal[
    "relu", "sigmoid", "tanh", "elu", "selu", "gelu", "silu", "leaky_relu", "softplus"
]
Optimizer = Literal["sgd", "adam", "adamw", "nadam", "adamax", "rmsprop", "adagrad", "adadelta"]
# Keras' default learning rate of each optimizer, so that plans need no TensorFlow (a test compares).
DEFAULT_LEARNING_RATES: dict[str, float] = {
    "sgd": 0.01,
    "adam": 0.001,
    "adamw": 0.001,
    "nadam": 0.001,
    "adamax": 0.001,
    "rmsprop": 0.001,
    "adagrad": 0.001,
    "adadelta": 0.001,
}


class Parameters(BaseModel):
    """Base of all parameter classes: frozen, strict about names, described by docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TrialConfig(Parameters):
    """One training of one configuration; equal configurations on equal data are the same trial."""

    architecture: Architecture = "deep"
    """the network: small, wide or deep (the study's first, second and third)"""
    activation: Activation = "relu"
    """activation function of the hidden layers"""
    batch_size: PositiveInt = 32
    """training images per step"""
    optimizer: Optimizer = "sgd"
    """optimizer, by Keras' name"""
    learning_rate: float = Field(default="auto", gt=0, allow_inf_nan=False, validate_default=True)
    """learning rate; auto is the optimizer's default in Keras"""
    epochs: PositiveInt = 20
    """passes over the training part"""
    validation_fraction: float = Field(default=0.2, gt=0, lt=1)
    """share of the training images, the last ones in the file, held out for validation"""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """seed of the initial weights and of the order of the batches"""
    keep: Literal["last", "best"] = "last"
    """the weights to keep: of the last epoch, or of the one with the best validation accuracy"""

    _varied: frozenset[str] = PrivateAttr(default=frozenset())  # the factors of its study

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _default_learning_rate(cls, value: object, info: ValidationInfo) -> object:
        if value == "auto":
            # A wrong optimizer has been reported by its own field by now; any rate will do.
            return DEFAULT_LEARNING_RATES.get(info.data.get("optimizer", ""), 1.0)
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ValueError("input should be a number greater than 0, or 'auto'") from None

    @property
    def key(self) -> str:
        """The trial's identity: 12 hexadecimal digits of its configuration's SHA-256."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """A readable name, such as ``relu-128-adam-deep``; other factors where not at default.

        What its study varies comes first, and activations have four letters, because MLflow's table of
        runs shows about eleven: they tell apart the trials of both published studies.
        """
        usual = TrialConfig(optimizer=self.optimizer)
        parts = {
            "activation": self.activation[:4],
            "batch_size": str(self.batch_size),
            "optimizer": self.optimizer,
            "architecture": self.architecture,
        }
        for name, value in self.model_dump(exclude=set(parts)).items():
            if value != getattr(usual, name):
                parts[name] = f"{name}={value}"
        return "-".join(parts[name] for name in sorted(parts, key=lambda n: n not in self._varied))

    def among(self, varied: Iterable[str]) -> Self:
        """The same trial in a study that varies these factors, which its name then begins with."""
        trial = self.model_copy()
        trial._varied = frozenset(varied)
        return trial

    @property
    def configuration(self) -> "TrialConfig":
        """The trial with the usual seed: what trials that differ in nothing but the seed share."""
        return self.model_copy(update={"seed": type(self).model_fields["seed"].default})
