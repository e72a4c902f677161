"""Runs in MLflow: the only place that writes them, and reads them back.

A study's run is the parent of its trials' runs, across processes: a `Parent` is all that another
process needs to add a child. The embedded default is a SQLite file, which the parent's first call
initialises before any worker writes to it.
"""

import io
import os
import platform
import re
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import LoggedModelInput, Metric, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Schema, TensorSpec

from cifar_mlflow.config import Parameters, TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES, IMAGE_SHAPE, URL, Cifar10
from cifar_mlflow.errors import Superseded, UsageError
from cifar_mlflow.formatting import as_text, printable
from cifar_mlflow.processes import Process, this_process
from cifar_mlflow.training.checkpoint import Epoch
from cifar_mlflow.training.devices import cpu_instructions
from cifar_mlflow.training.origin import OF_A_CHECKPOINT, Origin, environment

KIND = "kind"  # of a run: its entry point's name, or "trial"
TRIAL_KEY = "trial_key"
PLAN_KEY = "plan_key"  # of what a command computes: its trials and its data
DATA_DIGEST = "data_digest"
MODEL_URI = "model_uri"
END_REASON = "end_reason"
FAILURE = "failure"  # the class of the exception that a run ended by
BEST = "best"  # on one child of a study
CHECKPOINT = "checkpoint"  # where the newest one is, its epoch and SHA-256, as JSON
RESUMED_FROM = "resumed_from"  # the run that this one went on from
CHECKPOINT_LOST = "checkpoint_lost"  # why a trial had to begin again
OUTDATED = "outdated"  # how a finished trial's origin differs from the resumed study's; empty: not
# Whose run it is: the host's name, the process's id, and what makes the id unique.
HOST, PROCESS, MACHINE, PROCESS_STARTED = "host", "process", "machine", "process_started"
METRICS_IN_A_BATCH = 1000  # MLflow's limit
RUNNING = "attributes.status = 'RUNNING'"
EVERY = 2**31 - 1  # as many runs as there are
PARENT = "mlflow.parentRunId"
DESCRIPTION = "mlflow.note.content"
DESCRIPTION_LENGTH = 8000  # characters that a tag may have; MLflow cuts off the rest
# A child says what its parent's `mlflow run` found out about where the code comes from.
INHERITED = (
    "mlflow.user",
    "mlflow.source.name",
    "mlflow.source.type",
    "mlflow.source.git.commit",
    "mlflow.source.git.repoURL",
    "mlflow.project.entryPoint",
)
# MLflow's codes for what the store does not have, or cannot have under such a name.
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
# The store cannot be reached or written, or refuses what it is asked.
StoreError = MlflowException
# What a process needs to load the logged model and call it.
MODEL_REQUIREMENTS = ("mlflow", "keras", "tensorflow", "numpy")
SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *IMAGE_SHAPE))]),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(CLASSES)))]),
)
# The names that MLflow makes up, such as "bright-hare-123"; a name of any other form was chosen.
MADE_UP_NAME = re.compile(r"[a-z]+-[a-z]+-\d{1,4}")


@dataclass(frozen=True)
class Parent:
    """Where a study's trials are tracked; small to pickle."""

    tracking_uri: str
    experiment_id: str
    run_id: str


