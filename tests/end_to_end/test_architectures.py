"""The networks compared, with two seeds each: one small study, shared by the tests below."""

from collections.abc import Callable

import pandas as pd
import pytest
from mlflow.entities import Run

from tests.end_to_end.conftest import User

NETWORKS = ("small", "wide", "deep")
TWO_SEEDS = {"epochs": "2", "optimizer": "adam", "workers": "1", "seed": "0,1"}
Studied = tuple[User, Run, str]  # with what the terminal showed


@pytest.fixture(scope="module")
def compared(new_user: Callable[[], User]) -> Studied:
    user = new_user()
    done = user.run("architectures", TWO_SEEDS)
    assert done.returncode == 0, done.stdout
    return user, user.runs("tags.kind = 'architectures'")[0], done.stdout


def test_the_networks_are_trained_and_the_one_with_the_best_mean_is_named(
    compared: Studied,
) -> None:
    user, parent, shown = compared
    children = user.children(parent)
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert (parent.info.run_name, parent.info.status) == ("architectures", "FINISHED")
    trials = pd.read_csv(user.read(parent, "results.csv"))
    assert sorted(trials["architecture"]) == sorted(NETWORKS * 2)
    best = trials.groupby("architecture")["kept_val_accuracy"].mean().max()
    (chosen,) = trials[trials["best"]].to_dict("records")
    replicates = trials[trials["architecture"] == chosen["architecture"]]
    assert replicates["kept_val_accuracy"].mean() == best
    assert replicates["kept_val_accuracy"].max() == chosen["kept_val_accuracy"]
    tags = parent.data.tags
    assert tags["best_run_id"] == chosen["run_id"]
    assert tags["best_trial"] == chosen["name"]
    assert tags["best_architecture"] == chosen["architecture"]
    assert f"Best      the {tags['best_architecture']} network: {tags['best_trial']}" in shown
    assert f"of its 2 seeds; the best of these is seed {chosen['seed']}" in shown


def test_the_layers_of_each_network_are_listed(compared: Studied) -> None:
    user, parent, _ = compared
    assert user.artifacts(parent) == {
        "curves.png",
        "layers.csv",
        "ranking.png",
        "results.csv",
        "summary.csv",
    }
    layers = pd.read_csv(user.read(parent, "layers.csv"))
    counts = layers.groupby("architecture", sort=False)["parameters"].sum()
    assert counts.to_dict() == {"small": 178_506, "wide": 712_330, "deep": 122_570}
    small = layers[layers["architecture"] == "small"].set_index("layer")
    assert small.loc["Flatten", "output_shape"] == "5408"
    description = parent.data.tags["mlflow.note.content"]
    assert all(heading in description for heading in ("### small", "### wide", "### deep"))
    rows = [line.strip("| ").split("&ensp; | ") for line in description.splitlines()]
    assert ["Conv2D", "30 x 30 x 16", "448"] in rows
    assert any(row[:5] == ["wide", "relu", "32", "adam", "712,330"] for row in rows)


def test_a_comparison_of_networks_registers_no_model(compared: Studied) -> None:
    user, _, shown = compared
    assert not user.client.search_registered_models()
    assert "Champion" not in shown


def test_a_seed_is_no_factor_but_a_replicate(compared: Studied) -> None:
    user, parent, shown = compared
    assert "6 trials (3 configurations x 2 seeds), 12 epochs in all" in shown
    assert len(user.children(parent)) == 6
    summary = pd.read_csv(user.read(parent, "summary.csv"), index_col="configuration")
    trials = pd.read_csv(user.read(parent, "results.csv"))
    groups = trials.groupby("configuration")
    assert set(summary.index) == set(groups.groups)
    for name, group in groups:
        values = group["test_accuracy"]
        row = summary.loc[str(name)]
        assert row["n"] == len(values) == 2
        assert row["test_accuracy_mean"] == pytest.approx(values.mean())
        assert row["test_accuracy_sd"] == pytest.approx(values.std(ddof=1))


def test_spread_and_ranking_are_shown_and_explained(compared: Studied) -> None:
    _, parent, shown = compared
    description = parent.data.tags["mlflow.note.content"]
    for text in (shown, description):
        assert "±" in text
        assert "mean ± standard deviation over seeds (95 % interval of the mean, with" in text
        assert "has the best mean validation accuracy (★); 2 untested (?)" in text
        assert "two, so there are no intervals, and differences may be chance" in text
