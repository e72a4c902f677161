"""The parameters of every entry point, and the trials that a study consists of.

The classes below are at once the command line, its help, the checks, the logged parameters and the
defaults that MLproject repeats (a test holds MLproject against them).
"""

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, create_model

from cifar_mlflow.config import Parameters, TrialConfig
from cifar_mlflow.errors import UsageError
from cifar_mlflow.paths import written_to


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


def _one_or_two(models: tuple[str, ...]) -> tuple[str, ...]:
    if len(models) > 2:
        raise ValueError(f"input should be one model, or two to compare; these are {len(models)}")
    return models


P = TypeVar("P", bound="Parameters")


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
    """Write the paper's figures and tables as one HTML page, from tracked runs alone."""

    run_id: str = "latest"
    """the grid to report on; latest is the newest finished one of the experiment"""
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
    select_by: Literal["validation", "test"] = "validation"
    """images whose accuracy chooses the best, by its mean over seeds; test is the paper's way, and
    leaks the test set"""
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


class ReproduceParameters(GridOptions):
    """Reproduce the whole paper in one command: data, architectures, grid, evaluation and report."""

    kind = "reproduce"

    epochs: PositiveInt = 20
    """passes over the training part, of every training"""
    seed: Factor = ("0",)
    """seeds of every configuration (comma list)"""
    output: FileToWrite = Path("report.html")
    """file to write the report to; it is an artifact of its run too"""

    def part(self, of: type[P], **given: object) -> P:
        """The parameters of one part: those that it shares with the whole, and ``given`` ones."""
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
