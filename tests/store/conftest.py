"""Studies that were interrupted, in the test's own store."""

import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import mlflow
import pytest

from cifar_mlflow.processes import Process
from cifar_mlflow.store import claims, tracking
from cifar_mlflow.store.runs import HOST, KIND, PLAN_KEY

PLAN = "0123456789ab"
Leave = Callable[..., str]
Start = Callable[..., list[claims.UnfinishedRun]]


@pytest.fixture
def leave(dead_process: Process) -> Leave:
    """A run as its process left it when it was killed; tags that are given replace the usual ones."""

    def make(kind: str = "grid", plan: str = PLAN, **tags: str) -> str:
        client = mlflow.MlflowClient()
        run_id = str(client.create_run("0", run_name=kind).info.run_id)
        for name, value in {
            KIND: kind,
            HOST: platform.node(),
            **tracking.process_tags(dead_process),
            PLAN_KEY: plan,
            claims.CLAIM: claims.HELD,
            claims.HEARTBEAT: "2026-11-24T12:00:00.000+00:00",
            **tags,
        }.items():
            client.set_tag(run_id, name, value)
        return run_id

    return make


@pytest.fixture
def study() -> Iterator[Start]:
    """Starts a study's command, and gives what it resumes."""
    with ExitStack() as stack:

        def start(resume: str = "auto") -> list[claims.UnfinishedRun]:
            run = stack.enter_context(tracking.tracked_run("grid"))
            claim = claims.claim(run, PLAN, resume)
            return stack.enter_context(claim)

        yield start