class Status(StrEnum):
    """How a run stands."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"  # interrupted, or resumed by another run


@dataclass(frozen=True)
class TrackedRun:
    """A run as the store has it, by the names that this project gives to its tags and metrics."""

    entity: Run

    @property
    def run_id(self) -> str:
        return str(self.entity.info.run_id)

    @property
    def name(self) -> str:
        return str(self.entity.info.run_name)

    @property
    def experiment_id(self) -> str:
        return str(self.entity.info.experiment_id)

    @property
    def status(self) -> Status:
        return Status(self.entity.info.status)

    @property
    def started(self) -> datetime:
        return datetime.fromtimestamp(self.entity.info.start_time / 1000, UTC)

    @property
    def ended(self) -> datetime | None:
        milliseconds = self.end_time
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None

    @property
    def end_time(self) -> int:
        """Milliseconds since 1970; 0 while it runs."""
        return int(self.entity.info.end_time or 0)

    @property
    def parameters(self) -> dict[str, str]:
        return dict(self.entity.data.params)

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        return dict(self.entity.data.metrics)

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.entity.data.tags)

    @property
    def kind(self) -> str:
        return self._tag(KIND)

    @property
    def key(self) -> str:
        """Of a trial: `TrialConfig.key`."""
        return self._tag(TRIAL_KEY)

    @property
    def epochs(self) -> int:
        """The epochs that a trial has logged."""
        return int(self.metrics.get("epoch", 0))

    @property
    def end_reason(self) -> str:
        """Why it did not finish."""
        return self._tag(END_REASON)

    @property
    def failure(self) -> str:
        """The class of its exception, if it failed."""
        return self._tag(FAILURE)

    @property
    def model_uri(self) -> str | None:
        return self._tag(MODEL_URI) or None

    @property
    def checkpoint(self) -> str:
        """Where its newest checkpoint is, as JSON; empty where it has none."""
        return self._tag(CHECKPOINT)

    @property
    def checkpoint_lost(self) -> str:
        """Why it had to begin again."""
        return self._tag(CHECKPOINT_LOST)

    @property
    def resumed_from(self) -> str:
        """The id of the run that it resumed."""
        return self._tag(RESUMED_FROM)

    @property
    def origin(self) -> Origin:
        """The parts of a trial's origin that are known."""
        return {part: self.tags[part] for part in OF_A_CHECKPOINT if part in self.tags}

    @property
    def process(self) -> Process:
        """The process that writes it; of no machine where its tags name none."""
        started = self._tag(PROCESS_STARTED)
        return Process(self._tag(MACHINE), int(self._tag(PROCESS) or 0), started)

    @property
    def outdated(self) -> str:
        """How its origin differs from that of the study which kept it."""
        return self._tag(OUTDATED)

    def as_parent(self) -> Parent:
        return Parent(mlflow.get_tracking_uri(), self.experiment_id, self.run_id)

    def _tag(self, name: str) -> str:
        return str(self.entity.data.tags.get(name, ""))


@contextmanager
def tracked_run(
    kind: str,
    name: str | None = None,
    parent: Parent | None = None,
    tags: Mapping[str, str] | None = None,
    keep_failure: bool = False,
) -> Iterator[TrackedRun]:
    """A run that ends FINISHED, KILLED after KeyboardInterrupt, or FAILED after another exception.

    A new child under ``parent``, or under the run that is active in this process; without them the run
    that `mlflow run` made, or a new one. It is FAILED too where `tag_end_reason` said why. An
    exception's traceback is kept as traceback.txt; with ``keep_failure`` a failure goes no further, but
    for a UsageError. The run is tagged with its ``kind``, which is its name too unless another is given.

    Raises:
        Superseded: another process has ended the run, which is nobody's child.
        UsageError: the run that `mlflow run` made is not in the tracking store as seen from here.
        MlflowException, OSError: the store cannot be written, not even how the run ended.
    """
    tags = {KIND: kind, HOST: platform.node(), **process_tags(this_process()), **(tags or {})}
    name = name or kind
    if parent is None and (active := mlflow.active_run()):
        parent = TrackedRun(active).as_parent()
    if parent:
        connect(parent)
        inherited = mlflow.get_run(parent.run_id).data.tags
        run: Run = mlflow.start_run(
            experiment_id=parent.experiment_id,
            parent_run_id=parent.run_id,
            nested=True,  # the parent may be active in this very process
            run_name=name,
            tags={**{tag: inherited[tag] for tag in INHERITED if tag in inherited}, **tags},
        )
    else:
        run = _start_outermost(name, tags)
        _end_killed(run.info.experiment_id)
    try:
        yield TrackedRun(run)
    except Superseded:
        mlflow.end_run("KILLED")
        if parent is None:
            raise
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt)
        status = RunStatus.KILLED if killed else RunStatus.FAILED
        # A store that cannot be written, on a full disk for instance, must not hide the first cause.
        with suppress(MlflowException, OSError):
            mlflow.set_tag(END_REASON, "interrupted" if killed else cause(error))
            if not killed:
                mlflow.set_tag(FAILURE, type(error).__name__)
                mlflow.log_text(traceback.format_exc(), "traceback.txt")
        mlflow.end_run(RunStatus.to_string(status))
        if killed or not keep_failure or isinstance(error, UsageError):
            raise
    else:
        unwell = END_REASON in mlflow.get_run(run.info.run_id).data.tags
        mlflow.end_run("FAILED" if unwell else "FINISHED")


