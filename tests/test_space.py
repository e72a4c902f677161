"""The space of a search: what a text on the command line means, and which texts are refused."""

import math

import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.errors import UsageError
from cifar_mlflow.parameters import SearchParameters
from cifar_mlflow.space import Choice, Range, Space

FIXED = {"batch_size": "32", "optimizer": "sgd", "learning_rate": "auto"}


def space(**texts: str) -> Space:
    """One in which nothing varies but what the texts say."""
    return SearchParameters.model_validate(FIXED | texts).space


@pytest.mark.parametrize(
    ("name", "text", "domain"),
    [
        ("learning_rate", "0.001..0.1", Range(0.001, 0.1, logarithmic=False)),
        ("learning_rate", "log:1e-3..1e-1", Range(0.001, 0.1, logarithmic=True)),
        ("learning_rate", "auto,0.1", Choice(("auto", 0.1))),
        ("batch_size", "16..128", Range(16, 128, logarithmic=False)),
        ("batch_size", "64,32", Choice((64, 32))),
        ("label_smoothing", "0..0.3", Range(0.0, 0.3, logarithmic=False)),
        ("optimizer", "sgd,adam", Choice(("sgd", "adam"))),
    ],
)
def test_a_text_is_a_choice_or_a_range_of_the_fields_own_type(
    name: str, text: str, domain: Choice | Range
) -> None:
    (varied,) = space(**{name: text}).varied.items()
    assert varied == (name, domain)
    assert [type(value) for value in varied[1].examples] == [type(v) for v in domain.examples]


def test_a_range_is_of_whole_numbers_where_the_field_is_one() -> None:
    both = space(batch_size="16..128", momentum="0.5..0.9").varied
    assert [domain.size for domain in both.values()] == [113, math.inf]


def test_the_size_counts_the_configurations() -> None:
    assert space(batch_size="16..18", optimizer="sgd,adam").size == 6
    assert space(learning_rate="1..2").size == math.inf


def test_a_trial_has_the_given_values_and_a_name_that_begins_with_what_varies() -> None:
    trial = space(momentum="0.5..0.9", epochs="3").trial({"momentum": 0.75})
    assert trial.key == TrialConfig(momentum=0.75, epochs=3).key
    assert trial.name == "momentum=0.75-relu-32-sgd-deep-epochs=3"


def test_the_examples_show_every_two_values_together() -> None:
    found = space(batch_size="32,64", optimizer="sgd,adam", learning_rate="1..2").examples()
    shown = {(trial.batch_size, trial.optimizer, trial.learning_rate) for trial in found}
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert len({(each[one], each[other]) for each in shown}) == 4


def test_what_is_at_its_default_is_not_part_of_a_spaces_identity() -> None:
    texts = {"learning_rate": "log:1e-3..0.1", "seed": "0"}
    assert space(**texts).identity() == {"learning_rate": "log:0.001..0.1"}


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (
            {"learning_rate": "0.1..0.01"},
            "learning_rate=0.1..0.01: the first number of a range should be the smaller one",
        ),
        (
            {"batch_size": "32..32"},
            "batch_size=32..32: the first number of a range should be the smaller one",
        ),
        (
            {"activation": "1..3"},
            "activation=1..3: only numbers have ranges; input should be values with commas",
        ),
        (
            {"lookahead": "log:0..5"},
            "lookahead=log:0..5: a logarithmic range should begin above 0",
        ),
        ({"momentum": "0.5..1"}, "momentum=1: input should be less than 1 or 'auto'"),
        ({"learning_rate": "1e-3..inf"}, "learning_rate=inf: input should be a finite number"),
        ({"learning_rate": "..5"}, "learning_rate=: input should be a valid number or 'auto'"),
        (
            {"learning_rate": "auto..1"},
            "learning_rate=auto..1: the ends of a range should be numbers",
        ),
        ({"batch_size": "1.5..3"}, "batch_size=1.5: input should be a valid integer"),
        ({"batch_size": "log:32"}, "batch_size=log:32: input should be a valid integer"),
        (
            {"learning_rate": "1..2,5"},
            "learning_rate=1..2,5: input should be one range, or values without a range",
        ),
        ({"learning_rate": "0,0.1"}, "learning_rate=0: input should be greater than 0 or 'auto'"),
        ({"learning_rate": "0.1,1e-1"}, "learning_rate=0.1,1e-1: 0.1 is given twice"),
        ({"epochs": "3,9"}, "epochs=3,9: a search takes a single value; rungs stop trials early"),
        ({"seed": "0..3"}, "seed=0..3: a search takes a single value; replicates trains "),
        (
            {"validation_fraction": "0.1,0.2"},
            "validation_fraction=0.1,0.2: a search takes a single ",
        ),
        (
            {"momentum": "0.5..0.9", "optimizer": "sgd,adam"},
            "momentum=0.5: adam has no momentum; sgd, rmsprop, muon have",
        ),
        ({}, "there is nothing to search: give a parameter a choice, such as "),
    ],
)
def test_a_wrong_text_is_refused_in_one_line(texts: dict[str, str], line: str) -> None:
    given = {name: FIXED.get(name, str(f.default)) for name, f in TrialConfig.model_fields.items()}
    items = {name: text.split(",") for name, text in (given | texts).items()}
    with pytest.raises(UsageError) as caught:
        Space.parse(items)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
