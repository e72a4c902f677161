"""The parameters of every entry point, and the trials that a study consists of.

Each class is at once the command line, its help, the checks and the logged parameters of an entry
point. MLproject and docs/parameters.md are generated from them (``python -m tools.generate``).
"""

import itertools
import os
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    create_model,
    model_validator,
)

from cifar_mlflow import recipes
from cifar_mlflow.config import (
    LARGEST_IMAGE,
    SEEDS,
    SMALLEST_IMAGE,
    Parameters,
    Recipe,
    TrialConfig,
    combinations,
    help_text,
)
from cifar_mlflow.formatting import as_text
from cifar_mlflow.paths import written_to
from cifar_mlflow.space import Space, accepted

P = TypeVar("P", bound="Parameters")
S = TypeVar("S", bound="StudyOptions")


CHAMPION = "models:/cifar10-cnn@champion"
AUTO = "auto"  # the name of a registered model that follows from the data


# Types of values ------------------------------------------------------------------------------


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


def _paths(value: object) -> object:
    """A comma list, or one path with a comma in its name."""
    is_path = isinstance(value, str) and os.path.lexists(os.path.expanduser(value))
    return [value] if is_path else _comma_list(value)


def _distinct(items: tuple[str, ...]) -> tuple[str, ...]:
    for item in items:
        if items.count(item) > 1:
            raise ValueError(f"{item} is given twice; input should be different values")
    return items


def _rungs(value: object) -> object:
    if not isinstance(value, str) or value == "none":
        return value
    numbers = [int(item) if item.strip().isdecimal() else 0 for item in value.split(",")]
    if len(numbers) < 2 or min(numbers) < 1 or any(a >= b for a, b in itertools.pairwise(numbers)):
        raise ValueError("input should be 'none' or ascending numbers of epochs, such as 3,9,27")
    return tuple(numbers)


def _one_or_two(models: tuple[str, ...]) -> tuple[str, ...]:
    if len(models) > 2:
        raise ValueError(f"input should be one model, or two to compare, not {len(models)}")
    return models


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
    # Writing replaces what is there; a device, a pipe or a circular link would be lost.
    if not path.parent.is_dir() or (os.path.lexists(path) and not path.is_file()):
        raise ValueError("input should be a new or a regular file in a folder that exists")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError("input should be a file in a folder that can be written to")
    return value


# MLproject has no booleans, so the words true and false are used, and nothing else is accepted.
Flag = Annotated[bool, BeforeValidator(_flag)]
CommaList = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]
FileToWrite = Annotated[Path, AfterValidator(_file_to_write)]
Formats = Annotated[
    tuple[Literal["onnx", "litert"], ...], BeforeValidator(_comma_list), AfterValidator(_distinct)
]
# The values of one factor, as text: TrialConfig checks each of them when the trials are planned.
Factor = Annotated[CommaList, AfterValidator(_distinct)]
Rungs = Annotated[tuple[PositiveInt, ...] | Literal["none"], BeforeValidator(_rungs)]


# Shared options -------------------------------------------------------------------------------


class Options(Parameters):
    """What every entry point takes."""

    verbose: Flag = False
    """show the messages of TensorFlow and MLflow too"""

    @model_validator(mode="before")
    @classmethod
    def _is_not_empty(cls, given: Any) -> Any:
        """An empty path would be the present folder; most come from a variable that is not set."""
        for name, field in cls.model_fields.items():
            is_text = field.annotation in (str, Path)
            if is_text and isinstance(given, dict) and given.get(name) == "":
                raise ValueError(f"{name} is empty; give a value, or leave it out")
        return given


class DataOptions(Options):
    """Where an entry point finds the data."""

    data_dir: str = "auto"
    """your own images: a folder with a folder for each class, or an .npz file; or CIFAR-10: its extracted
    folder, the parent of that, or the official archive; auto looks for CIFAR-10 in CIFAR10_DIR, then in
    the cache, then downloads it"""
    image_size: int = Field(default=32, ge=SMALLEST_IMAGE, le=LARGEST_IMAGE)
    """height and width, in pixels, that your own images are cropped and resized to"""


class TrainingOptions(DataOptions):
    """How trials run. Of these only `threads` can change their results, in the last bits."""

    threads: PositiveInt | Literal["auto"] = "auto"
    """threads per trial; auto divides the cores among the trials that run at once"""
    tensorboard: Flag = False
    """save TensorBoard event files with weight histograms as an artifact"""
    resume: Annotated[str, AfterValidator(_resume)] = "auto"
    """auto resumes unfinished runs of the same trials and data in the experiment; never starts
    afresh, so that later commands leave them out too; a run's id resumes that run"""


