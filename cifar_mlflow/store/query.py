"""How runs are found in MLflow, and their metrics and artifacts read."""

import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.errors import UsageError
from cifar_mlflow.store.runs import (
    CANDIDATE,
    DATA_DIGEST,
    KIND,
    PARENT,
    TRIAL_KEY,
    Parent,
    Status,
    TrackedRun,
)

RUNNING = f"attributes.status = '{Status.RUNNING}'"
NO_LIMIT = 2**31 - 1
RUNS_PER_PAGE = 200
# MLflow's error codes for a name or an id that the store does not have, or could not have.
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
# A finished trial that was tested: a search does not test its candidates.
TESTED_TRIAL = (
    f"attributes.status = '{Status.FINISHED}' and tags.{TRIAL_KEY} != '' "
    f"and tags.{KIND} != '{CANDIDATE}'"
)
PNG = b"\x89PNG\r\n\x1a\n"  # how a file begins
PNG_HEADER = 24  # bytes, up to the image's size
# The store cannot be reached, read or written, or refuses a request.
StoreError = MlflowException


def active() -> TrackedRun:
    """The active run, with the tags that it was started with."""
    run = mlflow.active_run()
    if run is None:
        raise RuntimeError("no run is active: call this inside tracked_run")
    return TrackedRun.of(run)


def read(run_id: str) -> TrackedRun:
    return TrackedRun.of(mlflow.get_run(run_id))


def find_run(run_id: str) -> TrackedRun | None:
    """A run by its id; None if the store has none."""
    try:
        return read(run_id)
    except MlflowException as error:
        if error.error_code in UNKNOWN:
            return None
        raise


def search(
    experiment_id: str,
    where: str,
    order: str = "attributes.start_time ASC",
    limit: int = NO_LIMIT,
) -> list[TrackedRun]:
    """The runs of an experiment that match a condition in MLflow's filter language.

    Page by page: while MLflow reads 10,000 runs at once, they take a gigabyte.
    """
    client, found = mlflow.MlflowClient(), list[TrackedRun]()
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            where,
            max_results=min(RUNS_PER_PAGE, limit - len(found)),
            order_by=[order],
            page_token=token,
        )
        found += map(TrackedRun.of, page)
        token = page.token
        if not token or len(found) >= limit:
            return found


def children(parent: Parent, where: str = "", limit: int = NO_LIMIT) -> list[TrackedRun]:
    """The runs under a parent, the oldest first; with ``limit``, those that ended last, backwards."""
    condition = f"tags.`{PARENT}` = '{parent.run_id}'" + (f" and {where}" if where else "")
    order = "attributes.start_time ASC" if limit == NO_LIMIT else "attributes.end_time DESC"
    return search(parent.experiment_id, condition, order, limit)


def parts() -> dict[str, TrackedRun]:
    """The newest run of each kind under the active run."""
    return {run.kind: run for run in children(active().as_parent())}


def newest(experiment_id: str, kind: str, where: str = "") -> TrackedRun | None:
    """The finished run of a kind that started last; None without one.

    Args:
        where: further conditions, in MLflow's filter language.
    """
    conditions = [f"tags.{KIND} = '{kind}'", f"attributes.status = '{Status.FINISHED}'", where]
    condition = " AND ".join(filter(None, conditions))
    runs = search(experiment_id, condition, "attributes.start_time DESC", limit=1)
    return next(iter(runs), None)


def latest(runs: Sequence[TrackedRun]) -> dict[str, TrackedRun]:
    """The run that counts for each trial, by the trial's key, of ``runs`` in the order they started.

    A finished run counts before all others, and one that another run has resumed (KILLED) after them.
    Each worker dates its runs by its own clock, so an earlier attempt may look newer.
    """
    ranked = sorted(
        runs, key=lambda run: (run.status == Status.FINISHED, run.status != Status.KILLED)
    )
    return {run.key: run for run in ranked}


def attempts(runs: Sequence[TrackedRun]) -> dict[str, list[TrackedRun]]:
    """The runs of each trial, by the trial's key, in the order of ``runs``."""
    by_key: dict[str, list[TrackedRun]] = {}
    for run in runs:
        by_key.setdefault(run.key, []).append(run)
    return by_key


def unfinished(study: TrackedRun, trials: Sequence[TrialConfig]) -> list[str]:
    """The names of a study's trials that did not finish."""
    runs = latest(children(study.as_parent()))
    return [t.name for t in trials if t.key not in runs or runs[t.key].status != Status.FINISHED]


def finished_trials(experiment_id: str, data_digest: str) -> list[TrackedRun]:
    """All finished trials of an experiment on the same data, whatever study or command made them."""
    return search(experiment_id, f"{TESTED_TRIAL} and tags.{DATA_DIGEST} = '{data_digest}'")


def newest_trials(limit: int = 1000) -> list[TrackedRun]:
    """The newest finished trials of the experiment that a run would be in now, backwards.

    Without a store there are none, and MLflow, which would create one, is not asked.
    """
    file = re.fullmatch("sqlite:///(.*)", mlflow.get_tracking_uri())
    if file and not Path(file[1]).exists():
        return []
    entities: list[Run] = mlflow.search_runs(
        filter_string=TESTED_TRIAL,
        max_results=limit,
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    return [TrackedRun.of(run) for run in entities]


def experiment_name(experiment_id: str) -> str:
    name: str = mlflow.get_experiment(experiment_id).name
    return name


# Reading metrics and artifacts ----------------------------------------------------------------


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
    """An artifact's content; None if the run has none of this name."""
    names = {file.path for file in mlflow.MlflowClient().list_artifacts(run_id)}
    return read_file(run_id, name) if name in names else None


def find_png(run_id: str, name: str) -> bytes | None:
    """An image's file; None if the run has none of this name.

    Raises:
        UsageError: it is damaged.
    """
    content = find_file(run_id, name)
    if content is not None and not (content.startswith(PNG) and len(content) > PNG_HEADER):
        raise UsageError(f"run {run_id}: its artifact {name} is damaged")
    return content


def read_table(run_id: str, name: str) -> pd.DataFrame:
    """A table that `tracking.log_files` wrote, .csv or .parquet.

    Raises:
        UsageError: it is damaged.
    """
    return _parse(run_id, name, read_file(run_id, name))


def find_table(run_id: str, name: str) -> pd.DataFrame | None:
    """The same; None if the run has none of this name."""
    content = find_file(run_id, name)
    return None if content is None else _parse(run_id, name, content)


def _parse(run_id: str, name: str, content: bytes) -> pd.DataFrame:
    try:
        if name.endswith(".parquet"):
            return pd.read_parquet(io.BytesIO(content))
        # A class may be called 00001 or None.
        return pd.read_csv(io.BytesIO(content), dtype={"class": str}, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise UsageError(f"run {run_id}: its artifact {name} is damaged") from error
