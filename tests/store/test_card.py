"""The card of a model: what it says, and that the store has all of it."""

import re
from dataclasses import replace
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Schema, TensorSpec

from cifar_mlflow.analysis import metrics
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST, CLASSES
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import as_text, number
from cifar_mlflow.store import query, registry, tracking
from cifar_mlflow.store.card import card_of_model, card_of_version, description, model_card, publish
from cifar_mlflow.store.facts import Facts, facts_of_version
from cifar_mlflow.store.runs import BEST, MODEL_URI, TRIAL_KEY, TrackedRun
from tests.stores import predictions, tracked

PREDICTIONS = predictions(0.7, seed=0)
CONFIG = TrialConfig(optimizer="adam", epochs=2)
REACHED = {
    "kept_val_accuracy": 0.7123,
    "parameters": 122_570.0,
    "train_seconds": 754.0,
    "train_pflop": 0.0241,
    "train_images": 40_000.0,
    "validation_images": 10_000.0,
}
HOSTILE = (
    "a|b",
    "<script>alert(1)</script>",
    "*bold* _thin_ `code`",
    "[link](http://example.org)",
    "---",
    "# heading",
    "one\ntwo\n---\nlicense: none",
    "key: 'value' \"quoted\"",
    "&amp; \\ $x$",
    "写真",
)
OWN_TAGS = {"h", "p", "strong", "em", "code", "pre", "ul", "li"}  # of the card's Markdown as HTML
OWN_TAGS |= {"table", "thead", "tbody", "tr", "th", "td"}
SHOWN = tuple(name.replace("\n", "\ufffd") for name in HOSTILE)


@cache
def intervals() -> pd.DataFrame:
    return metrics.intervals(PREDICTIONS)


def made(**changes: Any) -> Facts:
    """What is known about the best of two trials; some of it changed."""
    settings = {name: as_text(value) for name, value in CONFIG.model_dump().items()}
    tags: dict[str, Any] = {BEST: "true", "threads": "2", "cores": "4", "cpu_instructions": "AVX2"}
    tags |= {"tensorflow_version": "2.21.0", "mlflow.source.git.commit": "c0ffee"}
    known = Facts(
        uri="models:/mine/3",
        model_id="m-1",
        name="mine",
        title="mine version 3",
        tags={"kept_val_accuracy": "0.7123", "promotion": "there was no champion"},
        run=tracked("1234", CONFIG.name, metrics=REACHED, parameters=settings, **tags),
        twin=None,
        study=tracked("5678", kind="grid"),
        candidates=2,
        data_set="CIFAR-10",
        digest=CIFAR10_DIGEST,
        classes=CLASSES,
        image_shape=(32, 32, 3),
        result=metrics.evaluate(PREDICTIONS),
        intervals=intervals(),
        confidence=0.4567,
    )
    return replace(known, **changes)


def parts(text: str) -> tuple[dict[str, Any], str]:
    """The metadata and the Markdown of a card, split as Hugging Face does."""
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert found
    return yaml.safe_load(found[1]), text[found.end() :]


def rendered(markdown: str) -> str:
    html: str = MarkdownIt("commonmark").enable("table").render(markdown)
    return html


def visible(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


def one_line(text: str) -> str:
    """The visible text of a card, with single spaces."""
    return re.sub(r"\s+", " ", visible(rendered(parts(text)[1])))


def test_the_metadata_are_those_that_a_hub_reads() -> None:
    metadata, _ = parts(model_card(made()))
    value = intervals()["value"]
    measured = [
        {"type": "accuracy", "name": "accuracy", "value": round(value["accuracy"], 4)},
        {"type": "f1", "name": "macro F1", "value": round(value["macro_f1"], 4)},
        {"type": "loss", "name": "loss (cross-entropy, nats)", "value": round(value["loss"], 4)},
        {
            "type": "expected_calibration_error",
            "name": "expected calibration error",
            "value": round(value["calibration_error"], 4),
        },
    ]
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"type": "uoft-cs/cifar10", "name": "CIFAR-10", "split": "test"},
        "metrics": measured,
    }
    assert metadata == {
        "license": "mit",
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["mlflow", "tensorflow"],
        "datasets": ["uoft-cs/cifar10"],
        "metrics": ["accuracy", "f1"],
        "model-index": [{"name": "mine", "results": [result]}],
    }


