"""How runs are written: started and ended, and what is logged on the active one.

A study's run is the parent of its trials' runs, which other processes write. The default store is a
SQLite file; the parent's first call creates its tables, before any worker writes to it.
"""

import os
import platform
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import LoggedModelInput, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Schema, TensorSpec
from mlflow.utils import name_utils
from PIL import Image

from cifar_mlflow.config import Parameters, TrialConfig
from cifar_mlflow.data import cifar10
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.errors import Failure, Superseded, UsageError
from cifar_mlflow.formatting import as_text, printable, truncated
from cifar_mlflow.processes import Process, deferring_interrupts, this_process
from cifar_mlflow.store import query, runs
from cifar_mlflow.store.runs import Parent, Status, TrackedRun
from cifar_mlflow.training.checkpoint import Epoch
from cifar_mlflow.training.devices import cpu_instructions
from cifar_mlflow.training.origin import Origin, environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # takes a second

METRICS_PER_CALL = 1000  # MLflow's limit
DESCRIPTION = "mlflow.note.content"
DESCRIPTION_LENGTH = 8000  # characters that a tag may have; MLflow cuts off the rest
# A child has these tags of its parent: `mlflow run` records there which code was run.
INHERITED = (
    "mlflow.user",
    "mlflow.source.name",
    "mlflow.source.type",
    "mlflow.source.git.commit",
    "mlflow.source.git.repoURL",
    "mlflow.project.entryPoint",
)
# What a process needs to load the logged model and call it.
MODEL_REQUIREMENTS = ("mlflow", "keras", "tensorflow", "numpy")


# Starting and ending runs ---------------------------------------------------------------------


@contextmanager
def tracked_run(
    kind: str,
    name: str | None = None,
    parent: Parent | None = None,
    tags: Mapping[str, str] | None = None,
) -> Iterator[TrackedRun]:
    """A run that is active inside the block, and ends as the block does.

    Args: see `start_run`.

    Raises:
        UsageError, MlflowException: as `start_run` does.
        MlflowException, OSError: the store cannot be written, not even to end the run.
    """
    run = start_run(kind, name, parent, tags)
    with _failing():
        yield run
    finish_run()


@contextmanager
def _failing() -> Iterator[None]:
    """End the active run as `fail_run` does if the block raises; MLflow would end it FINISHED."""
    try:
        yield
    except BaseException as error:
        fail_run(error)
        raise


def start_run(
    kind: str,
    name: str | None = None,
    parent: Parent | None = None,
    tags: Mapping[str, str] | None = None,
) -> TrackedRun:
    """Start a run and make it the active one of this process.

    Args:
        kind: the tag of this name.
        name: the run's name; by default its kind.
        parent: the run that it becomes a child of; by default the active one. Without either it is the
            run that `mlflow run` has created, or a new one.

    Raises:
        UsageError: the run that `mlflow run` has created is not in the tracking store seen from here.
        MlflowException: the store cannot be written.
    """
    tags = {
        runs.KIND: kind,
        runs.HOST: platform.node(),
        **process_tags(this_process()),
        **(tags or {}),
    }
    name = name or kind
    if parent is None and mlflow.active_run():
        parent = query.active().as_parent()
    if parent:
        return TrackedRun.of(_start_child(parent, name, tags))
    run = _start_outermost(name, tags)
    with _failing():
        _end_dead_runs(run.info.experiment_id)
    return TrackedRun.of(run)


def continue_run(paused: TrackedRun) -> TrackedRun:
    """Make a paused run the active one of this process."""
    tags = {runs.HOST: platform.node(), **process_tags(this_process())}
    run = mlflow.start_run(paused.run_id, nested=True, tags=tags)
    with _failing():
        for tag in _paused_tags(paused):
            if tag in paused.tags:
                mlflow.delete_tag(tag)
    return TrackedRun.of(run)


def pause_run() -> None:
    """Pause the active run after the epochs that it has logged."""
    mlflow.set_tags(_paused_tags(query.read(query.active().run_id)))
    mlflow.end_run(Status.PAUSED)


def pause_interrupted(run: TrackedRun) -> None:
    """The same for a run that was interrupted before it could be paused."""
    client = mlflow.MlflowClient()
    for tag, value in _paused_tags(run).items():
        client.set_tag(run.run_id, tag, value)
    client.set_terminated(run.run_id, Status.PAUSED)