class RecipeOption(Parameters):
    """Where the fields of a trial get the values that are not given."""

    several: ClassVar = True  # a field may have several values, as text: the levels of a factor

    recipe: str = recipes.NONE
    """a named configuration: the name of a file in recipes/, without .toml, or the path of your own
    .toml file; parameters that you give override it; none for no recipe"""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        recipe = given.get("recipe", recipes.NONE) if isinstance(given, dict) else recipes.NONE
        if not isinstance(recipe, str) or recipe == recipes.NONE:
            return given
        return recipes.read(recipe, cls.several, given) | given


class StudyOptions(TrainingOptions):
    """How many trials run at once, what happens to failed ones, and how the best one is chosen."""

    kind: ClassVar[str]  # the entry point's name
    compares_networks: ClassVar[bool] = False  # its summary shows the networks, layer by layer

    workers: PositiveInt | Literal["auto"] = "auto"
    """trials that run at once; auto is one per GPU, or one per core where there is no GPU"""
    engine: Literal["loky", "dask", "ray"] = "loky"
    """what runs the trials: loky, processes on this machine; dask or ray, a cluster"""
    address: str = "local"
    """address of dask's scheduler or of ray's head node; local starts one on this machine"""
    retries: int = Field(default=1, ge=0)
    """how often a failed trial is retried, from its last epoch"""
    max_same_failures: PositiveInt = 3
    """stop the study after this many failures in a row with the same message"""
    outdated: Literal["keep", "retrain"] = "keep"
    """what to do with finished trials of an interrupted study whose network, TensorFlow or Keras has
    since changed: keep them, marked, or retrain them"""
    select_by: Literal["validation", "test"] = "validation"
    """the images whose accuracy (mean over the seeds) selects the best trial; test is the paper's way,
    and leaks the test set"""
    dry_run: Flag = False
    """print the plan and train nothing"""

    @model_validator(mode="after")
    def _has_workers(self) -> Self:
        if self.engine == "loky" and self.address != "local":
            raise ValueError(
                f"address={self.address}: the engine loky has none, because it runs on this machine; "
                "input should be local, or engine=dask or ray"
            )
        if self.engine == "dask" and self.address != "local" and self.workers != "auto":
            raise ValueError(
                f"workers={self.workers}: the workers of the cluster at address={self.address} decide how "
                "many trials run at once; input should be auto"
            )
        return self

    @property
    def registers_as(self) -> str | None:
        """The registered model that the best trial becomes a version of; None registers nothing."""
        return None

    @property
    def refits(self) -> bool:
        """Whether the best trial is trained again on all training images, and that model registered."""
        return False


class RegistryOptions(Parameters):
    """Where the best trial of a study is registered, and whether it is trained on more images first."""

    model_name: Annotated[str, AfterValidator(_model_name)] = AUTO
    """name of the registered model; auto names it after the data, such as cifar10-cnn"""
    refit: Flag = False
    """train the best trial again, on all training images, and register this model; it is judged by the
    validation accuracy of the trial that was chosen"""

    @property
    def registers_as(self) -> str:
        return self.model_name

    @property
    def refits(self) -> bool:
        return self.refit


# Entry points ---------------------------------------------------------------------------------


class DataParameters(DataOptions):
    """Fetch and verify CIFAR-10, or read your own images; log examples, class counts and the digest."""


class TrainParameters(TrainingOptions, TrialConfig, RecipeOption):
    """Train, evaluate and track one configuration."""

    several = False

    @property
    def trial(self) -> TrialConfig:
        trial = TrialConfig(**self.model_dump(include=set(TrialConfig.model_fields)))
        return trial.among((), recipes.find(self.recipe))


class EvaluateParameters(DataOptions):
    """Evaluate any model on the test set or the validation part; compare two on the same images."""

    model: Annotated[Factor, AfterValidator(_one_or_two)] = (CHAMPION,)
    """a model's URI in MLflow, the id of its run, a local folder, or an exported file; two models,
    separated by a comma, are compared"""
    part: Literal["test", "validation"] = "test"
    """the images: the test set, or those held out for validation when the model was trained (as with
    validation_fraction=0.2, if that is not known)"""


