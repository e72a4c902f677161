"""Read what the report shows, runs and artifacts, from the tracking store."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from cifar_mlflow.analysis.metrics import Evaluation, evaluate, intervals
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data import cifar10
from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST
from cifar_mlflow.errors import UsageError
from cifar_mlflow.parameters import ArchitecturesParameters, GridParameters, StudyOptions, expand
from cifar_mlflow.store import query, registry
from cifar_mlflow.store.runs import (
    DATA_DIGEST,
    DATA_NAME,
    MODEL_URI,
    REFIT_OF,
    REGISTERED_MODEL,
    TrackedRun,
)
from cifar_mlflow.study import results

STUDIES: dict[str, type[StudyOptions]] = {
    "architectures": ArchitecturesParameters,
    "grid": GridParameters,
}
HISTORY = ("train_accuracy", "val_accuracy", "val_loss")


@dataclass(frozen=True)
class Study:
    """A study's run, its plan, and its trials' runs and histories by trial key."""

    run: TrackedRun
    trials: list[TrialConfig]
    runs: dict[str, TrackedRun]
    histories: dict[str, pd.DataFrame]

    @property
    def select_by(self) -> str:
        return self.run.parameters.get("select_by", "validation")

    @property
    def digest(self) -> str | None:
        return self.run.tags.get(DATA_DIGEST)

    @property
    def official(self) -> bool:
        return self.digest == CIFAR10_DIGEST

    @cached_property
    def table(self) -> pd.DataFrame:
        return results.tabulate(self.trials, self.runs, self.select_by, self.official)

    @cached_property
    def summary(self) -> pd.DataFrame:
        return results.summarise(self.table, self.select_by)

    @property
    def seeds(self) -> list[int]:
        return sorted({trial.seed for trial in self.trials})

    @property
    def factors(self) -> list[str]:
        """What was varied, except the seed."""
        return [name for name in results.FACTORS if "," in self.run.parameters.get(name, "")]

    @property
    def configurations(self) -> dict[TrialConfig, list[TrialConfig]]:
        """The trials of each configuration, which differ by their seed alone."""
        grouped: dict[TrialConfig, list[TrialConfig]] = {}
        for trial in self.trials:
            grouped.setdefault(trial.configuration, []).append(trial)
        return grouped

    @property
    def ranking(self) -> list[TrackedRun]:
        """The best trial of each configuration, the best configuration first."""
        ranked = self.summary.dropna(subset=["rank"]).sort_values("rank").index
        chosen_by = results.ACCURACIES[self.select_by]
        finished = self.table.dropna(subset=[chosen_by])
        best = finished.groupby("configuration")[chosen_by].idxmax()
        return [self.runs[self.trials[best[name]].key] for name in ranked]


@dataclass(frozen=True)
class Classifier:
    """A trial's model, with what its run has logged of the test set; None where that is missing."""

    run: TrackedRun
    predictions: pd.DataFrame | None
    misclassified: bytes | None  # PNG
    layers: pd.DataFrame | None

    @cached_property
    def evaluation(self) -> Evaluation | None:
        return None if self.predictions is None else evaluate(self.predictions)

    @cached_property
    def intervals(self) -> pd.DataFrame | None:
        return None if self.predictions is None else intervals(self.predictions)


@dataclass(frozen=True)
class ReportData:
    """All that the page shows; None where the experiment has no such run."""

    experiment: str
    data: TrackedRun | None
    class_examples: bytes | None  # PNG
    architectures: Study | None
    networks: dict[str, Classifier]  # the first finished trial of each, by architecture
    grid: Study | None
    top_models: list[Classifier]  # the best trials of the grid's best two configurations
    champion: str  # a sentence on the registry's champion
    trials: list[TrackedRun]  # all finished ones of the experiment on the same data
    class_counts: pd.DataFrame | None = None  # columns class, train and test

    @property
    def studies(self) -> list[Study]:
        return [study for study in (self.architectures, self.grid) if study]

    @property
    def official(self) -> bool:
        """Whether the page is about the real CIFAR-10."""
        return all(run.tags.get(DATA_DIGEST) == CIFAR10_DIGEST for run in self._runs)

    @property
    def own_data(self) -> TrackedRun | None:
        """A run on images of the user's own, which the page is about; None if it is about the paper."""
        return next((run for run in self._runs if uses_own_data(run)), None)

    @property
    def _runs(self) -> list[TrackedRun]:
        """Those of the studies; without a study that of the data."""
        return [study.run for study in self.studies] or [run for run in (self.data,) if run]

    @property
    def best(self) -> Classifier | None:
        return self.top_models[0] if self.top_models else None


def uses_own_data(run: TrackedRun) -> bool:
    """Whether a run used images of the user's own, neither CIFAR-10 nor other data in its format."""
    return run.tags.get(DATA_NAME, cifar10.NAME) not in (cifar10.NAME, cifar10.STAND_IN)