def test_a_card_says_all_that_a_reader_needs_who_has_only_the_card() -> None:
    text = one_line(model_card(made()))
    for name, value, low, high in intervals().itertuples(name=None):
        label = {"macro_f1": "macro F1", "loss": "loss (cross-entropy, nats)"}.get(name, name)
        assert f"{label.replace('_', ' ')} {value:.4f} {low:.4f} to {high:.4f}" in text
    for name, precision, *_ in metrics.evaluate(PREDICTIONS).report.itertuples(name=None):
        assert f" {name} {number(precision)} " in text
    for line in (
        "mine version 3 Classifies colour images of 32 x 32 pixels into the 10 classes of CIFAR-10.",
        "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.",
        'mlflow.pyfunc.load_model("models:/mine/3")',
        "mlflow models serve -m models:/mine/3 --env-manager local",
        "uint8 (N, 32, 32, 3), RGB 0..255, and gives probabilities, float32 (N, 10).",
        f"CIFAR-10, SHA-256 {CIFAR10_DIGEST}.",
        "training 40,000 to train",
        "validation 10,000 to compare trials",
        "test 300 for the numbers below",
        "run 1234 (relu-32-adam-deep-epochs=2)",
        "weights 122,570 epochs, seed 2, 0 time 13 min compute 0.0241 PFLOP",
        "machine threads 2, cores 4, AVX2 software TensorFlow 2.21.0 code commit c0ffee",
        "mlflow run . -e train -P optimizer=adam -P epochs=2 --env-manager local",
        "learning_rate auto schedule constant",
        "On 300 test images.",
        "Grid run 5678 chose it by validation accuracy, from 2 finished trials.",
        "This model: validation accuracy 0.7123; there was no champion.",
        "the mean for the predicted class is 0.46",
        "Weights: MIT",
    ):
        assert line in text
    assert "onnx" not in text


def test_the_description_is_the_same_but_shorter() -> None:
    whole, short = model_card(made()), description(made())
    assert len(short) <= 5000  # what the registry's database keeps
    (own,) = set(short.splitlines()) - set(whole.splitlines())
    assert own.startswith("The model's artifact `README.md` is its whole card")
    assert own.endswith("Run 1234 trained it.")


def test_the_programs_of_a_card_are_python_of_at_most_seven_lines() -> None:
    text = model_card(made(tags={registry.FORMATS: "litert,onnx"}))
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert ["onnxruntime" in program for program in programs] == [False, True]
    for program in programs:
        compile(program, "card", "exec")
        assert len(list(filter(None, program.splitlines()))) <= 7
    assert parts(text)[0]["tags"] == ["mlflow", "tensorflow", "litert", "onnx"]


@pytest.mark.parametrize(("name", "shown"), [*zip(HOSTILE, SHOWN)])
def test_names_are_shown_as_they_are_whatever_letters_they_have(name: str, shown: str) -> None:
    """Of the model, the data set and the classes."""
    named = dict(zip(CLASSES, HOSTILE, strict=True))
    result = metrics.evaluate(PREDICTIONS)
    result = replace(
        result,
        report=result.report.rename(index=named),
        confusion=result.confusion.rename(index=named, columns=named),
    )
    hostile = made(
        uri=f"models:/{name}/3",
        name=name,
        title=name,
        data_set=name,
        digest="0" * 64,
        classes=HOSTILE,
        result=result,
    )
    metadata, markdown = parts(model_card(hostile))
    (entry,) = metadata["model-index"]
    assert (entry["name"], entry["results"][0]["dataset"]["name"]) == (shown, shown)
    html = rendered(markdown)
    assert set(re.findall(r"<([a-z]+)", html)) == OWN_TAGS
    for text in (visible(html), visible(rendered(description(hostile)))):
        assert f"classes of {shown}." in text
        assert f"in the order of the outputs: {', '.join(SHOWN)}." in text
    assert visible(html).lstrip().startswith(f"{shown}\n")
    for each in SHOWN:
        assert f"<td>{each}\N{EN SPACE}</td>" in unescape(html)


