"""The cost of a study of very many trials apart from their training, on any tracking store.

    python -m benchmarks.scale 10000 [TRACKING_URI]

Everything but the training is real: each trial logs its parameters, one epoch and its results. A first
study runs half of the trials, then a second one resumes it and runs the other half, so that planning,
resuming and summarising are measured as in use. Without a TRACKING_URI the store is a SQLite file in a
temporary folder.
"""

import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mlflow

from benchmarks import machine
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.data.load import load
from cifar_mlflow.parameters import GridParameters, expand
from cifar_mlflow.store import claims, query, resume, tracking
from cifar_mlflow.store.runs import KIND, PROCESS, TRIAL
from cifar_mlflow.study import engines, runner, summary
from cifar_mlflow.study.progress import Watch
from cifar_mlflow.study.trial import TrialOptions
from cifar_mlflow.training.checkpoint import Epoch
from tests import standin

spent: dict[str, float] = {}


@contextmanager
def phase(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    spent[name] = spent.get(name, 0.0) + time.perf_counter() - began


def log_only(config: TrialConfig, *_: object) -> None:
    """Replaces a training: log results that depend on the configuration alone."""
    value = int(config.key, 16) / 16**12
    tracking.log_trial(config)
    tracking.log_epochs([Epoch(1, 1.0, value, 1.0, value, 0.1, 1.0)])
    names = ("kept_val_accuracy", "test_accuracy", "test_loss", "best_val_accuracy")
    tracking.log_metrics(dict.fromkeys(names, value) | {"train_seconds": 1.0, "parameters": 1})


def run_half(
    trials: Sequence[TrialConfig], data: DataSet, options: GridParameters, last: bool
) -> None:
    """Run a study as `run_study` does; the first one ends unfinished, as if it had been killed."""
    with phase("start"):
        started = mlflow.start_run(tags={KIND: "grid", PROCESS: "0"})
        run = query.read(started.info.run_id)
    parent = run.as_parent()
    with (
        claims.claim(run, "0", options.resume) as previous,
        engines.started(options, len(trials), parent.tracking_uri) as engine,
    ):
        with phase("resuming"):
            resume.adopt_trials(resume.previous_trials(previous, parent), previous, parent)
        batch = list(trials) if last else list(trials[::2])
        each = TrialOptions.of(options, engine)
        with phase("running"), Watch(parent, TRIAL, len(trials), len(trials)):
            runner.train_all(batch, data, engine, each, parent, train=log_only)
        if last:
            with phase("summary"):
                summary.summarise_study(trials, data, options, parent)
    mlflow.end_run("FINISHED" if last else "FAILED")


def main(count: int, uri: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        os.environ |= {
            "HOME": name,
            "CIFAR10_DIGEST": standin.write(folder / "data"),
            "CIFAR10_DIR": str(folder / "data"),
        }
        mlflow.set_tracking_uri(uri or f"sqlite:///{folder}/mlflow.db")
        mlflow.search_runs()
        with phase("planning"):
            options = GridParameters.model_validate(
                {
                    "activation": "relu",
                    "batch_size": "32",
                    "optimizer": "sgd",
                    "epochs": "1",
                    "seed": ",".join(str(seed) for seed in range(10)),
                    "learning_rate": ",".join(
                        f"{k / count:.6f}" for k in range(1, count // 10 + 1)
                    ),
                }
            )
            trials = expand(options)
        data = load("auto")
        megabytes: list[float] = []
        for last in (False, True):
            run_half(trials, data, options, last)
            megabytes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    for name, seconds in spent.items():
        print(f"{name:10}{seconds:8.1f} s  {1000 * seconds / len(trials):6.2f} ms a trial")
    print(f"peak memory of the parent after each half: {megabytes[0]:.0f}, {megabytes[1]:.0f} MB")


if __name__ == "__main__":
    parser = machine.parser(__doc__)
    parser.add_argument("trials", type=int, help="10 or more; rounded down to a multiple of 10")
    parser.add_argument("uri", nargs="?", default="", help="of the tracking store")
    given = parser.parse_args()
    if given.trials < 10:
        parser.error(f"trials={given.trials}: input should be 10 or more")
    main(given.trials, given.uri)