def process_tags(process: Process) -> dict[str, str]:
    return {
        MACHINE: process.machine,
        PROCESS: str(process.id),
        PROCESS_STARTED: process.started,
    }


def cause(error: BaseException) -> str:
    """An exception in one line, as runs have it in ``end_reason``."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:500]


def _start_outermost(name: str, tags: Mapping[str, str]) -> Run:
    made = os.environ.get("MLFLOW_RUN_ID")
    if not made:
        return mlflow.start_run(run_name=name, tags=dict(tags))
    try:
        present = mlflow.get_run(made).info.run_name
    except MlflowException as error:
        raise UsageError(
            f"run {made} is not in {mlflow.get_tracking_uri()} as seen from {Path.cwd()}; let "
            "MLFLOW_TRACKING_URI name the store by an absolute path or a server's address"
        ) from error
    kept = None if MADE_UP_NAME.fullmatch(present) is None else name
    return mlflow.start_run(run_name=kept, tags=dict(tags))


def _end_killed(experiment_id: str) -> None:
    """End the runs of this machine whose process is gone, but for those that can be resumed."""
    for run in search(experiment_id, RUNNING):
        resumable = {PLAN_KEY, TRIAL_KEY} & run.tags.keys()
        if run.process.is_local and not run.process.is_alive and not resumable:
            end_run(run.run_id, "KILLED", "its process was killed")


def connect(parent: Parent) -> None:
    """Let this process write where the parent is."""
    mlflow.set_tracking_uri(parent.tracking_uri)


def log_parameters(parameters: Parameters) -> None:
    """Every field as a parameter, but for those that `mlflow run` has logged in its own spelling."""
    present = mlflow.get_run(active_id()).data.params
    values = parameters.model_dump()
    texts = {name: printable(as_text(values[name])) for name in values if name not in present}
    mlflow.log_params(texts)


def log_environment(threads: int, origin: Origin | None = None) -> None:
    """Tags: versions, processor and threads, and a trial's origin, which a result may depend on."""
    packages = ("mlflow", "numpy")  # the others are of the origin
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


def log_dataset(data: Cifar10, context: str) -> None:
    """The data set as an input of the active run."""
    mlflow.log_input(_dataset(data), context=context)
    mlflow.set_tag(DATA_DIGEST, data.digest)


def _dataset(data: Cifar10) -> MetaDataset:
    """By name, origin and digest (MLflow keeps 36 digits)."""
    schema = Schema(
        [
            TensorSpec(np.dtype(np.uint8), (-1, *IMAGE_SHAPE), "images"),
            TensorSpec(np.dtype(np.uint8), (-1,), "labels"),
        ]
    )
    source = HTTPDatasetSource(URL)
    return MetaDataset(source, "cifar10", data.digest[:36], schema)  # type: ignore[abstract]


def log_trial(config: TrialConfig) -> None:
    log_parameters(config)
    mlflow.log_dict(config.model_dump(), "config.json")


def log_epochs(epochs: Sequence[Epoch], tags: Mapping[str, str] | None = None) -> None:
    """Epochs as metrics, by step, with tags that say so, in as few calls as MLflow allows."""
    now = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now, epoch.epoch)
        for epoch in epochs
        for name, value in asdict(epoch).items()
    ]
    marks = [RunTag(name, value) for name, value in (tags or {}).items()]
    client, run_id = mlflow.MlflowClient(), active_id()
    while metrics or marks:
        client.log_batch(run_id, metrics[:METRICS_IN_A_BATCH], tags=marks)
        metrics, marks = metrics[METRICS_IN_A_BATCH:], []


def active_id() -> str:
    run = mlflow.active_run()
    if run is None:
        raise RuntimeError("no run is active: call this inside tracked_run")
    return str(run.info.run_id)


def log_metrics(metrics: Mapping[str, float]) -> None:
    mlflow.log_metrics(dict(metrics))