def collect(experiment_id: str, grid_id: str) -> ReportData:
    """Read what the page shows from the runs of one experiment.

    Args:
        grid_id: the id of a grid's run, or "latest".

    Raises:
        UsageError: the experiment has no such run, or nothing to report.
    """
    experiment = query.experiment_name(experiment_id)
    grid_run = _grid_run(experiment_id, experiment, grid_id)
    # Of the same data, so that one page is about one data set.
    same = f"tags.{DATA_DIGEST} = '{grid_run.tags.get(DATA_DIGEST, '')}'" if grid_run else ""
    architectures_run = query.newest(experiment_id, "architectures", same)
    data = query.newest(experiment_id, "data")
    if not (grid_run or architectures_run or data):
        raise UsageError(
            f"experiment {experiment!r} has no finished study to report on; "
            "mlflow run . -e grid --env-manager local runs one"
        )
    architectures = _read_study(architectures_run) if architectures_run else None
    grid = _read_study(grid_run) if grid_run else None
    best_two = grid.ranking[:2] if grid else []
    study = grid or architectures
    digest = study.digest if study else None
    return ReportData(
        experiment=experiment,
        data=data,
        class_examples=query.find_png(data.run_id, "class_examples.png") if data else None,
        architectures=architectures,
        networks=_read_networks(architectures) if architectures else {},
        grid=grid,
        top_models=[_read_classifier(run) for run in best_two],
        champion=_read_champion(grid, best_two) if grid else "",
        trials=query.finished_trials(experiment_id, digest) if digest else [],
        class_counts=query.find_table(data.run_id, "class_counts.csv") if data else None,
    )


def _grid_run(experiment_id: str, experiment: str, grid_id: str) -> TrackedRun | None:
    if grid_id == "latest":
        return query.newest(experiment_id, "grid")
    run = query.find_run(grid_id)
    if run is None:
        raise UsageError(f"run_id={grid_id}: no such run; give the id of a grid's run, or latest")
    if run.kind != "grid":
        raise UsageError(f"run_id={grid_id} is a run of kind {run.kind!r}; give that of a grid")
    if run.experiment_id != experiment_id:
        other = query.experiment_name(run.experiment_id)
        raise UsageError(f"run_id={grid_id} is of experiment {other!r}, not of {experiment!r}")
    return run


def _read_study(run: TrackedRun) -> Study:
    options = STUDIES[run.kind]
    factors = (name for name in TrialConfig.model_fields if name in run.parameters)
    given = {name: run.parameters[name] for name in factors}
    trials = expand(options.model_validate(given))
    newest = query.latest(query.children(run.as_parent()))
    newest = {trial.key: newest[trial.key] for trial in trials if trial.key in newest}
    return Study(
        run=run,
        trials=trials,
        runs=newest,
        histories={
            key: query.metric_histories(child.run_id, HISTORY) for key, child in newest.items()
        },
    )


def _read_networks(study: Study) -> dict[str, Classifier]:
    first = results.first_finished(study.trials, study.runs)
    return {name: _read_classifier(run) for name, run in first.items()}


def _read_classifier(run: TrackedRun) -> Classifier:
    """From the trial's own run; what is missing there, from the newest evaluation of its model."""
    conditions = {
        f"tags.{MODEL_URI}": run.model_uri,
        f"tags.{DATA_DIGEST}": run.tags.get(DATA_DIGEST, ""),
        "params.part": "test",
    }
    where = " AND ".join(f"{name} = '{value}'" for name, value in conditions.items())
    evaluation = query.newest(run.experiment_id, "evaluate", where=where)
    sources = [run.run_id, *([evaluation.run_id] if evaluation else [])]

    def table(name: str) -> pd.DataFrame | None:
        tables = (query.find_table(source, name) for source in sources)
        return next((each for each in tables if each is not None), None)

    galleries = (query.find_png(source, "misclassified.png") for source in sources)
    return Classifier(
        run,
        predictions=table("predictions.parquet"),
        misclassified=next((each for each in galleries if each is not None), None),
        layers=table("layers.csv"),
    )


def _read_champion(grid: Study, best: list[TrackedRun]) -> str:
    # Grids of earlier versions have the name as a parameter alone.
    name = grid.run.tags.get(REGISTERED_MODEL) or grid.run.parameters.get("model_name", "")
    champion = registry.champion(name) if name else None
    if champion is None:
        return "The registry now has no champion of its name."
    version = f"{name} version {champion.version}"
    if best and champion.run_id == best[0].run_id:
        return f"It is now the champion: {version}."
    if best and champion.tags.get(REFIT_OF) == best[0].run_id:
        return f"The champion is now this configuration, trained again on all images: {version}."
    trial = champion.tags.get("trial", "trial unknown")
    return f"The champion is now another model: {version} ({trial})."