def _paused_tags(run: TrackedRun) -> dict[str, str]:
    """What a paused run has besides its status, which MLflow shows as if the run were still to start."""
    text = (
        f"Paused after epoch {run.epochs}. The best trials of each round go on, in the same run; the "
        "others end here, with the status Scheduled."
    )
    return {runs.PAUSED_AT: str(run.epochs), DESCRIPTION: text}


def give_up(run: TrackedRun) -> None:
    """Mark a failed run as one that is not tried again."""
    mlflow.MlflowClient().set_tag(run.run_id, runs.GIVEN_UP, "true")


def finish_run() -> None:
    """End the active run: FINISHED, or FAILED after `tag_end_reason`."""
    has_reason = runs.END_REASON in mlflow.get_run(query.active().run_id).data.tags
    mlflow.end_run(Status.FAILED if has_reason else Status.FINISHED)


def fail_run(error: BaseException) -> None:
    """End the active run after an exception, with its cause as tags and its traceback as artifact.

    KILLED if another process has ended it already, which then gave the reason, or after Ctrl-C;
    otherwise FAILED.
    """
    if isinstance(error, Superseded):
        mlflow.end_run(Status.KILLED)
        return
    failure = Failure.of(error)
    interrupted = failure is Failure.INTERRUPTED
    # An error of the store, on a full disk for example, must not hide the first cause.
    with suppress(MlflowException, OSError):
        reason = "interrupted" if interrupted else cause(error)
        mlflow.set_tags({runs.END_REASON: reason, runs.FAILURE: failure.value})
        if not interrupted:
            mlflow.log_text(traceback.format_exc(), "traceback.txt")
    mlflow.end_run(Status.KILLED if interrupted else Status.FAILED)


def end_run(run_id: str, why: str | Exception) -> None:
    """End a run whose own process cannot: FAILED by an exception, KILLED for any other reason."""
    client = mlflow.MlflowClient()
    if isinstance(why, Exception):
        client.set_tag(run_id, runs.END_REASON, cause(why))
        client.set_tag(run_id, runs.FAILURE, Failure.of(why).value)
        client.set_terminated(run_id, Status.FAILED)
    else:
        client.set_tag(run_id, runs.END_REASON, why)
        client.set_terminated(run_id, Status.KILLED)


def raise_if_superseded() -> None:
    """Raise Superseded if another process has ended the active run."""
    run = query.read(query.active().run_id)
    if run.status != Status.RUNNING:
        raise Superseded(run.run_id)


def cause(error: BaseException) -> str:
    """An exception as one line of at most 500 characters."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:500]


def process_tags(process: Process) -> dict[str, str]:
    return {
        runs.MACHINE: process.machine,
        runs.PROCESS: str(process.id),
        runs.PROCESS_STARTED: process.started,
    }


def _start_child(parent: Parent, name: str, tags: Mapping[str, str]) -> Run:
    parent.connect()
    of_parent = query.read(parent.run_id).tags
    return mlflow.start_run(
        experiment_id=parent.experiment_id,
        parent_run_id=parent.run_id,
        nested=True,  # the parent may be active in this very process
        run_name=name,
        tags={**{tag: of_parent[tag] for tag in INHERITED if tag in of_parent}, **tags},
    )


def _start_outermost(name: str, tags: Mapping[str, str]) -> Run:
    if not mlflow.get_tracking_uri().startswith(("http:", "https:")):
        # MLflow creates the tables of a new database, and cannot complete them after an interruption.
        with deferring_interrupts():
            mlflow.MlflowClient().search_experiments(max_results=1)
    created = os.environ.get("MLFLOW_RUN_ID")  # by `mlflow run`
    if not created:
        return mlflow.start_run(run_name=name, tags=dict(tags))
    try:
        present = query.read(created).name
    except MlflowException as error:
        raise UsageError(
            f"run {created} is not in {mlflow.get_tracking_uri()} as seen from {Path.cwd()}; set "
            "MLFLOW_TRACKING_URI to an absolute path or a server's URL"
        ) from error
    return mlflow.start_run(run_name=name if _is_generated(present) else None, tags=dict(tags))


def _is_generated(name: str) -> bool:
    """Whether MLflow made up a run's name, such as ``bright-hare-123``.

    `mlflow run` does not record whether the user gave the name (--run-name), so this asks whether
    MLflow's generator has the words.
    """
    predicate, _, rest = name.partition("-")
    noun, _, number = rest.partition("-")
    return (
        predicate in name_utils._GENERATOR_PREDICATES
        and noun in name_utils._GENERATOR_NOUNS
        and number.isdigit()
    )


def _end_dead_runs(experiment_id: str) -> None:
    """End the runs of this machine whose process is gone, except those that can be resumed."""
    for run in query.search(experiment_id, query.RUNNING):
        # A trial without a study is resumed only once it has claimed its plan.
        resumable = runs.PLAN_KEY in run.tags or {runs.TRIAL_KEY, runs.PARENT} <= run.tags.keys()
        if run.process.is_local and not run.process.is_alive and not resumable:
            end_run(run.run_id, "its process was killed")


# Logging on the active run --------------------------------------------------------------------


def log_parameters(parameters: Parameters) -> None:
    """Log every field, except those that `mlflow run` has logged already, in its own spelling."""
    logged = query.read(query.active().run_id).parameters
    values = parameters.model_dump()
    mlflow.log_params({n: printable(as_text(values[n])) for n in values if n not in logged})


def log_trial(config: TrialConfig) -> None:
    """A trial's configuration, as parameters and as config.json."""
    log_parameters(config)
    mlflow.log_dict(config.model_dump(), "config.json")