def log_files(
    figures: Mapping[str, Figure] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Artifacts of the active run, all in one go: name.png, name.csv or name.parquet, name.ext."""
    with tempfile.TemporaryDirectory() as folder:
        for name, figure in (figures or {}).items():
            figure.savefig(Path(folder, name), dpi="figure")
        for name, table in (tables or {}).items():
            if name.endswith(".parquet"):
                table.to_parquet(Path(folder, name))
            else:
                table.to_csv(Path(folder, name), index=table.index.name is not None)
        for name, text in (texts or {}).items():
            Path(folder, name).write_text(text, encoding="utf-8")
        mlflow.log_artifacts(folder)


def log_folder(folder: Path, name: str | None = None) -> None:
    """The files of a folder as artifacts, in the folder ``name`` if one is given."""
    mlflow.log_artifacts(str(folder), name)


class _Keras:
    """`mlflow.keras`, whose `log_model` crashes with an input example: it makes no folder for it.

    See mlflow#16183. The example is served by a test, so MLflow need not load the model to try it.
    """

    @staticmethod
    def save_model(path: str, validate_serving_input: bool, **options: Any) -> None:
        Path(path).mkdir()
        mlflow.keras.save_model(path=path, **options)


def log_model(
    model: object, data: Cifar10, metrics: Mapping[str, float], parameters: Mapping[str, object]
) -> None:
    """The Keras model, uint8 pixels in and probabilities out, with its metrics, on the active run.

    The first test image is its input example: what `mlflow models serve` takes, ready to be sent.
    """
    info = Model.log(
        None,
        _Keras,
        name="model",
        model=model,
        signature=SIGNATURE,
        input_example=np.array(data.examples("test").images[:1]),
        validate_serving_input=False,
        # Given, because inferring them loads the model in another process for 15 to 22 seconds.
        pip_requirements=[f"{package}=={version(package)}" for package in MODEL_REQUIREMENTS],
        metadata={"classes": list(CLASSES)},
        params=dict(parameters),
        model_type="classifier",
    )
    log_evaluation(metrics, data, info.model_id)
    mlflow.set_tag(MODEL_URI, info.model_uri)


def log_model_used(model_id: str) -> None:
    """Link the active run to the logged model that it used, where this store has that model."""
    client = mlflow.MlflowClient()
    try:
        client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return  # the model came in a folder, out of another store
    client.log_inputs(active_id(), models=[LoggedModelInput(model_id)])


def tag_end_reason(reason: str) -> None:
    """Why the active run will have another status than FINISHED: `mlflow run` goes by the exit code."""
    mlflow.set_tag(END_REASON, reason)


def log_evaluation(metrics: Mapping[str, float], data: Cifar10, model_id: str | None) -> None:
    """Metrics of the active run that the page of a logged model shows too, with the data set."""
    mlflow.log_metrics(dict(metrics), model_id=model_id, dataset=_dataset(data))


def describe(markdown: str) -> None:
    """The description that the UI shows at the top of the active run; ends with a whole line."""
    if len(markdown) > DESCRIPTION_LENGTH:
        markdown = markdown[: DESCRIPTION_LENGTH - 2].rpartition("\n")[0] + "\n…"
    mlflow.set_tag(DESCRIPTION, markdown)


def tag_best(best: TrackedRun, config: TrialConfig) -> None:
    """Mark the best child, and on the active run, its parent, which one it is and what it reached."""
    client = mlflow.MlflowClient()
    for before in children(read(active_id()).as_parent(), f"tags.{BEST} = 'true'"):
        client.delete_tag(before.run_id, BEST)  # of the study that this one went on from
    client.set_tag(best.run_id, BEST, "true")
    mlflow.set_tags(
        {
            "best_run_id": best.run_id,
            "best_trial": best.name,
            "best_architecture": config.architecture,
        }
    )
    names = ("kept_val_accuracy", "test_accuracy", "test_loss")
    mlflow.log_metrics({f"best_trial_{name}": best.metrics[name] for name in names})


def end_run(run_id: str, status: str, reason: str, failure: str = "") -> None:
    """End a run whose process cannot do it itself."""
    client = mlflow.MlflowClient()
    client.set_tag(run_id, END_REASON, reason)
    if failure:
        client.set_tag(run_id, FAILURE, failure)
    client.set_terminated(run_id, status)


def mark_outdated(run: TrackedRun, how: str) -> None:
    """Keep on a finished trial how its origin differs now; empty where it does not."""
    if how != run.outdated:
        mlflow.MlflowClient().set_tag(run.run_id, OUTDATED, how)


def check_wanted() -> None:
    """Raises Superseded where the active run has been ended by another process."""
    if mlflow.get_run(active_id()).info.status != "RUNNING":
        raise Superseded(active_id())


# Reading --------------------------------------------------------------------------------------


def uri() -> str:
    """The tracking store's address."""
    return mlflow.get_tracking_uri()


def search(
    experiment_id: str, where: str, order: str = "attributes.start_time ASC", limit: int = 0
) -> list[TrackedRun]:
    """The runs of an experiment that a filter of MLflow's language lets through, at most ``limit``."""
    found: list[Run] = mlflow.search_runs(
        [experiment_id],
        where,
        max_results=limit or EVERY,
        order_by=[order],
        output_format="list",
    )
    return [TrackedRun(run) for run in found]


def children(parent: Parent, where: str = "", limit: int = 0) -> list[TrackedRun]:
    """The runs under a parent, the oldest first; with ``limit``, those that ended last, backwards."""
    condition = f"tags.`{PARENT}` = '{parent.run_id}'" + (f" and {where}" if where else "")
    order = "attributes.end_time DESC" if limit else "attributes.start_time ASC"
    return search(parent.experiment_id, condition, order, limit)


def read(run_id: str) -> TrackedRun:
    """A run by its id."""
    return TrackedRun(mlflow.get_run(run_id))


def latest(runs: Sequence[TrackedRun]) -> dict[str, TrackedRun]:
    """The run of each trial that tells what became of it, by its key; ``runs`` with the oldest first.

    That is a finished one before all others, and one that another has followed (KILLED) after them: each
    worker dates its runs by its own clock, so an earlier attempt may look newer.
    """
    ranked = sorted(runs, key=lambda run: (run.status == "FINISHED", run.status != "KILLED"))
    return {run.key: run for run in ranked}


def unfinished(study: TrackedRun, trials: Sequence[TrialConfig]) -> list[str]:
    """The names of a study's trials that did not finish."""
    runs = latest(children(study.as_parent()))
    return [t.name for t in trials if t.key not in runs or runs[t.key].status != "FINISHED"]


def find_run(run_id: str) -> TrackedRun | None:
    """Any run by its id; None where the store has none."""
    try:
        return read(run_id)
    except MlflowException as error:
        if error.error_code in UNKNOWN:
            return None
        raise


def newest(experiment_id: str, kind: str, where: str = "") -> TrackedRun | None:
    """The finished run of a kind that started last; None without one.

    Args:
        where: further conditions, in MLflow's filter language.
    """
    conditions = [f"tags.{KIND} = '{kind}'", "attributes.status = 'FINISHED'", where]
    condition = " AND ".join(filter(None, conditions))
    found = search(experiment_id, condition, "attributes.start_time DESC", limit=1)
    return next(iter(found), None)


def parts() -> dict[str, TrackedRun]:
    """The newest run of each kind under the active run."""
    return {run.kind: run for run in children(read(active_id()).as_parent())}


def experiment_name(experiment_id: str) -> str:
    name: str = mlflow.get_experiment(experiment_id).name
    return name


def metric_histories(run_id: str, names: Sequence[str]) -> pd.DataFrame:
    """Metrics by epoch: the column epoch, and one for each of ``names``; NaN where not logged."""
    client = mlflow.MlflowClient()
    series = {
        name: pd.Series(
            {point.step: point.value for point in client.get_metric_history(run_id, name)},
            dtype=float,
        )
        for name in names
    }
    return pd.DataFrame(series).rename_axis("epoch").reset_index()


def read_file(run_id: str, name: str) -> bytes:
    """An artifact's content."""
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path=name, dst_path=folder
        )
        return Path(path).read_bytes()


def find_file(run_id: str, name: str) -> bytes | None:
    """An artifact's content; None where the run has none of this name."""
    present = {found.path for found in mlflow.MlflowClient().list_artifacts(run_id)}
    return read_file(run_id, name) if name in present else None


def read_table(run_id: str, name: str) -> pd.DataFrame:
    """A table that `log_files` wrote, .csv or .parquet."""
    return _parse(read_file(run_id, name), name)


def find_table(run_id: str, name: str) -> pd.DataFrame | None:
    """A table that `log_files` wrote; None where the run has none of this name."""
    content = find_file(run_id, name)
    return None if content is None else _parse(content, name)


def _parse(content: bytes, name: str) -> pd.DataFrame:
    return (pd.read_parquet if name.endswith(".parquet") else pd.read_csv)(io.BytesIO(content))
