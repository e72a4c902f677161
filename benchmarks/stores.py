"""Reading a tracking store from the command line: what goes wrong is said in one line."""

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow

from cifar_mlflow.errors import FAILED, UsageError
from cifar_mlflow.store import query
from cifar_mlflow.store.runs import TRIAL, Status, TrackedRun


@contextmanager
def reading(parser: ArgumentParser, uri: str) -> Iterator[None]:
    """Read the store at ``uri`` within; leave the program where it, or what it holds, will not do.

    Raises:
        SystemExit: the store cannot be read, lacks trials, or a file cannot be written.
    """
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:") and not file.exists():  # MLflow would create it
        parser.exit(FAILED, f"{parser.prog}: {uri}: no such file\n")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    except (ValueError, query.StoreError) as error:  # of matplotlib for a figure's format too
        reason = str(error).strip().partition("\n")[0]
        parser.exit(FAILED, f"{parser.prog}: {uri}: {reason}\n")
    except OSError as error:
        parser.exit(FAILED, f"{parser.prog}: {error.filename or uri}: {error.strerror}\n")


def finished_trials(run_id: str) -> list[TrackedRun]:
    """The finished trials of a study, one for each configuration.

    Raises:
        UsageError: the store has no such run, or no trial of it has finished.
    """
    study = query.find_run(run_id)
    if study is None:
        raise UsageError(f"no run {run_id}")
    trials = query.latest(query.children(study.as_parent())).values()
    finished = [
        trial for trial in trials if trial.kind == TRIAL and trial.status == Status.FINISHED
    ]
    if not finished:
        raise UsageError(f"no finished trial of run {run_id}")
    return finished