def log_environment(threads: int, origin: Origin | None = None) -> None:
    """Log as tags what a result may depend on: versions, processor, threads, and a trial's origin."""
    packages = ("mlflow", "numpy")  # the origin has the others
    mlflow.set_tags(
        {
            **{f"{package}_version": version(package) for package in packages},
            "python_version": platform.python_version(),
            "cores": os.cpu_count(),
            "cpu_instructions": cpu_instructions(),
            "threads": threads,
            **(origin or environment()),
        }
    )


def log_dataset(data: DataSet, context: str) -> None:
    """The data set as an input of the run."""
    mlflow.log_input(_dataset(data), context=context)
    mlflow.set_tags({runs.DATA_DIGEST: data.digest, runs.DATA_NAME: data.title})


def _dataset(data: DataSet) -> MetaDataset:
    """By name, source and digest (MLflow stores 36 digits)."""
    schema = Schema(
        [
            TensorSpec(np.dtype(np.uint8), (-1, *data.image_shape), "images"),
            TensorSpec(np.dtype(np.uint8), (-1,), "labels"),
        ]
    )
    return MetaDataset(_source(data), data.slug, data.digest[:36], schema)  # type: ignore[abstract]


def _source(data: DataSet) -> DatasetSource:
    if data.name == cifar10.NAME:
        return HTTPDatasetSource(cifar10.URL)
    with warnings.catch_warnings(action="ignore"):  # MLflow has two equal classes for a local path
        return resolve_dataset_source(data.source)


def log_epochs(epochs: Sequence[Epoch]) -> None:
    """Log epochs as metrics by step, in as few calls as MLflow allows."""
    now = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now, epoch.epoch)
        for epoch in epochs
        for name, value in asdict(epoch).items()
        if value is not None
    ]
    client, run_id = mlflow.MlflowClient(), query.active().run_id
    for start in range(0, len(metrics), METRICS_PER_CALL):
        client.log_batch(run_id, metrics[start : start + METRICS_PER_CALL])


def log_metrics(
    metrics: Mapping[str, float], data: DataSet | None = None, model_id: str | None = None
) -> None:
    """Log metrics; with ``model_id`` also on that logged model's page, as measured on ``data``."""
    mlflow.log_metrics(dict(metrics), model_id=model_id, dataset=_dataset(data) if data else None)


