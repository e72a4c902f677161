"""The networks compared, and replicates: two small studies, shared by the tests below."""

from collections.abc import Callable
from subprocess import CompletedProcess

import pandas as pd
import pytest
from mlflow.entities import Run

from tests.end_to_end.conftest import User

QUICK = {"epochs": "2", "optimizer": "adam", "workers": "2"}
SEEDED = QUICK | {"architecture": "small", "activation": "relu", "batch_size": "32,64"}
Studied = tuple[User, Run, str]


def finished(user: User, done: CompletedProcess[str]) -> Studied:
    """The user, the study's run, and what the terminal showed."""
    assert done.returncode == 0, done.stdout
    return user, user.runs("tags.kind != 'trial'")[0], done.stdout


@pytest.fixture(scope="module")
def compared(new_user: Callable[[], User]) -> Studied:
    user = new_user()
    return finished(user, user.run("architectures", QUICK))


@pytest.fixture(scope="module")
def seeded(new_user: Callable[[], User]) -> Studied:
    user = new_user()
    return finished(user, user.run_script("grid", SEEDED | {"seed": "0,1"}))


def test_the_three_networks_are_trained_and_the_best_is_named(compared: Studied) -> None:
    user, parent, shown = compared
    children = user.children(parent)
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert children.keys() == {f"{n}-relu-32-adam-epochs=2" for n in ("small", "wide", "deep")}
    assert (parent.info.run_name, parent.info.status) == ("architectures", "FINISHED")
    best = max(children.values(), key=lambda run: run.data.metrics["kept_val_accuracy"])
    tags = parent.data.tags
    chosen = children[tags["best_trial"]]
    assert tags["best_run_id"] == chosen.info.run_id
    assert tags["best_architecture"] == chosen.data.params["architecture"]
    value = chosen.data.metrics["kept_val_accuracy"]
    assert value == best.data.metrics["kept_val_accuracy"]
    assert f"Best      the {tags['best_architecture']} network: {tags['best_trial']}" in shown


def test_the_layers_of_each_network_are_told(compared: Studied) -> None:
    user, parent, _ = compared
    assert user.artifacts(parent) == {"curves.png", "layers.csv", "results.csv", "summary.csv"}
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


def test_one_seed_is_said_to_show_no_noise(compared: Studied) -> None:
    user, parent, shown = compared
    assert "Seeds     one, so differences may be chance" in shown
    assert "±" not in shown
    summary = pd.read_csv(user.read(parent, "summary.csv"))
    assert summary["n"].tolist() == [1, 1, 1]
    assert summary["kept_val_accuracy_sd"].isna().all()


def test_a_seed_is_no_factor_but_a_replicate(seeded: Studied) -> None:
    user, parent, shown = seeded
    assert "4 trials (2 configurations x 2 seeds), 8 epochs in all" in shown
    assert len(user.children(parent)) == 4
    assert {"ranking.png", "summary.csv"} <= user.artifacts(parent)
    summary = pd.read_csv(user.read(parent, "summary.csv"), index_col="configuration")
    assert list(summary.index) == ["32-relu-adam-small-epochs=2", "64-relu-adam-small-epochs=2"]
    trials = pd.read_csv(user.read(parent, "results.csv"))
    for name, group in trials.groupby("configuration"):
        values = group["test_accuracy"]
        row = summary.loc[str(name)]
        assert row["n"] == len(values) == 2
        assert row["test_accuracy_mean"] == pytest.approx(values.mean())
        assert row["test_accuracy_sd"] == pytest.approx(values.std(ddof=1))


def test_the_configuration_with_the_best_mean_is_registered_by_its_best_seed(
    seeded: Studied,
) -> None:
    user, parent, shown = seeded
    trials = pd.read_csv(user.read(parent, "results.csv"))
    best = trials.groupby("configuration")["kept_val_accuracy"].mean().max()
    (chosen,) = trials[trials["best"]].to_dict("records")
    replicates = trials[trials["configuration"] == chosen["configuration"]]
    assert replicates["kept_val_accuracy"].mean() == best
    assert replicates["kept_val_accuracy"].max() == chosen["kept_val_accuracy"]
    champion = user.client.get_model_version_by_alias("cifar10-cnn", "champion")
    assert champion.tags["trial"] == chosen["name"] == parent.data.tags["best_trial"]
    assert f"of its 2 seeds; the best of these is seed {chosen['seed']}" in shown


def test_spread_and_ranking_are_shown_and_explained(seeded: Studied) -> None:
    _, parent, shown = seeded
    description = parent.data.tags["mlflow.note.content"]
    for text in (shown, description):
        assert "±" in text
        assert "mean ± standard deviation over seeds (95 % interval of the mean, with" in text
        assert "has the best mean validation accuracy (★); 1 untested (?)" in text
        assert "two, so there are no intervals, and differences may be chance" in text
