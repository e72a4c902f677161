"""What a report is made of: a study's runs and artifacts, read from the tracking store."""

from dataclasses import dataclass, replace

import pandas as pd

from cifar_mlflow import registry, results, tracking
from cifar_mlflow.config import (
    ArchitecturesParameters,
    GridParameters,
    StudyOptions,
    TrialConfig,
    UsageError,
    expand,
)
from cifar_mlflow.data import CIFAR10_DIGEST
from cifar_mlflow.tracking import StoredRun

STUDIES: dict[str, type[StudyOptions]] = {
    "architectures": ArchitecturesParameters,
    "grid": GridParameters,
}
HISTORY = ("train_accuracy", "val_accuracy", "val_loss")


@dataclass(frozen=True)
class Study:
    """A study's run, its plan, and what became of each trial; runs and histories by trial key."""

    run: StoredRun
    trials: list[TrialConfig]
    runs: dict[str, StoredRun]
    histories: dict[str, pd.DataFrame]
    layers: dict[str, pd.DataFrame]  # where they were logged

    @property
    def select_by(self) -> str:
        return self.run.parameters.get("select_by", "val_accuracy")

    @property
    def official(self) -> bool:
        return self.run.tags.get(tracking.DATA_DIGEST) == CIFAR10_DIGEST

    @property
    def table(self) -> pd.DataFrame:
        return results.tabulate(self.trials, self.runs, self.select_by, self.official)

    @property
    def summary(self) -> pd.DataFrame:
        return results.summarise(self.table, self.select_by)

    @property
    def seeds(self) -> list[int]:
        return sorted({trial.seed for trial in self.trials})

    @property
    def factors(self) -> list[str]:
        """What was varied but the seed."""
        return [name for name in results.FACTORS if "," in self.run.parameters.get(name, "")]

    @property
    def configurations(self) -> dict[TrialConfig, list[TrialConfig]]:
        """The trials of each configuration, which differ by seed alone."""
        grouped: dict[TrialConfig, list[TrialConfig]] = {}
        for trial in self.trials:
            grouped.setdefault(trial.configuration, []).append(trial)
        return grouped


@dataclass(frozen=True)
class Classifier:
    """A trial's model by its predictions of the test set; None where they are not kept."""

    run: StoredRun
    predictions: pd.DataFrame | None
    misclassified: bytes | None  # PNG


@dataclass(frozen=True)
class Material:
    """All that the page tells of; None where the experiment has no such run."""

    experiment: str
    grid: Study | None
    architectures: Study | None
    data: StoredRun | None
    class_examples: bytes | None  # PNG
    best: Classifier | None
    champion: str  # a sentence

    @property
    def studies(self) -> list[Study]:
        return [study for study in (self.architectures, self.grid) if study]


def gather(experiment_id: str, study: str) -> Material:
    """Read what the page tells of from the runs of one experiment.

    Args:
        study: the id of a grid's run, or "latest".

    Raises:
        UsageError: the experiment has no such run, or nothing to report at all.
    """
    experiment = tracking.experiment_name(experiment_id)
    grid_run = _grid_run(experiment_id, experiment, study)
    architectures_run = tracking.newest(experiment_id, "architectures")
    data = tracking.newest(experiment_id, "data")
    if not (grid_run or architectures_run or data):
        raise UsageError(
            f"experiment {experiment!r} has no finished study to report on; "
            "mlflow run . -e grid --env-manager local makes one"
        )
    return Material(
        experiment=experiment,
        grid=_read_study(grid_run) if grid_run else None,
        architectures=_read_study(architectures_run) if architectures_run else None,
        data=data,
        class_examples=tracking.find_file(data.run_id, "class_examples.png") if data else None,
        best=_read_best(grid_run) if grid_run else None,
        champion=_read_champion(grid_run) if grid_run else "",
    )


def _grid_run(experiment_id: str, experiment: str, study: str) -> StoredRun | None:
    if study == "latest":
        return tracking.newest(experiment_id, "grid")
    run = tracking.find_run(study)
    if run is None:
        raise UsageError(f"study={study}: no such run; it should be a grid's run id, or 'latest'")
    if run.kind != "grid":
        raise UsageError(f"study={study}: a run of kind {run.kind!r}; it should be a grid's")
    if run.experiment_id != experiment_id:
        other = tracking.experiment_name(run.experiment_id)
        raise UsageError(f"study={study}: of experiment {other!r}, and this is {experiment!r}")
    return run


def _read_study(run: StoredRun) -> Study:
    options = STUDIES[run.kind]
    given = {name: run.parameters[name] for name in options.model_fields if name in run.parameters}
    children = [_with_present_key(child) for child in tracking.stored_children(run)]
    newest = {child.key: child for child in children}
    return Study(
        run=run,
        trials=expand(options.model_validate(given)),
        runs=newest,
        histories={
            key: tracking.metric_histories(child.run_id, HISTORY) for key, child in newest.items()
        },
        layers={
            key: layers
            for key, child in newest.items()
            if run.kind == "architectures"
            and (layers := tracking.find_table(child.run_id, "layers.csv")) is not None
        },
    )


def _with_present_key(child: StoredRun) -> StoredRun:
    """A trial with its key as this version computes it, which may know more factors."""
    fields = [name for name in TrialConfig.model_fields if name in child.parameters]
    if not fields:  # it ended before it had logged them
        return child
    config = TrialConfig.model_validate({name: child.parameters[name] for name in fields})
    return replace(child, key=config.key)


def _read_best(grid_run: StoredRun) -> Classifier | None:
    run = tracking.find_run(grid_run.tags.get(tracking.BEST_RUN, ""))
    if run is None:
        return None
    return Classifier(
        run,
        tracking.find_table(run.run_id, "predictions.parquet"),
        tracking.find_file(run.run_id, "misclassified.png"),
    )


def _read_champion(grid_run: StoredRun) -> str:
    name = grid_run.parameters.get("model_name", "")
    champion = registry.champion(name) if name else None
    if champion is None:
        return "The registry has no champion of this name now."
    version = f"{name} version {champion.version}"
    if champion.run_id == grid_run.tags.get(tracking.BEST_RUN):
        return f"It is the champion now: {version}."
    return f"The champion now is another model: {version}, {champion.tags.get('trial', '')}."