class PredictParameters(Options):
    """Classify your own images."""

    images: Annotated[tuple[str, ...], BeforeValidator(_paths)]
    """files, folders (searched recursively), patterns such as photos/*.jpg, and http(s) URLs
    (comma list)"""
    model: str = CHAMPION
    """a model's URI in MLflow, the id of its run, a local folder, or an exported file (.onnx or
    .tflite), which needs no TensorFlow"""
    output: Path = Path("predictions")
    """folder for predictions.csv, predictions.json and the contact sheet; replaces the output of an
    earlier predict"""


class ExportParameters(DataOptions):
    """Export a model to files that run without TensorFlow; measure each against the model."""

    model: str = CHAMPION
    """a model's URI in MLflow, the id of its run, or a local folder"""
    formats: Formats = ("onnx", "litert")
    """onnx, for ONNX Runtime and browsers; litert (TensorFlow Lite), for phones and small devices
    (comma list)"""
    int8: Flag = False
    """export each format with 8-bit numbers too, calibrated on training images: a quarter of the size"""
    output: Path = Path("exported")
    """folder for the model in all formats, its card and config.json, as a model hub takes it; replaces
    the output of an earlier export"""


class DemoParameters(Options):
    """Write one HTML file in which people try a model on their own pictures; it needs no network."""

    model: str = CHAMPION
    """a model's URI in MLflow, the id of its run, a local folder, or an exported .onnx file"""
    output: FileToWrite = Path("demo.html")
    """file to write the page to; also logged as an artifact"""


class ReportParameters(Options):
    """Write the paper's figures and tables as one HTML page, using only tracked runs."""

    run_id: str = "latest"
    """the grid to report on; latest is the newest finished one of the experiment"""
    output: FileToWrite = Path("report.html")
    """file to write the page to; also logged as an artifact"""


def factors(
    takes: Callable[[str], str] = lambda name: "comma list", **values: tuple[str, ...]
) -> Callable[[type[S]], type[S]]:
    """A class decorator: add TrialConfig's fields, each as a comma list, with these defaults.

    Args:
        takes: gives for a field's name what its help text says that it takes.
    """

    def add(study: type[S]) -> type[S]:
        fields: dict[str, Any] = {
            name: (
                Factor,
                Field(
                    default=values.get(name, (str(field.default),)),
                    description=f"{help_text(field)} ({takes(name)})",
                ),
            )
            for name, field in TrialConfig.model_fields.items()
        }
        lists = create_model("Factors", __base__=RecipeOption, **fields)
        bases: tuple[type[Any], ...] = (study, lists)  # in this order the factors come first
        return create_model(
            study.__name__, __base__=bases, __module__=study.__module__, __doc__=study.__doc__
        )

    return add


@factors(activation=("relu", "sigmoid"), batch_size=("32", "64", "128"), optimizer=("sgd", "adam"))
class GridParameters(RegistryOptions, StudyOptions):
    """Train, evaluate and track every combination of the factors; register the best model."""

    kind = "grid"


@factors(architecture=("small", "wide", "deep"))
class ArchitecturesParameters(StudyOptions):
    """Compare the networks: train, evaluate and track each of them; name the best."""

    kind = "architectures"
    compares_networks = True


