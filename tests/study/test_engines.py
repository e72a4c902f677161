import os
from collections.abc import Callable

import joblib
import pytest

from cifar_mlflow.errors import UsageError, WorkerDied
from cifar_mlflow.parameters import GridParameters
from cifar_mlflow.study import engines

SERVER = "http://127.0.0.1:5000"


def refuse(store: str, **options: str) -> str:
    with (
        pytest.raises(UsageError) as caught,
        engines.started(GridParameters.model_validate(options), trials=2, tracking_uri=store),
    ):
        pytest.fail("it started")
    return str(caught.value)


def test_one_worker_is_one_process_and_another_one_if_it_dies() -> None:
    jobs = [joblib.delayed(os.getpid)() for _ in range(3)]
    one = GridParameters.model_validate({"workers": "1"})
    with engines.started(one, trials=3, tracking_uri=SERVER) as engine:
        first = engine.run(jobs) + engine.run(jobs)
        with pytest.raises(WorkerDied):
            engine.run([joblib.delayed(os._exit)(1)])
        second = engine.run(jobs)
    assert len(first) == 6
    assert len({*first, *second, os.getpid()}) == 3


def test_a_worker_that_dies_ends_the_jobs_of_the_others_too() -> None:
    two = GridParameters.model_validate({"workers": "2", "threads": "1"})
    jobs = [joblib.delayed(os._exit)(1), joblib.delayed(os.getpid)()]
    with engines.started(two, trials=2, tracking_uri=SERVER) as engine:
        with pytest.raises(WorkerDied):
            engine.run(jobs)
        assert len(set(engine.run([joblib.delayed(os.getpid)()]))) == 1


def test_an_exception_of_a_job_reaches_the_study() -> None:
    one = GridParameters.model_validate({"workers": "1"})
    with (
        pytest.raises(KeyError, match="no such"),
        engines.started(one, trials=1, tracking_uri=SERVER) as engine,
    ):
        engine.run([joblib.delayed(os.environ.__getitem__)("no such")])


@pytest.mark.parametrize("engine", ["dask", "ray"])
@pytest.mark.parametrize("store", ["sqlite:////home/me/mlflow.db", "file:///home/me/mlruns"])
def test_a_store_that_other_machines_cannot_reach_is_refused(engine: str, store: str) -> None:
    message = refuse(store, engine=engine, address="127.0.0.1:1")
    assert f"engine={engine}: workers on other machines cannot reach {store}" in message
    assert "mlflow server" in message
    assert "\n" not in message


def test_a_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed  # takes a second

    client: Callable[..., object] = distributed.Client

    def impatient(*given: object, **named: object) -> object:
        return client(*given, **named | {"timeout": "1s"})

    monkeypatch.setattr(distributed, "Client", impatient)
    message = refuse(SERVER, engine="dask", address="127.0.0.1:1")
    assert message.startswith("address=127.0.0.1:1: no dask scheduler answers")
