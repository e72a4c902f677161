"""All that determines a trial, the grid of trials, and the parameters of every entry point.

The classes below are at once the command line, its help, the checks, the logged parameters and the
defaults that MLproject repeats (a test holds MLproject against them).
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    PrivateAttr,
    ValidationInfo,
    create_model,
    field_validator,
)

Architecture = Literal["small", "wide", "deep"]
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


class UsageError(ValueError):
    """What a person asked for cannot be done; the message is one line that says what can."""


def _flag(value: object) -> object:
    if isinstance(value, str):
        if value not in ("true", "false"):
            raise ValueError("input should be 'true' or 'false'")
        return value == "true"
    return value


def _comma_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    items = [item.strip() for item in value.split(",")]
    if not all(items):
        empty = "one value of the list" if any(items) else "the list"
        raise ValueError(f"{empty} is empty; input should be one or more values with commas")
    return items


def _different(items: tuple[str, ...]) -> tuple[str, ...]:
    if repeated := sorted({item for item in items if items.count(item) > 1}):
        raise ValueError(f"{', '.join(repeated)} stands more than once")
    return items


def _resume(value: str) -> str:
    if value in ("auto", "never") or re.fullmatch("[0-9a-f]{32}", value):
        return value
    raise ValueError("input should be 'auto', 'never' or a run's id (32 hexadecimal digits)")


def _model_name(value: str) -> str:
    if re.fullmatch(r"[\w-][\w.-]{0,249}", value):
        return value
    raise ValueError(
        "input should be up to 250 letters, digits, '_', '-' and '.', and not begin with '.'"
    )


def user_path(text: str | Path) -> Path:
    """``text`` as a path, with `~` and `~user` as home folders; as it is where such a file exists.

    Raises:
        UsageError: it begins with `~` and a name that has no home folder.
    """
    path = Path(text)
    if os.path.lexists(path):
        return path  # a file's own name may begin with ~
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"no home folder is known for {printable(path.parts[0])}") from None


def written_to(path: Path) -> Path:
    """The file that is written for ``path``: its home spelled out, its links followed."""
    return Path(os.path.realpath(user_path(path)))


def _file_to_write(value: Path) -> Path:
    path = written_to(value)
    # A file replaces what was there: a device, a pipe or a link in a circle would be lost.
    if not path.parent.is_dir() or (os.path.lexists(path) and not path.is_file()):
        raise ValueError("input should be a new or a regular file in a folder that exists")
    return value


# MLproject has no booleans: the words true and false, and nothing else, stand for them.
Flag = Annotated[bool, BeforeValidator(_flag)]
CommaList = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]
FileToWrite = Annotated[Path, AfterValidator(_file_to_write)]
# The values of one factor of a grid, as text: TrialConfig checks each when the trials are planned.
Factor = Annotated[CommaList, AfterValidator(_different)]


def printable(text: str) -> str:
    """``text`` as any terminal, file and run takes it, without the passwords in its addresses.

    What cannot be printed, such as control characters and bytes of a file's name that are not UTF-8,
    becomes U+FFFD; an address loses its ``user:password@``.
    """
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return re.sub(r"(?<=://)[^/?#\s]*@", "", shown)


def as_text(value: object) -> str:
    """A parameter's value as MLproject and a command line spell it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _one_or_two(models: tuple[str, ...]) -> tuple[str, ...]:
    if len(models) > 2:
        raise ValueError(f"input should be one model, or two to compare; these are {len(models)}")
    return models


P = TypeVar("P", bound="Parameters")


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


class Options(Parameters):
    """What every entry point can be told."""

    verbose: Flag = False
    """show the messages of TensorFlow and MLflow too"""


class DataOptions(Options):
    """Where an entry point finds CIFAR-10."""

    data_dir: str = "auto"
    """folder of the extracted CIFAR-10, its parent, or the official archive; auto looks in
    CIFAR10_DIR, in the cache, then downloads"""


class TrainingOptions(DataOptions):
    """How trials are run, which does not change what they compute."""

    threads: PositiveInt | Literal["auto"] = "auto"
    """threads of one trial; auto divides the cores among the trials that run at once"""
    tensorboard: Flag = False
    """write TensorBoard event files with weight histograms, as an artifact"""
    resume: Annotated[str, AfterValidator(_resume)] = "auto"
    """auto goes on from unfinished runs of the same trials and data in the experiment; never starts
    afresh; a run's id goes on from that one"""


class DataParameters(DataOptions):
    """Fetch and verify CIFAR-10; log class examples, class counts and the digest."""


class EvaluateParameters(DataOptions):
    """Evaluate any model on the test set or the validation part; compare two on the same images."""

    model: Annotated[Factor, AfterValidator(_one_or_two)] = ("models:/cifar10-cnn@champion",)
    """any model's URI in MLflow, the id of its run, or a local folder of one; two of them, with a
    comma, are compared"""
    part: Literal["test", "validation"] = "test"
    """the images: the test set, or those that the model's training held out for validation (where that
    is not known, the last fifth of the training images)"""


class ReportParameters(Options):
    """Write the whole study as one HTML page, from tracked runs alone."""

    study: str = "latest"
    """run id of the grid to report on; latest is the newest finished one of the experiment"""
    output: FileToWrite = Path("report.html")
    """file to write the page to; it is an artifact of the run too"""