def log_files(
    figures: "Mapping[str, Figure] | None" = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Log artifacts by file name, all in one call; tables are .csv or .parquet."""
    with tempfile.TemporaryDirectory() as folder:
        for name, figure in (figures or {}).items():
            _save_png(figure, Path(folder, name))
        for name, table in (tables or {}).items():
            if name.endswith(".parquet"):
                table.to_parquet(Path(folder, name))
            else:
                table.to_csv(Path(folder, name), index=table.index.name is not None)
        for name, text in (texts or {}).items():
            Path(folder, name).write_text(text, encoding="utf-8")
        log_folder(Path(folder))


def _save_png(figure: "Figure", path: Path) -> None:
    """The same pixels as `savefig` writes, which goes through a constrained layout twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(path)


def log_folder(folder: Path, name: str | None = None) -> None:
    """Log a folder's files as artifacts, in the artifact folder ``name`` if one is given."""
    mlflow.log_artifacts(str(folder), name)


class _Keras:
    """`mlflow.keras`, whose `log_model` crashes with an input example because a folder is missing.

    See mlflow#16183. A test serves the example, so MLflow need not load the model to validate it.
    """

    @staticmethod
    def save_model(path: str, validate_serving_input: bool, **options: Any) -> None:
        Path(path).mkdir()
        mlflow.keras.save_model(path=path, **options)


def log_model(
    model: object, data: DataSet, metrics: Mapping[str, float], parameters: Mapping[str, object]
) -> None:
    """Log a Keras model, uint8 pixels in and probabilities out, with its metrics and parameters.

    Its input example is the first test image, in the form that `mlflow models serve` takes.
    """
    info = Model.log(
        None,
        _Keras,
        name="model",
        model=model,
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *data.image_shape))]),
            outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(data.classes)))]),
        ),
        input_example=np.array(data.examples("test").images[:1]),
        validate_serving_input=False,
        # MLflow would infer them by loading the model in another process, for 15 to 22 seconds.
        pip_requirements=[f"{package}=={version(package)}" for package in MODEL_REQUIREMENTS],
        metadata={"classes": list(data.classes), "data": data.title},
        params=dict(parameters),
        model_type="classifier",
    )
    log_metrics(metrics, data, info.model_id)
    mlflow.set_tag(runs.MODEL_URI, info.model_uri)


def log_model_used(model_id: str) -> None:
    """Link the run to the logged model that it used, if this store has that model."""
    client = mlflow.MlflowClient()
    try:
        client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return  # the model came in a folder, from another store
    client.log_inputs(query.active().run_id, models=[LoggedModelInput(model_id)])


def tag_end_reason(reason: str) -> None:
    """Say why the run will end FAILED though it raises nothing: `mlflow run` goes by the exit code."""
    mlflow.set_tag(runs.END_REASON, reason)


def tag_stopped(study: Parent, reason: str) -> None:
    """Say on a study's run, from any process, why it starts no more trials."""
    mlflow.MlflowClient().set_tag(study.run_id, runs.STOPPED, reason)


def describe(markdown: str) -> None:
    """Set the description that the UI shows above the run; a long one is cut after a whole line."""
    mlflow.set_tag(DESCRIPTION, truncated(markdown, DESCRIPTION_LENGTH))


def tag_best(best: TrackedRun, config: TrialConfig) -> None:
    """Mark the best child of the active run, and log on that run which one it is and its results."""
    client = mlflow.MlflowClient()
    for before in query.children(query.active().as_parent(), f"tags.{runs.BEST} = 'true'"):
        client.delete_tag(before.run_id, runs.BEST)  # the best of the study that this one resumed
    client.set_tag(best.run_id, runs.BEST, "true")
    mlflow.set_tags(
        {
            runs.BEST_RUN_ID: best.run_id,
            "best_trial": best.name,
            runs.BEST_ARCHITECTURE: config.architecture,
        }
    )
    names = ("kept_val_accuracy", "test_accuracy", "test_loss")
    known = {name: best.metrics[name] for name in names if name in best.metrics}
    mlflow.log_metrics({f"best_trial_{name}": value for name, value in known.items()})


def tag_refit(refit: TrackedRun, best: TrackedRun) -> None:
    """Say on a refit which trial it trained again, and on the active run which one its refit is."""
    mlflow.MlflowClient().set_tag(refit.run_id, runs.REFIT_OF, best.run_id)
    mlflow.set_tag("refit_run_id", refit.run_id)


def tag_registered(name: str) -> None:
    """Say on the active run which registered model its best one became a version of."""
    mlflow.set_tag(runs.REGISTERED_MODEL, name)


def mark_outdated(run: TrackedRun, how: str) -> None:
    """Tag a finished trial with how its origin differs from the present one; empty if it does not."""
    if how != run.outdated:
        mlflow.MlflowClient().set_tag(run.run_id, runs.OUTDATED, how)
