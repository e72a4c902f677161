from collections.abc import Callable

import pytest

from cifar_mlflow.errors import UsageError
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


@pytest.mark.parametrize("engine", ["dask", "ray"])
@pytest.mark.parametrize("store", ["sqlite:////home/me/mlflow.db", "file:///home/me/mlruns"])
def test_a_store_that_other_machines_cannot_reach_is_refused(engine: str, store: str) -> None:
    message = refuse(store, engine=engine, address="127.0.0.1:1")
    assert f"engine={engine}: workers on other machines cannot reach {store}" in message
    assert "mlflow server" in message
    assert "\n" not in message


def test_the_engine_of_this_machine_has_no_address() -> None:
    assert refuse(SERVER, address="127.0.0.1:1").startswith("address=127.0.0.1:1: the engine loky")


def test_a_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed  # takes a second

    client: Callable[..., object] = distributed.Client

    def impatient(*given: object, **named: object) -> object:
        return client(*given, **named | {"timeout": "1s"})

    monkeypatch.setattr(distributed, "Client", impatient)
    message = refuse(SERVER, engine="dask", address="127.0.0.1:1")
    assert message.startswith("address=127.0.0.1:1: no dask scheduler answers")