class TrainParameters(TrainingOptions, TrialConfig):
    """Train, evaluate and track one configuration."""

    @property
    def trial(self) -> TrialConfig:
        return TrialConfig(**self.model_dump(include=set(TrialConfig.model_fields)))


class PredictParameters(Options):
    """Classify a person's own images."""

    images: CommaList
    """files, folders (with all that is in them), patterns such as photos/*.jpg, and http(s) addresses
    (comma list)"""
    model: str = "models:/cifar10-cnn@champion"
    """any model's URI in MLflow, or a local folder of one"""
    output: Path = Path("predictions")
    """folder for predictions.csv, predictions.json and the contact sheet; results of a former predict
    in it are replaced"""


class StudyOptions(TrainingOptions):
    """How many trials are run, and how the best of them is chosen."""

    kind: ClassVar[str]  # the entry point's name

    workers: PositiveInt | Literal["auto"] = "auto"
    """trials that run at once; auto is one for each GPU, or for each core where there is none"""
    engine: Literal["loky", "dask", "ray"] = "loky"
    """what runs the trials: loky, processes on this machine; or a cluster of dask or ray"""
    address: str = "local"
    """the scheduler of dask or the head of ray; local starts one on this machine for the study"""
    retries: int = Field(default=1, ge=0)
    """times that a failed trial is tried again, from its last epoch"""
    outdated: Literal["keep", "retrain"] = "keep"
    """finished trials of an interrupted study that are of another network, TensorFlow or Keras than
    there is now: keep them, marked, or retrain them"""
    select_by: Literal["val_accuracy", "test_accuracy"] = "val_accuracy"
    """what the best is chosen by, its mean where there are several seeds; test_accuracy is the
    study's way, and leaks the test set"""
    dry_run: Flag = False
    """print the plan with its estimated cost, and train nothing"""


class GridOptions(StudyOptions):
    """Train, evaluate and track every combination of the factors; register the best model."""

    kind = "grid"

    model_name: Annotated[str, AfterValidator(_model_name)] = "cifar10-cnn"
    """name of the registered model"""


class ArchitecturesOptions(StudyOptions):
    """Compare the networks: train, evaluate and track each of them; name the best."""

    kind = "architectures"


class StudyParameters(GridOptions):
    """The published study in one command: data, architectures, grid, evaluation and report."""

    kind = "study"

    epochs: PositiveInt = 20
    """passes over the training part, of every training"""
    seed: Factor = ("0",)
    """seeds of every configuration (comma list)"""
    output: FileToWrite = Path("report.html")
    """file to write the report to; it is an artifact of its run too"""

    def part(self, of: type[P], **given: object) -> P:
        """The parameters of a part of the study: those that it shares with the whole, and others."""
        shared = {
            name: value for name, value in self.model_dump().items() if name in of.model_fields
        }
        return of.model_validate(shared | given)

    def architectures(self) -> StudyOptions:
        return self.part(ArchitecturesParameters, epochs=(str(self.epochs),), resume=self.for_parts)

    def grid(self, architecture: str) -> StudyOptions:
        return self.part(
            GridParameters,
            architecture=(architecture,),
            epochs=(str(self.epochs),),
            resume=self.for_parts,
        )

    @property
    def for_parts(self) -> str:
        """A part finds by itself what an interrupted study left of it."""
        return "never" if self.resume == "never" else "auto"


# The study's first part, the three networks alike but for their layers, and its second one, 12
# trainings of the third network.
PUBLISHED_ARCHITECTURES = {"architecture": ("small", "wide", "deep")}
PUBLISHED_GRID = {
    "activation": ("relu", "sigmoid"),
    "batch_size": ("32", "64", "128"),
    "optimizer": ("sgd", "adam"),
}


def _factors(published: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """TrialConfig's fields, each a comma list; by default what the study varied."""
    return {
        name: (
            Factor,
            Field(
                default=published.get(name, (str(field.default),)),
                description=f"{field.description} (comma list)",
            ),
        )
        for name, field in TrialConfig.model_fields.items()
    }


GridParameters = create_model(
    "GridParameters",
    __base__=GridOptions,
    __doc__=GridOptions.__doc__,
    **_factors(PUBLISHED_GRID),
)
ArchitecturesParameters = create_model(
    "ArchitecturesParameters",
    __base__=ArchitecturesOptions,
    __doc__=ArchitecturesOptions.__doc__,
    **_factors(PUBLISHED_ARCHITECTURES),
)


def expand(study: StudyOptions) -> list[TrialConfig]:
    """Every combination of the factors of a GridParameters or ArchitecturesParameters.

    The last factor varies fastest.

    Raises:
        pydantic.ValidationError: a value is not allowed for its factor.
        UsageError: two combinations are the same trial under two spellings.
    """
    factors = {name: getattr(study, name) for name in TrialConfig.model_fields}
    varied = [name for name, values in factors.items() if len(values) > 1]
    combinations = [dict(zip(factors, values)) for values in itertools.product(*factors.values())]
    trials: dict[str, TrialConfig] = {}
    for combination in combinations:
        trial = TrialConfig(**combination).among(varied)
        if trial.key in trials:
            raise UsageError(f"{trial.name} stands more than once in the study")
        trials[trial.key] = trial
    return list(trials.values())
