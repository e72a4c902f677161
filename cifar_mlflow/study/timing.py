"""How long the rest of a study will train, from the epochs of finished trials on this host."""

import platform
from collections.abc import Hashable, Mapping, Sequence

import pandas as pd

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.store import query
from cifar_mlflow.store.runs import DATA_DIGEST, HOST, KIND, TRIAL, Status, TrackedRun

NEWEST = 200  # finished trials that are looked at


def comparable_trials(experiment_id: str, data: DataSet, threads: int) -> list[TrackedRun]:
    """The newest finished trials on this host, on the same data with as many threads."""
    conditions = {
        f"tags.{KIND}": TRIAL,
        f"tags.{HOST}": platform.node(),
        f"tags.{DATA_DIGEST}": data.digest,
        "tags.threads": threads,
        "attributes.status": Status.FINISHED,
    }
    where = " and ".join(f"{name} = '{value}'" for name, value in conditions.items())
    return query.search(experiment_id, where, "attributes.start_time DESC", NEWEST)


def expected_seconds(
    trials: Sequence[TrialConfig],
    runs: Mapping[str, TrackedRun],
    comparable: Sequence[TrackedRun],
    workers: int,
) -> float | None:
    """Seconds until all trials are trained; None if a network or batch size was never timed.

    An epoch takes the median of the epochs of comparable trials with the same architecture and batch
    size. The workers share the epochs evenly, but one trial runs on one worker.

    Args:
        runs: the run that counts for each trial that has one, by key.
    """
    left = {trial: trial.epochs - epochs_done(runs.get(trial.key)) for trial in trials}
    timed = pd.DataFrame(
        [
            (
                run.parameters["architecture"],
                int(run.parameters["batch_size"]),
                run.metrics["train_seconds"] / run.epochs,
            )
            for run in comparable
        ],
        columns=["architecture", "batch_size", "seconds"],
    )
    medians: dict[Hashable, float] = (
        timed.groupby(["architecture", "batch_size"])["seconds"].median().to_dict()
    )
    try:
        seconds = [
            epochs * medians[trial.architecture, trial.batch_size]
            for trial, epochs in left.items()
            if epochs
        ]
    except KeyError:
        return None
    return max(sum(seconds) / workers, max(seconds, default=0.0))


def epochs_done(run: TrackedRun | None) -> int:
    """The epochs that need not be trained again."""
    return run.epochs if run and (run.status == Status.FINISHED or run.checkpoint) else 0
