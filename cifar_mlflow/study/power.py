"""Which differences a planned study can show, by how much its finished trials differ already."""

from collections.abc import Sequence

import pandas as pd

from cifar_mlflow.analysis import statistics
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.formatting import counted
from cifar_mlflow.store import query
from cifar_mlflow.store.runs import DATA_DIGEST
from cifar_mlflow.study import results


def planned_power(trials: Sequence[TrialConfig], select_by: str) -> str:
    """`results.power` of a plan, with the standard deviation of its trials that are finished already.

    These are on the data of the newest of them, because a plan does not look for its own data.
    """
    planned = {trial.key: trial for trial in trials}
    runs = [run for run in query.newest_trials() if run.key in planned]
    # Of a trial that was trained again the newest run, which is the first.
    alike = {
        run.key: run for run in reversed(runs) if run.tags[DATA_DIGEST] == runs[0].tags[DATA_DIGEST]
    }
    table = pd.DataFrame(
        [
            (planned[key].configuration.key, run.metrics[results.ACCURACIES[select_by]])
            for key, run in alike.items()
        ],
        columns=["configuration", "accuracy"],
    )
    sd = statistics.pooled_sd(statistics.estimates(table["accuracy"], table["configuration"]))
    seeds = len({trial.seed for trial in trials})
    return results.power(seeds, sd, f"of {counted(len(table), 'finished trial')}", select_by)