def test_other_images_than_cifar10_have_their_own_name_and_no_licence() -> None:
    metadata, markdown = parts(model_card(made(data_set="flowers", digest="0" * 64)))
    assert metadata["license"] == "unknown"
    assert "datasets" not in metadata
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"] == {"type": "imagefolder", "name": "flowers", "split": "test"}
    assert "Krizhevsky" not in markdown
    assert "CIFAR" not in markdown


def test_of_many_classes_the_description_lists_the_first() -> None:
    many = made(classes=tuple(f"class {number} " + "and so on " * 9 for number in range(100)))
    short = description(many)
    assert "class 9 and" in short
    assert " and 90 more." in short
    assert short.rstrip().endswith("the model sees black.")
    assert "class 99 and" in model_card(many)
    assert len(description(made(data_set="so on " * 2000))) <= 5000


def test_a_refit_names_its_twin_and_the_images_that_it_was_trained_on() -> None:
    own = {"parameters": 122_570.0, "train_images": 50_000.0}
    twin = made().run
    refit = tracked("9876", CONFIG.name, metrics=own)
    text = one_line(model_card(made(run=refit, twin=twin, tags=registry.judged_by(refit, twin))))
    for line in (
        "training 50,000 to train",
        "validation 10,000 to choose the trial; then this model was trained on them too",
        (
            "Grid run 5678 chose run 1234 by validation accuracy, from 2 finished trials. "
            "This is the same trial, trained again on all training images."
        ),
        (
            "This model: validation accuracy 0.7123 (of its twin, run 1234, which was trained without the "
            "validation images)."
        ),
    ):
        assert line in text


def test_a_model_without_validation_accuracy_says_so() -> None:
    run = tracked("1234", metrics={"train_images": 50_000})
    text = one_line(model_card(made(run=run, study=None, tags={})))
    assert "This model: no validation accuracy." in text
    assert "validation 0 to compare" in text
    assert "It was trained by itself, not chosen from others." in text


def test_what_earlier_runs_did_not_log_is_left_open() -> None:
    text = one_line(model_card(made(run=tracked("1234"))))
    assert "training – to train validation – to compare" in text
    assert "weights – epochs, seed –, – time – compute – PFLOP" in text
    assert "machine threads –, cores –, – software – code commit –" in text


def test_why_a_version_was_promoted_is_said_once() -> None:
    reason = "validation accuracy 0.7123 beats the champion's 0.7000"
    text = model_card(made(tags={"kept_val_accuracy": "0.7123", "promotion": reason}))
    assert f"This model: {reason}." in text
    assert text.count("0.7123") == 1


def test_a_trial_that_its_study_did_not_choose_says_so() -> None:
    text = model_card(made(run=tracked("1234")))
    assert "It is one of 2 finished trials of grid run 5678, which chose another." in text


def test_a_choice_by_test_accuracy_is_said_to_help_the_numbers() -> None:
    study = tracked("5678", kind="grid", parameters={"select_by": "test", "seed": "0,1,2"})
    text = model_card(made(study=study))
    assert (
        "chose it by test accuracy (the mean over the seeds), from 2 finished trials. The test"
        in text
    )
    assert "to choose the trial, and for the numbers below" in text