@factors(
    accepted,
    batch_size=("32", "64", "128"),
    optimizer=("sgd", "adam"),
    learning_rate=("log:0.0001..0.1",),
)
class SearchParameters(RegistryOptions, StudyOptions):
    """Search for the best configuration: propose trials, stop the poor ones early, train the best ones
    again with several seeds; register the best model."""

    kind = "search"

    trials: PositiveInt = 20
    """number of configurations to try"""
    sampler: Literal["tpe", "random", "gp"] = "tpe"
    """the Optuna sampler that proposes them: tpe, tree-structured Parzen estimators; gp, a Gaussian
    process, which needs PyTorch and no rungs; random, independent draws"""
    sampler_seed: int = Field(default=0, ge=0)
    """random seed of the sampler"""
    rungs: Rungs = "none"
    """epochs at which only the best trials of a round go on, such as 3,9,27, the last being all epochs;
    none trains every trial to its end"""
    round_size: PositiveInt | Literal["auto"] = "auto"
    """trials proposed together, based on the results of earlier rounds; auto is just enough for one to
    reach the last rung, or 8 without rungs"""
    finalists: PositiveInt = 3
    """configurations that are trained again, with new seeds: those with the best validation accuracy"""
    replicates: PositiveInt = 5
    """number of new seeds for each finalist, counted up from seed"""
    select_by: Literal["validation"] = "validation"
    """the images whose accuracy (mean over the replicates) selects the best configuration"""

    @model_validator(mode="before")
    @classmethod
    def _epochs_follow_rungs(cls, given: Any) -> Any:
        rungs = given.get("rungs", "none") if isinstance(given, dict) else "none"
        if not isinstance(rungs, str) or rungs == "none" or "epochs" in given:
            return given
        return given | {"epochs": rungs.rpartition(",")[2]}

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.rungs != "none" and self.rungs[-1] != self.epochs_each:
            raise ValueError(
                f"rungs={as_text(self.rungs)}: the last one should be epochs={self.epochs_each}"
            )
        if self.rungs != "none" and self.sampler == "gp":
            raise ValueError(
                "sampler=gp: it learns only from trials that were trained to their end; input should be "
                "tpe or random, or rungs=none"
            )
        if self.space.domains["validation_fraction"].examples == (0,):
            raise ValueError(
                "validation_fraction=0: this leaves no image to compare the trials by; input should be "
                "greater than 0"
            )
        seed = int(self.space.domains["seed"].examples[0])
        if seed + self.replicates >= SEEDS:
            raise ValueError(
                f"seed={seed}: the finalists have the {self.replicates} seeds that follow; input should be "
                f"less than {SEEDS - self.replicates}"
            )
        return self

    @cached_property
    def space(self) -> Space:
        """What may be proposed."""
        texts = {name: getattr(self, name) for name in TrialConfig.model_fields}
        return Space.parse(texts, _recipe(self))

    @property
    def epochs_each(self) -> int:
        """The epochs of a trial that is trained to its end."""
        return int(self.space.domains["epochs"].examples[0])

    @property
    def stages(self) -> tuple[int, ...]:
        """The epochs that trials are trained to, one after the other."""
        return (self.epochs_each,) if self.rungs == "none" else self.rungs

    @property
    def possible_trials(self) -> int:
        """The number of trials, which is smaller than asked for if the space has no more."""
        return int(min(self.trials, self.space.size))

    @property
    def proposed_at_once(self) -> int:
        if self.round_size != "auto":
            return self.round_size
        return 8 if self.rungs == "none" else self.rungs[-1] // self.rungs[0]

    @property
    def most_at_once(self) -> int:
        """The most trials that can run at the same time."""
        return max(self.proposed_at_once, self.finalists * self.replicates)

    @property
    def plan(self) -> dict[str, object]:
        """All that determines what is proposed and which trials go on."""
        names = {"trials", "sampler", "sampler_seed"}
        return {
            **self.model_dump(include=names),
            "space": self.space.identity(),
            "stages": self.stages,
            "proposed_at_once": self.proposed_at_once,
        }


class ReproduceParameters(RegistryOptions, StudyOptions):
    """Reproduce the whole paper in one command: data, architectures, grid, evaluation and report."""

    epochs: PositiveInt = 20
    """passes over the training images, in every trial"""
    seed: Factor = ("0",)
    """random seeds of every configuration (comma list)"""
    output: FileToWrite = Path("report.html")
    """file to write the report to; also logged as an artifact"""

    def part(self, of: type[P], **given: object) -> P:
        """The parameters of one part: those that it shares with the whole, and ``given`` ones."""
        shared = {
            name: value for name, value in self.model_dump().items() if name in of.model_fields
        }
        return of.model_validate(shared | given)

    def architectures(self) -> StudyOptions:
        return self._study(ArchitecturesParameters)

    def grid(self, architecture: str) -> StudyOptions:
        return self._study(GridParameters, architecture=(architecture,))

    def _study(self, of: type[S], **given: object) -> S:
        # A part finds what an interrupted run left of it without the run's id.
        resume = "never" if self.resume == "never" else "auto"
        return self.part(of, epochs=(str(self.epochs),), resume=resume, **given)


# The trials of a study ------------------------------------------------------------------------


def expand(study: StudyOptions) -> list[TrialConfig]:
    """Every combination of the factors of a GridParameters or ArchitecturesParameters.

    Raises:
        pydantic.ValidationError, UsageError: as `combinations` does.
    """
    values = {name: getattr(study, name) for name in TrialConfig.model_fields}
    return combinations(values, _recipe(study))


def _recipe(study: StudyOptions) -> Recipe | None:
    """What the trials of a study are named after."""
    return recipes.find(study.recipe) if isinstance(study, RecipeOption) else None
