import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from cifar_mlflow.analysis import metrics
from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST, CLASSES
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import signed
from cifar_mlflow.parameters import GridParameters, ReportParameters, expand
from cifar_mlflow.report.collect import collect
from cifar_mlflow.report.page import content, render_page
from cifar_mlflow.report.write import write_report
from cifar_mlflow.store import query
from cifar_mlflow.store.runs import TrackedRun
from tests import stores
from tests.conftest import PROJECT
from tests.html_page import Page

CELL = r"<t[hd].*?</t[hd]>"
HOSTILE = "<script>alert(1)</script>\"'&"


class Store:
    """One tracking store for all tests here, with an experiment for each case."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.uri = uri
        self.client = MlflowClient(uri)
        self.folder = folder

    def experiment(self, name: str) -> str:
        return self.client.create_experiment(name, (self.folder / "artifacts").as_uri())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[[Path], str]) -> Store:
    folder = tmp_path_factory.mktemp("store")
    return Store(folder, make_store(folder))


@pytest.fixture(autouse=True)
def _use(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)


@dataclass(frozen=True)
class Rendered:
    experiment: str
    grid: str  # run id
    html: str

    @cached_property
    def parsed(self) -> Page:
        return Page(self.html)

    @property
    def text(self) -> str:
        return self.parsed.text

    def rows(self, caption: str) -> list[list[str]]:
        """The cells of each row of the body of the table with this caption."""
        tables = re.findall(r"<table.*?</table>", self.html, re.DOTALL)
        body = next(table for table in tables if caption in table).partition("<tbody>")[2]
        return [
            [" ".join(re.sub(r"<[^>]+>", "", cell).split()) for cell in re.findall(CELL, row)]
            for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)
        ]


def rendered(experiment: str, grid: str = "") -> Rendered:
    return Rendered(experiment, grid, render_page(collect(experiment, "latest")))


@pytest.fixture(scope="module")
def whole(store: Store) -> Rendered:
    """The page of an experiment with every part of the paper, one seed."""
    experiment = store.experiment("whole")
    stores.write_data(store.client, experiment)
    stores.write_study(store.client, experiment, "architectures", {})
    grid = stores.write_study(store.client, experiment, "grid", {})
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", store.uri)
        return rendered(experiment, grid)


def test_the_page_is_valid_accessible_and_needs_nothing_but_itself(
    whole: Rendered,
) -> None:
    assert whole.parsed.faults == []
    assert whole.html.startswith("<!DOCTYPE html>")
    assert len(whole.html) < 5_000_000


def test_every_figure_and_table_of_the_paper_is_there_in_its_order(whole: Rendered) -> None:
    labels = re.findall(r"\b(?:Figure \d+|Table [1-4])(?=\.|, measured\.)", whole.text)
    expected = [f"Figure {number}" for number in range(1, 17)]
    expected += ["Table 1", "Table 2", "Table 2", "Table 3", "Figure 17", "Table 4"]
    assert labels == expected
    assert "Missing" not in whole.text


def test_measured_and_published_are_side_by_side_with_the_difference(
    whole: Rendered, store: Store
) -> None:
    table = whole.rows("Table 1.")
    assert len(table) == 12
    best = next(row for row in table if row[0].startswith("relu · 128 · adam"))
    trial = store.client.search_runs(
        [whole.experiment],
        "params.optimizer = 'adam' AND params.batch_size = '128' AND params.activation = 'relu'",
    )[0]
    accuracy, loss = (trial.data.metrics[f"test_{name}"] for name in ("accuracy", "loss"))
    assert best[2:5] == [f"{accuracy:.3f}", "0.70", signed(accuracy - 0.70)]
    assert best[5:] == [f"{loss:.3f}", "0.937", signed(loss - 0.937)]
    cat = next(row for row in whole.rows("Table 2, published") if row[0] == "cat")
    assert cat[4] == "543"
    measured = next(row for row in whole.rows("Table 2, measured.") if row[0] == "cat")
    less = next(row for row in whole.rows("Table 2, measured less") if row[0] == "cat")
    assert less[4] == signed(int(measured[4]) - 543, 0)
    assert next(row for row in whole.rows("Table 3.") if row[0] == "cat")[2::3] == [
        "0.50",
        "0.54",
        "0.52",
    ]


def test_networks_are_shown_with_their_layers(whole: Rendered) -> None:
    assert whole.rows("The layers of figure 2")[0] == ["Conv2D", "30 × 30 × 32", "896"]
    names = [row[0] for row in whole.rows("<b>Architectures.</b>")]
    assert names[:2] == ["small · relu · 32 · sgd", "wide · relu · 32 · sgd"]
    assert [row[3] for row in whole.rows("<b>Architectures.</b>")] == ["0.60", "0.63", "0.67"]


def test_figures_say_in_words_what_they_show(whole: Rendered) -> None:
    titles = re.findall(r'<title id="figure-\w+-title">([^<]+)', whole.html)
    assert len(titles) == 3 + 12 + 2 + 1
    assert all(re.search(r"\d", title) for title in titles)
    assert "marks the published test accuracy, 0.60." in titles[0]
    texts = [values["alt"] for tag, values in whole.parsed.tags if tag == "img"]
    assert "airplane, automobile" in texts[0]
    assert " taken for " in texts[1]


def test_conclusions_have_verdicts_with_their_numbers(whole: Rendered) -> None:
    summary = whole.rows("What the paper concluded")
    assert [row[0] for row in summary] == ["1", "2", "3", "4", "5"]
    verdicts = {"agrees", "agrees in part", "disagrees", "inconclusive"}
    assert {row[2] for row in summary} <= verdicts
    assert summary[1][2] == "agrees"
    assert len(re.findall(r"These runs: ", whole.text)) == 5
    assert "relu is better than sigmoid by +0." in whole.text
    assert [row[0] for row in whole.rows("Table B.")] == [
        "activation: relu less sigmoid",
        "optimizer: adam less sgd",
        "batch size: 32 less 128",
    ]


def test_one_seed_is_said_to_show_nothing_about_chance(whole: Rendered) -> None:
    assert "What one seed cannot show (architectures and grid)." in whole.text
    assert "not what this one seed does to all of them alike." in whole.text
    verdicts = [row[2] for row in whole.rows("What the paper concluded")]
    assert verdicts[0] == verdicts[4] == "inconclusive"
    assert "Against the second, relu-" in whole.text
    assert "McNemar" in whole.text


def test_the_provenance_has_versions_and_the_commands_that_repeat_it(whole: Rendered) -> None:
    for text in (
        "c0ffee",
        "keras 3.15.1",
        "laboratory, cores 2",
        CIFAR10_DIGEST,
        whole.grid,
    ):
        assert text in whole.text
    commands = re.findall(r"<pre><code>(.*?)</code></pre>", whole.html, re.DOTALL)[-1].splitlines()
    options = "--experiment-name whole --env-manager local"
    assert commands == [
        f"git checkout {'c0ffee' * 6}c0ff",
        "pip install -r requirements.txt",
        f"mlflow run . -e data {options}",
        f"mlflow run . -e architectures {options}",
        f"mlflow run . -e grid {options}",
        f"mlflow run . -e report {options}",
    ]


def test_several_seeds_give_means_spreads_and_a_ranking(store: Store) -> None:
    experiment = store.experiment("seeds")
    given = {"seed": "0,1,2", "batch_size": "32,128", "activation": "relu"}
    stores.write_study(store.client, experiment, "grid", given)
    page = rendered(experiment)
    assert page.parsed.faults == []
    first = page.rows("Table 1.")[0]
    assert first[1] == "3"
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3}", first[3])
    assert "Ranking: " in page.text
    assert len(page.rows("Table A.")) == len(page.rows("Table 1.")) == 4
    assert "Each seed gives one mean difference over all settings" in page.text
    assert "What one seed cannot show" not in page.text
    assert "-P activation=relu -P batch_size=32,128 -P seed=0,1,2" in page.text


def test_a_configuration_that_lacks_a_seed_has_its_mark(store: Store) -> None:
    experiment = store.experiment("lost seed")
    given = {"activation": "relu", "batch_size": "32,64", "optimizer": "adam", "seed": "0,1,2"}
    failed = {"32-relu-adam-deep": "Diverged"}
    stores.write_study(store.client, experiment, "grid", given, failed)
    page = rendered(experiment)
    assert [row[0] for row in page.rows("Table 1.")] == [
        "relu · 32 · adam † failed",
        "relu · 64 · adam ★",
    ]
    assert "of those with all their seeds (★); 1 with a seed missing, not compared (†)" in page.text


def test_an_accuracy_that_differs_by_the_tolerance_is_within_it(store: Store) -> None:
    experiment = store.experiment("tolerance")
    stores.write_study(
        store.client, experiment, "grid", {"activation": "relu", "batch_size": "128"}
    )
    report = collect(experiment, "latest")
    assert report.grid is not None
    report.grid.summary["difference"] = [0.52 - 0.50, 0.7201 - 0.70]
    facts = dict(content(report)["facts"])
    assert facts["Table 1"].startswith("1 of 2 test accuracies within 0.02")


def test_what_is_missing_is_named_with_the_command_that_produces_it(store: Store) -> None:
    experiment = store.experiment("parts")
    failed = {"adam-relu-32-deep": "Diverged: the loss is NaN"}
    given = {"activation": "relu", "batch_size": "32"}
    stores.write_study(store.client, experiment, "grid", given, failed)
    page = rendered(experiment)
    assert page.parsed.faults == []
    missing = [
        " ".join(re.sub(r"<[^>]+>", " ", note).split())
        for note in re.findall(r'<div class="missing">.*?</div>', page.html, re.DOTALL)
    ]
    assert len(missing) == 4
    for note, (said, command) in zip(
        missing,
        [
            ("Figure 1, an example of each class", "-e data"),
            ("Figures 2 to 4, the three architectures", "-e architectures"),
            ("Figures 7 to 16 – this study has no such configuration", "-e grid"),
            ("adam-relu-32-deep – failed, Diverged: the loss is NaN", "-P activation=relu"),
        ],
    ):
        assert note.startswith("Missing: ")
        assert said in note
        assert "mlflow run . -e " in note
        assert command in note
    assert "1 of 2 trials finished" in page.text
    assert "4 parts of the paper are missing" in page.text
    assert [row[0] for row in page.rows("Table 1.")] == [
        "relu · 32 · sgd ★",
        "relu · 32 · adam failed",
    ]


def test_a_trial_is_shown_beside_the_grid_whatever_trained_it(store: Store) -> None:
    experiment = store.experiment("beyond")
    stores.write_study(store.client, experiment, "grid", {"activation": "relu", "batch_size": "32"})
    assert "mlflow run . -e train --experiment-name beyond -P recipe" in rendered(experiment).text

    def train(name: str, kind: str, status: str = "FINISHED", **tags: str) -> None:
        tags = {"kind": kind, "data_digest": CIFAR10_DIGEST} | tags
        run = store.client.create_run(experiment, run_name=name, tags=tags).info.run_id
        store.client.log_metric(run, "train_pflop", 1.5)
        store.client.log_metric(run, "test_accuracy", 0.9)
        store.client.set_terminated(run, status)

    train("failed", "trial", status="FAILED", trial_key="1")
    train("other-data", "trial", trial_key="2", data_digest="other")
    train("evaluation", "evaluate")
    train("strong", "trial", trial_key="3")
    page = rendered(experiment)
    assert page.parsed.faults == []
    assert "Of 3 trials, strong has the highest test accuracy" in page.text
    grid, strong = page.rows("Table E.")
    assert grid[1:4] == ["adam-relu-32-deep", "0.0300", "0.500"]
    assert strong == ["2", "strong", "1.50", "25.0", "–", "–", "0.900"]
    assert "recipe" not in page.text


def test_a_refit_is_shown_beside_the_grid_and_is_no_trial_of_it(store: Store) -> None:
    experiment = store.experiment("refit")
    given = {"activation": "relu", "batch_size": "32", "optimizer": "adam"}
    grid = stores.write_study(store.client, experiment, "grid", given)
    (trial,) = expand(GridParameters.model_validate(given))
    again = trial.on_all_images
    tags = {"kind": "refit", "trial_key": again.key, "data_digest": CIFAR10_DIGEST}
    tags["mlflow.parentRunId"] = grid
    run = store.client.create_run(experiment, run_name=again.name, tags=tags).info.run_id
    stores.write_trial(store.client, run, again, 0.9, finished=True)
    store.client.set_terminated(run, "FINISHED")
    page = rendered(experiment)
    assert page.parsed.faults == []
    assert "1 of 1 trials finished" in page.text
    assert "of training in 1 trials" in page.text
    assert page.rows("Table E.")[-1][1:2] == [again.name]
    assert "Of 2 trials" in page.text


def test_a_study_without_validation_can_be_reported(store: Store) -> None:
    experiment = store.experiment("all images")
    given = {"activation": "relu", "batch_size": "32,64", "validation_fraction": "0"}
    stores.write_study(store.client, experiment, "grid", given | {"select_by": "test"})
    page = rendered(experiment)
    assert page.parsed.faults == []
    assert "4 of 4 trials finished" in page.text
    assert "No trial has a validation accuracy." in page.text
    assert "chosen by test accuracy: validation –" in page.text
    assert "nan" not in page.text.lower().split()
    assert "held out" not in page.text


def test_the_papers_figures_are_those_of_its_network(store: Store) -> None:
    experiment = store.experiment("two networks")
    given = {"activation": "relu", "batch_size": "32", "architecture": "small,deep"}
    stores.write_study(store.client, experiment, "grid", given)
    figures = re.findall(
        r"<b>((?:Figure|Extra figure)[^<]*)\.</b>([^<]*)", rendered(experiment).html
    )
    captions = {label: text.split(". ")[0].strip() for label, text in figures}
    assert captions["Figure 5"] == "relu, batch 32, sgd"
    assert captions["Figure 6"] == "relu, batch 32, adam"
    assert "The small network" in captions["Extra figure"]


def test_a_page_about_the_data_alone_says_if_it_is_not_cifar10(store: Store) -> None:
    for digest, official in ((CIFAR10_DIGEST, True), ("f" * 64, False)):
        experiment = store.experiment(f"data {digest}")
        stores.write_data(store.client, experiment, digest=digest)
        assert ("These runs did not use CIFAR-10" not in rendered(experiment).text) == official


def test_outdated_trials_are_marked(store: Store) -> None:
    experiment = store.experiment("outdated")
    given = {"activation": "relu", "batch_size": "32"}
    stores.write_study(store.client, experiment, "grid", given)
    (run,) = store.client.search_runs([experiment], "params.optimizer = 'sgd'")
    store.client.set_tag(run.info.run_id, "outdated", "keras_version 3.14.0, now 3.15.1")
    page = rendered(experiment)
    assert page.parsed.faults == []
    assert [row[0] for row in page.rows("Table 1.")] == [
        "relu · 32 · sgd ‡",
        "relu · 32 · adam ★",
    ]
    assert "Outdated: 1 trial (‡) of another network" in page.text


def test_published_numbers_are_left_out_with_other_data(store: Store) -> None:
    experiment = store.experiment("standin")
    stores.write_data(store.client, experiment)
    stores.write_study(store.client, experiment, "grid", {"batch_size": "32"}, digest="other")
    page = rendered(experiment)
    assert page.parsed.faults == []
    assert "These runs did not use CIFAR-10" in page.text
    assert {row[3] for row in page.rows("Table 1.")} == {"–"}
    assert "Table 2, published" not in page.text
    assert {row[2] for row in page.rows("What the paper concluded")} == {"inconclusive"}
    assert "shows other data than the studies used" in page.text


def test_a_page_about_other_images_says_what_they_are_and_nothing_of_the_paper(
    store: Store,
) -> None:
    experiment = store.experiment("own images")
    name = "my birds"
    classes = ["00001", *CLASSES[1:-1], "None"]  # which pandas would take for 1 and a missing value
    data = stores.write_data(store.client, experiment, "own", name, classes)
    store.client.log_param(data, "data_dir", "'/home/me/my birds'")  # as `mlflow run` does
    given = {"batch_size": "32", "activation": "relu", "data_dir": "/home/me/my birds"}
    stores.write_study(store.client, experiment, "grid", given, digest="own", data_name=name)
    stores.write_study(store.client, experiment, "architectures", {})  # of CIFAR-10
    page = rendered(experiment)
    assert page.parsed.faults == []
    assert page.html.count("<h1>my birds: image classification") == 1
    assert (
        "my birds is 550 training and 50 test images of 32 × 32 pixels in 10 classes." in page.text
    )
    assert "The largest class has 10.0 times as many training images as the smallest." in page.text
    assert page.rows("The images of each class")[0] == ["00001", "10", "5"]
    assert page.rows("The images of each class")[-1] == ["None", "100", "5"]
    assert {len(row) for row in page.rows("Table 1.")} == {4}
    assert {len(row) for row in page.rows("Table 3.")} == {4}
    assert "its balanced accuracy (the mean recall of the classes)" in page.text
    for word in ("paper", "Vilnius", "CIFAR-10", "published", "Figures", "Figure 5"):
        assert word not in page.text
    assert "Missing: architectures with their layers" in page.text
    assert page.text.count("-P 'data_dir=/home/me/my birds'") >= 3
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page.html)
    assert [heading[:2] for heading in headings[1:]] == ["1.", "2.", "3.", "4.", "5.", "6."]


def test_a_confusion_matrix_of_many_classes_is_a_figure(store: Store) -> None:
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(47), 200).astype(np.float32)
    labels = (np.arange(200) % 47).astype(np.uint8)
    many = metrics.prediction_table(scores, labels, [f"kind {n}" for n in range(47)])
    experiment = store.experiment("many classes")
    given = {"batch_size": "32", "activation": "relu", "optimizer": "sgd"}
    stores.write_study(store.client, experiment, "grid", given, digest="own", data_name="kinds")
    (trial,) = store.client.search_runs([experiment], "tags.kind = 'trial'")
    many.to_parquet(store.folder / "predictions.parquet")
    store.client.log_artifact(trial.info.run_id, str(store.folder / "predictions.parquet"))
    page = rendered(experiment)
    assert page.parsed.faults == []
    assert 'id="figure-confusion"' in page.html
    assert 'class="matrix"' not in page.html
    assert len(page.rows("Table 3.")) == 47


def test_names_and_reasons_from_the_store_cannot_become_markup(store: Store) -> None:
    experiment = store.experiment(HOSTILE)
    given = {"activation": "relu", "batch_size": "32", "data_dir": HOSTILE}
    failed = {"sgd-relu-32-deep": HOSTILE}
    stores.write_study(store.client, experiment, "grid", given, failed, name=HOSTILE)
    page = rendered(experiment)
    assert page.parsed.faults == []
    assert "<script>alert" not in page.html
    assert page.text.count("<script>alert(1)</script>") >= 3


def test_the_trials_of_an_experiment_are_read_in_one_search(
    whole: Rendered, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[str] = []
    search = query.search

    def counted(experiment_id: str, where: str) -> list[TrackedRun]:
        searches.append(where)
        return search(experiment_id, where)

    monkeypatch.setattr(query, "search", counted)
    assert len(query.finished_trials(whole.experiment, CIFAR10_DIGEST)) == 3 + 12
    assert len(searches) == 1


def test_the_newest_finished_grid_of_the_experiment_is_reported(
    store: Store, whole: Rendered
) -> None:
    experiment = store.experiment("several")
    given = {"activation": "relu", "batch_size": "32"}
    runs = [
        stores.write_study(store.client, experiment, "grid", given, status=status)
        for status in ("FINISHED", "FINISHED", "FAILED")
    ]

    def reported(study: str) -> str:
        grid = collect(experiment, study).grid
        assert grid is not None
        return grid.run.run_id

    assert reported("latest") == runs[1]
    assert reported(runs[0]) == runs[0]
    assert reported(runs[2]) == runs[2]
    with pytest.raises(UsageError, match="is of experiment 'whole', not of 'several'"):
        collect(experiment, whole.grid)


def test_a_run_that_is_no_grid_is_refused_in_one_line(store: Store, whole: Rendered) -> None:
    data = store.client.search_runs([whole.experiment], "tags.kind = 'data'")[0].info.run_id
    for study, said in ((data, "of kind 'data'"), ("nonsense", "no such run"), ("", "no such run")):
        with pytest.raises(UsageError, match=said) as error:
            collect(whole.experiment, study)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="no finished study to report on"):
        collect(store.experiment("empty"), "latest")


def test_a_trial_that_has_lost_its_artifacts_is_read_from_its_evaluation(store: Store) -> None:
    experiment = store.experiment("evaluated")
    stores.write_study(store.client, experiment, "grid", {"activation": "relu", "batch_size": "32"})
    best = collect(experiment, "latest").best
    assert best is not None
    where = Path(store.client.get_run(best.run.run_id).info.artifact_uri.removeprefix("file://"))
    (where / "predictions.parquet").rename(store.folder / "predictions.parquet")
    assert "Missing: Tables 2 to 4" in rendered(experiment).text
    for digest in (best.run.tags["data_digest"], "of a subset"):
        tags = {"kind": "evaluate", "model_uri": f"models:/m-{best.run.run_id}"}
        tags["data_digest"] = digest
        run = store.client.create_run(experiment, tags=tags).info.run_id
        store.client.log_param(run, "part", "test")
        if digest != "of a subset":  # whose predictions are of no use here
            store.client.log_artifact(run, str(store.folder / "predictions.parquet"))
        store.client.set_terminated(run, "FINISHED")
    page = rendered(experiment)
    assert "Missing: Tables 2 to 4" not in page.text
    assert "Table 3." in page.text


def test_a_damaged_artifact_is_named_in_one_line(store: Store) -> None:
    experiment = store.experiment("damaged")
    stores.write_study(store.client, experiment, "grid", {"activation": "relu", "batch_size": "32"})
    best = collect(experiment, "latest").best
    assert best is not None
    run_id = best.run.run_id
    where = Path(store.client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    for name in ("misclassified.png", "predictions.parquet"):
        whole = (where / name).read_bytes()
        for part in (whole[:20], b""):
            (where / name).write_bytes(part)
            with pytest.raises(UsageError) as caught:
                collect(experiment, "latest")
            assert str(caught.value) == f"run {run_id}: its artifact {name} is damaged"
        (where / name).write_bytes(whole)


def test_a_page_of_architectures_alone_says_what_is_missing(store: Store) -> None:
    experiment = store.experiment("architectures only")
    stores.write_study(store.client, experiment, "architectures", {})
    page = rendered(experiment)
    assert page.parsed.faults == []
    assert "Figures 5 to 17 and tables 1 to 4" in page.text
    assert "There is no best model yet." in page.text


def test_two_seeds_are_said_to_show_little_about_chance(store: Store) -> None:
    experiment = store.experiment("two seeds")
    given = {"activation": "relu", "batch_size": "32", "seed": "0,1"}
    stores.write_study(store.client, experiment, "grid", given)
    page = rendered(experiment)
    assert page.parsed.faults == []
    assert "What two seeds cannot show (grid)." in page.text
    assert page.rows("Table B.")[0][2] == "– to –"
    assert rendered(experiment).html == page.html  # the same store, the same page


def test_a_grid_in_which_every_trial_failed_is_reported_too(store: Store) -> None:
    experiment = store.experiment("failures")
    given = {"activation": "relu", "batch_size": "32,64", "optimizer": "sgd"}
    failed = dict.fromkeys(("32-relu-sgd-deep", "64-relu-sgd-deep"), "Diverged")
    stores.write_study(store.client, experiment, "grid", given, failed)
    page = rendered(experiment)
    assert page.parsed.faults == []
    assert "0 of 2 trials finished" in page.text
    assert "Figure 17 and tables 2 to 4 – no trial of the study finished" in page.text
    assert "nan" not in page.text.lower().split()
    assert {row[2] for row in page.rows("What the paper concluded")} == {"inconclusive"}


def test_a_study_that_is_still_running_can_be_reported(store: Store) -> None:
    experiment = store.experiment("running")
    given = {"activation": "relu", "batch_size": "32"}
    grid = stores.write_study(store.client, experiment, "grid", given, status="RUNNING")
    running, *_ = store.client.search_runs([experiment], "tags.kind = 'trial'")
    store.client.update_run(running.info.run_id, "RUNNING")
    page = Page(render_page(collect(experiment, grid)))
    assert page.faults == []
    assert f"trial {running.info.run_name} – running" in page.text
    assert "UTC, still running" in page.text


def test_failures_beyond_the_first_are_counted(store: Store) -> None:
    experiment = store.experiment("many failures")
    given = {"activation": "relu", "batch_size": "32", "seed": ",".join(map(str, range(15)))}
    parameters = GridParameters.model_validate(given)
    failed = {trial.name: "Diverged" for trial in expand(parameters)}
    stores.write_study(store.client, experiment, "grid", given, failed)
    page = rendered(experiment)
    assert page.text.count("failed, Diverged") == 24
    assert "Missing: 6 more trials – they did not finish either" in page.text


def test_a_model_without_mistakes_has_no_gallery_of_them(store: Store) -> None:
    experiment = store.experiment("perfect")
    stores.write_study(store.client, experiment, "grid", {"activation": "relu", "batch_size": "32"})
    report = collect(experiment, "latest")
    perfect = [replace(model, predictions=stores.predictions(1, 0)) for model in report.top_models]
    page = Page(render_page(replace(report, top_models=perfect)))
    assert page.faults == []
    assert "There is no figure 17: every test image was classified correctly." in page.text
    assert "Table D." not in page.text


def test_a_report_is_written_through_a_link(
    whole: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", whole.experiment)
    target, link = tmp_path / "target.html", tmp_path / "link.html"
    target.write_text("of yesterday")
    link.symlink_to(target.name)
    write_report(ReportParameters(output=link))
    assert link.is_symlink()
    assert target.read_text().startswith("<!DOCTYPE html>")
    assert sorted(tmp_path.glob("*.html*")) == [link, target]


def test_a_page_is_written_without_tensorflow(store: Store, tmp_path: Path) -> None:
    stores.write_data(store.client, store.experiment("without tensorflow"))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cifar_mlflow.parameters import ReportParameters\n"
        "from cifar_mlflow.report.write import write_report\n"
        f"write_report(ReportParameters(output=Path({str(tmp_path / 'page.html')!r})))\n"
        "print({'tensorflow', 'keras'} & sys.modules.keys())"
    )
    named = os.environ | {"MLFLOW_EXPERIMENT_NAME": "without tensorflow"}
    printed = subprocess.check_output(
        [sys.executable, "-c", code], text=True, cwd=PROJECT, env=named
    )
    assert printed.endswith("set()\n")
    assert "The data" in (tmp_path / "page.html").read_text()


def test_the_template_holds_no_number_of_the_results() -> None:
    """All numbers are measured or come from paper.py; the template has none."""
    template = (PROJECT / "cifar_mlflow/report/page.html.jinja").read_text()
    assert not re.findall(r"\b0\.\d{2,}", re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", template))
