"""Benchmarks that read a tracking store: what they find, and what they say when it will not do."""

from pathlib import Path
from types import ModuleType

import mlflow
import pytest

from benchmarks import ablation, replicates, spread, trial_overhead
from cifar_mlflow.errors import FAILED
from tests.stores import write_study

pytestmark = pytest.mark.usefixtures("store")
READERS = {
    ablation: ["fast", "figure.png"],
    replicates: ["figure.png"],
    spread: ["0" * 32],
    trial_overhead: ["0" * 32],
}


@pytest.mark.parametrize("benchmark", READERS)
def test_a_store_that_cannot_be_opened_is_named_in_one_line(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", "nothing://here", *READERS[benchmark]])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == FAILED
    shown = capsys.readouterr()
    assert shown.err.startswith("benchmark: nothing://here: ")
    assert shown.err.count("\n") == 1
    assert not shown.out


@pytest.mark.parametrize("benchmark", READERS)
def test_a_database_that_does_not_exist_is_named_and_not_created(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", "sqlite:///absent.db", *READERS[benchmark]])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert capsys.readouterr().err == "benchmark: sqlite:///absent.db: no such file\n"
    assert not Path("absent.db").exists()


def test_a_figure_of_an_unknown_format_is_one_line(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(mlflow.MlflowClient(), "0", "grid", {"activation": "relu", "optimizer": "adam"})
    monkeypatch.setattr("sys.argv", ["benchmark", store, "figure.xyz"])
    with pytest.raises(SystemExit):
        replicates.main()
    assert "Format 'xyz' is not supported" in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", READERS)
def test_a_store_without_what_is_asked_for_is_named_in_one_line(
    store: str,
    benchmark: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", store, *READERS[benchmark]])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == FAILED
    shown = capsys.readouterr()
    assert shown.err.startswith(f"benchmark: {store}: no ")
    assert shown.err.count("\n") == 1
    assert not Path("figure.png").exists()


def test_the_time_outside_training_is_that_of_each_finished_trial(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = mlflow.MlflowClient()
    study = write_study(client, "0", "grid", {"activation": "relu", "optimizer": "adam"})
    expected = sorted(
        (run.info.end_time - run.info.start_time) / 1000 - run.data.metrics["train_seconds"]
        for run in client.search_runs(["0"], "tags.kind = 'trial'")
    )
    monkeypatch.setattr("sys.argv", ["benchmark", store, study])
    trial_overhead.main()
    assert capsys.readouterr().out == (
        f"seconds outside training: median {expected[1]:.2f}, "
        f"{expected[0]:.2f} to {expected[2]:.2f}, n = 3\n"
    )


def test_the_spread_of_a_crossed_study_is_shown_for_each_measure(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crossed = {"batch_size": "64", "seed": "0,1", "order_seed": "0,1", "optimizer": "adam"}
    study = write_study(mlflow.MlflowClient(), "0", "grid", crossed | {"activation": "relu"})
    monkeypatch.setattr("sys.argv", ["benchmark", store, study])
    spread.main()
    shown = capsys.readouterr().out
    assert "test_loss: mean " in shown
    assert shown.count("n = 4") == 3
    assert shown.count("order_seed") == 3
