"""What a study of very many trials costs beside their training, on any tracking store.

    python -m benchmarks.scale 10000 [TRACKING_URI]

Trials are the real ones but for the training, which is left out: each logs its parameters, one epoch
and its results. Half of them are run by a study that is then resumed by a second one, which runs the
other half, so that planning, resuming and choosing are measured as they are in use. Without a
TRACKING_URI the store is a SQLite file in a temporary folder.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mlflow

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import Cifar10
from cifar_mlflow.data.load import load
from cifar_mlflow.parameters import GridParameters, expand
from cifar_mlflow.store import claims, resume, tracking
from cifar_mlflow.study import engines, runner, summary, trial
from cifar_mlflow.study.progress import Watch
from cifar_mlflow.training.checkpoint import Epoch
from tests import standin

spent: dict[str, float] = {}


@contextmanager
def phase(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    spent[name] = spent.get(name, 0.0) + time.perf_counter() - began


def train_nothing(config: TrialConfig, *_: object) -> None:
    """In place of a training: results that depend on the configuration alone."""
    value = int(config.key, 16) / 16**12
    tracking.log_trial(config)
    tracking.log_epochs([Epoch(1, 1.0, value, 1.0, value, 0.1, 1.0)])
    names = ("kept_val_accuracy", "test_accuracy", "test_loss", "best_val_accuracy")
    mlflow.log_metrics(dict.fromkeys(names, value) | {"train_seconds": 1.0, "parameters": 1})


def child(*arguments: object) -> None:
    """`run_child`, with the training left out, wherever the engine calls it."""
    trial._run = train_nothing  # type: ignore[assignment]
    trial.run_child(*arguments)  # type: ignore[arg-type]


def half(trials: Sequence[TrialConfig], data: Cifar10, options: GridParameters, last: bool) -> None:
    """A study as `run_study` runs it; the first one is left unfinished, as if it had been killed."""
    with phase("start"):
        run = mlflow.start_run(tags={tracking.KIND: "grid", tracking.PROCESS: "0"})
    parent = tracking.read(run.info.run_id).as_parent()
    with (
        claims.claimed(
            tracking.read(run.info.run_id), "0", options.resume, tell=lambda *_: None
        ) as before,
        engines.started(options, len(trials), tracking.uri()) as engine,
    ):
        with phase("resuming"):
            resume.adopt_trials(resume.left_trials(before, parent), before, parent)
        now = list(trials) if last else list(trials[::2])
        with phase("running"), Watch(parent, trials):
            runner.train_all(now, data, engine, options, parent)
        if last:
            with phase("choosing"):
                summary.conclude(trials, data, options, parent)
    if last:
        mlflow.end_run()
    else:
        mlflow.end_run("FAILED")


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
        setattr(runner, "run_child", child)  # noqa: B010
        summary.choose = lambda *_: []  # needs a real model
        megabytes: list[float] = []
        for last in (False, True):
            half(trials, data, options, last)
            megabytes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    for name, seconds in spent.items():
        print(f"{name:10}{seconds:8.1f} s  {1000 * seconds / len(trials):6.2f} ms a trial")
    print(f"peak memory of the parent after each half: {megabytes[0]:.0f}, {megabytes[1]:.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