def test_a_search_chose_among_its_finalists_by_the_mean_over_their_seeds() -> None:
    search = tracked("5678", kind="search", parameters={"trials": "36", "replicates": "5"})
    assert (
        "Search run 5678 chose it by validation accuracy (the mean over the seeds), from 15 finished "
        "trials of its finalists, the best of 36 proposals."
    ) in model_card(made(study=search, candidates=15))


# In a store


def train(config: TrialConfig, kind: str = "trial", **tags: str) -> TrackedRun:
    """A trial that finished, under the active run; of its model there is only the description."""
    client = mlflow.MlflowClient()
    with tracking.tracked_run(kind, config.name, tags={TRIAL_KEY: config.key}) as run:
        tracking.log_trial(config)
        mlflow.set_tags({"data_digest": "0" * 64, **tags})
        mlflow.log_metrics(REACHED if config.validation_fraction else {"train_images": 50_000})
        tracking.log_files(tables={"predictions.parquet": PREDICTIONS})
        logged = client.create_logged_model(run.experiment_id, "model", run.run_id)
        pixels = Schema([TensorSpec(np.dtype(np.uint8), (-1, 24, 28, 3))])
        metadata = {"classes": list(CLASSES), "data": "flowers"}
        Model(signature=ModelSignature(pixels), metadata=metadata).save("MLmodel")
        client.log_model_artifact(logged.model_id, "MLmodel")
        client.finalize_logged_model(logged.model_id, "READY")
        mlflow.set_tag(MODEL_URI, logged.model_uri)
    return query.read(run.run_id)


def register(run: TrackedRun) -> str:
    """A version of the model ``mine``, as people register one by hand."""
    assert run.model_uri
    return str(mlflow.register_model(run.model_uri, "mine").version)


@pytest.mark.usefixtures("store")
def test_a_card_is_read_from_the_store_and_written_to_it() -> None:
    with tracking.tracked_run("grid") as study:
        twin = train(CONFIG, best="true")
        other = train(TrialConfig(optimizer="sgd", epochs=2))
        refit = train(CONFIG.on_all_images, "refit", refit_of=twin.run_id)
    version = register(refit)
    known = facts_of_version("mine", version)
    assert (known.name, known.title) == ("mine", f"mine version {version}")
    assert known.twin
    assert known.study
    runs = [run.run_id for run in (known.run, known.twin, known.study)]
    assert runs == [refit.run_id, twin.run_id, study.run_id]
    assert known.candidates == 2
    assert known.tags == {"refit_of": twin.run_id, "kept_val_accuracy": "0.7123"}
    assert (known.data_set, known.digest) == ("flowers", "0" * 64)
    assert (known.classes, known.image_shape) == (CLASSES, (24, 28, 3))
    assert known.intervals.equals(intervals())

    for _ in range(2):  # the second time in place of the first
        publish("mine", version)
    path = mlflow.artifacts.download_artifacts(f"models:/mine/{version}/README.md")
    text = Path(path).read_text(encoding="utf-8")
    assert text == model_card(known) == card_of_version("mine", version)
    assert mlflow.MlflowClient().get_model_version("mine", version).description == description(
        known
    )

    assert other.model_uri
    text = card_of_model(other.model_uri.removeprefix("models:/"))
    assert f"# {other.name}\n" in text
    assert f'load_model("{other.model_uri}")' in text


@pytest.mark.usefixtures("store")
def test_without_the_predictions_of_its_run_a_model_has_no_card() -> None:
    with tracking.tracked_run("trial") as run:
        client = mlflow.MlflowClient()
        logged = client.create_logged_model(run.experiment_id, "model", run.run_id)
    with pytest.raises(
        UsageError, match=f"{logged.model_uri}: the store has no run .* predictions"
    ):
        card_of_model(logged.model_id)


def test_the_command_that_trains_it_again_gives_the_size_of_the_images() -> None:
    own = made(digest="f" * 64, data_set="flowers", image_shape=(64, 64, 3))
    assert "-P image_size=64 --env-manager local" in model_card(own)
    assert "image_size" not in model_card(made())
