"""The paper's grid over seeds, put together from several studies."""

from pathlib import Path

import mlflow
import pandas as pd
import pytest

from benchmarks.replicates import complete_seeds, main, trials_of_the_grid
from cifar_mlflow.errors import FAILED, UsageError
from tests.stores import write_study

pytestmark = pytest.mark.usefixtures("store")
GRID = {"activation": "relu", "batch_size": "32,64", "optimizer": "adam"}


def test_the_seeds_of_several_studies_are_put_together_and_none_counts_twice() -> None:
    client = mlflow.MlflowClient()
    for seeds in ("1,2", "0", "0"):
        write_study(client, "0", "grid", GRID | {"seed": seeds})
    table = trials_of_the_grid()
    assert table["seed"].to_list() == [0, 1, 2, 0, 1, 2]
    assert table["batch_size"].to_list() == [32, 32, 32, 64, 64, 64]
    newest = client.search_runs(["0"], "tags.kind = 'trial'")[:2]
    assert set(table["run_id"]) > {run.info.run_id for run in newest}


def test_what_is_not_in_the_papers_grid_is_left_out() -> None:
    client = mlflow.MlflowClient()
    write_study(client, "0", "grid", GRID | {"learning_rate": "0.01"})
    write_study(client, "0", "grid", GRID, digest="0" * 64)
    write_study(client, "0", "architectures", {"architecture": "small,wide"})
    with pytest.raises(UsageError, match="no finished trial"):
        trials_of_the_grid()


def test_a_seed_that_a_configuration_lacks_is_left_out_of_the_comparison() -> None:
    trials = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)]
    table = pd.DataFrame(trials, columns=["configuration", "seed"])
    assert complete_seeds(table)["seed"].to_list() == [0, 0, 1, 1]


def test_published_numbers_are_shown_beside_means_and_intervals_and_ranked(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(mlflow.MlflowClient(), "0", "grid", GRID | {"seed": "0,1,2"})
    monkeypatch.setattr("sys.argv", ["replicates", store, "ranking.png"])
    main()
    headings, _, row, *lines = capsys.readouterr().out.splitlines()
    assert "95 % PI of a trial | published | test loss" in headings
    assert row.startswith("| relu | 32 | adam | 3 | 0.68")
    assert " | 0.68 | " in row
    assert row.endswith(" | 1.355 |")
    assert any(line.startswith("Paper: 2 of 2 published accuracies lie in") for line in lines)
    assert "seed 2: best by validation relu-64-adam-deep, by test relu-64-adam-deep" in lines
    assert Path("ranking.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_that_cannot_be_written_is_named_in_one_line(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(mlflow.MlflowClient(), "0", "grid", GRID | {"seed": "0"})
    monkeypatch.setattr("sys.argv", ["replicates", store, "missing/ranking.png"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == FAILED
    shown = capsys.readouterr()
    assert shown.err == "replicates: missing/ranking.png: No such file or directory\n"
    assert not shown.out
