"""Recipes: what one sets, what counts more, and how a wrong one is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_mlflow import recipes
from cifar_mlflow.command_line import parse
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.errors import MISUSED
from cifar_mlflow.paper import BEST, published
from cifar_mlflow.parameters import (
    ArchitecturesParameters,
    GridParameters,
    Options,
    StudyOptions,
    TrainParameters,
    expand,
)

Write = Callable[[str], str]
Refuse = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a recipe of the user's own, and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Parses a command line that is wrong, and gives the line that says so."""

    def refuse(recipe: str, parameters: type[Options] = TrainParameters, *others: str) -> str:
        with pytest.raises(SystemExit) as caught:
            parse(parameters, "prog", [f"--recipe={recipe}", *others])
        assert caught.value.code == MISUSED
        (line,) = capsys.readouterr().err.splitlines()
        return str(line).removeprefix("prog: ")

    return refuse


def train(recipe: str, **given: str) -> TrialConfig:
    return TrainParameters.model_validate({"recipe": recipe, **given}).trial


def study(recipe: str, of: type[StudyOptions] = GridParameters, **given: str) -> list[TrialConfig]:
    return expand(of.model_validate({"recipe": recipe, **given}))


# What a recipe sets ---------------------------------------------------------------------------


def test_a_recipe_and_its_values_spelled_out_are_one_trial(write: Write) -> None:
    recipe = write('optimizer = "adam"\nlearning_rate = 1e-3\nbatch_size = 128\n')
    spelled = {"optimizer": "adam", "learning_rate": "0.001", "batch_size": "128"}
    assert train(recipe).key == TrainParameters.model_validate(spelled).trial.key


def test_what_is_given_counts_more_even_where_it_is_the_default(write: Write) -> None:
    recipe = write('optimizer = "adam"\nbatch_size = 128\n')
    assert train(recipe, batch_size="32").key == TrialConfig(optimizer="adam").key
    assert train(recipe, batch_size="64", seed="1").batch_size == 64


@pytest.mark.parametrize("of", [GridParameters, ArchitecturesParameters])
def test_a_recipe_is_a_whole_configuration_in_a_study_too(
    of: type[StudyOptions], write: Write
) -> None:
    recipe = write("batch_size = 128\n")
    assert study(recipe, of) == [train(recipe)]
    seeds = study(recipe, of, seed="0,1")
    assert [(trial.batch_size, trial.seed) for trial in seeds] == [(128, 0), (128, 1)]


def test_a_list_in_a_recipe_makes_the_levels_of_a_factor(write: Write) -> None:
    recipe = write('optimizer = ["sgd", "adam"]\nlearning_rate = ["auto", 0.1]\n')
    trials = [(trial.optimizer, trial.learning_rate) for trial in study(recipe)]
    assert trials == [("sgd", "auto"), ("sgd", 0.1), ("adam", "auto"), ("adam", 0.1)]
    assert [trial.learning_rate for trial in study(recipe, optimizer="sgd")] == ["auto", 0.1]


def test_the_name_of_a_configuration_has_no_seed_whatever_its_recipe_says(write: Write) -> None:
    trials = study(write("seed = [1, 2]\n"))
    assert [trial.name for trial in trials] == ["mine", "seed=2-mine"]
    assert {trial.configuration.name for trial in trials} == {"mine"}


def test_none_leaves_every_default() -> None:
    assert train("none") == TrialConfig()
    assert study("none") == expand(GridParameters())


def test_the_name_or_path_of_the_recipe_is_a_parameter_to_be_logged(write: Write) -> None:
    recipe = write("seed = 1\n")
    assert GridParameters.model_validate({"recipe": "paper"}).model_dump()["recipe"] == "paper"
    assert TrainParameters.model_validate({"recipe": recipe}).recipe == recipe


def test_a_path_may_begin_with_the_home_folder_or_where_the_command_runs(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(write("seed = 7\n")).parent
    monkeypatch.setenv("HOME", str(folder))
    assert train("~/mine.toml").seed == 7
    monkeypatch.chdir(folder)
    assert train("mine.toml").seed == 7


# How a wrong one is refused -------------------------------------------------------------------


def test_an_unknown_recipe_is_refused_and_those_that_there_are_are_listed(refuse: Refuse) -> None:
    for name in ("papper", "..", "Paper"):
        line = refuse(name)
        assert line.startswith(f"recipe={name}: no such recipe; choose ")
        assert all(known in line for known in recipes.names())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lerning_rate = 1", "unknown field lerning_rate; it may be architecture, "),
        ("[train]\nseed = 1", "unknown field train; it may be architecture, "),
        ('"a\\nb" = 1', "unknown field a\ufffdb; it may be architecture, "),
        ('optimizer = "adm"', "optimizer=adm: input should be 'sgd', 'adam'"),
        ('optimizer = "a\\nb"', "optimizer=a\ufffdb: input should be 'sgd', 'adam'"),
        ("batch_size = 0", "batch_size=0: input should be greater than 0"),
        ("batch_size = [32, 0]", "batch_size=0: input should be greater than 0"),
        ("learning_rate = nan", "learning_rate=nan: input should be a finite number or 'auto'"),
        ("seed = true", "seed=true: input should be a valid integer"),
        ('seed = "0,1"', "seed=0,1: input should be a valid integer"),
        ("seed = []", "seed should be a number, a string, or a list of one or more of them"),
        ("seed = [[1]]", "seed should be a number, a string, or a list of one or more of them"),
        (
            "seed = 2020-01-01",
            "seed should be a number, a string, or a list of one or more of them",
        ),
        ("seed = [1, 1]", "the trial seed=1-relu-32-sgd-deep is given twice"),
        ("seed = 1\nseed = 2", "not a TOML file: "),
        ("seed: 1", "not a TOML file: "),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it_and_the_field(
    text: str, problem: str, write: Write, refuse: Refuse
) -> None:
    recipe = write(text)
    assert refuse(recipe, GridParameters).startswith(f"recipe {recipe}: {problem}")


def test_a_file_may_begin_with_a_byte_order_mark(write: Write) -> None:
    recipe = write("")
    Path(recipe).write_bytes(b"\xef\xbb\xbfbatch_size = 64\r\n")
    assert TrainParameters.model_validate({"recipe": recipe}).batch_size == 64


def test_a_training_takes_no_list_unless_the_field_is_given(write: Write, refuse: Refuse) -> None:
    recipe = write("seed = [1, 2]\n")
    expected = f"recipe {recipe}: seed is a list, which train does not take"
    assert refuse(recipe) == expected
    assert train(recipe, seed="2").seed == 2


def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    write: Write, refuse: Refuse, tmp_path: Path
) -> None:
    assert (
        refuse("nowhere.toml") == f"recipe nowhere.toml (in {tmp_path}): No such file or directory"
    )
    assert refuse(f"{tmp_path}/") == f"recipe {tmp_path}: Is a directory"
    Path(write("")).write_bytes(b"\xff")
    assert refuse("mine.toml").startswith(f"recipe mine.toml (in {tmp_path}): not a TOML file: ")


def test_a_wrong_value_that_is_given_is_refused_as_without_a_recipe(refuse: Refuse) -> None:
    assert refuse("paper", TrainParameters, "--seed=-1").startswith("seed=-1: input should be")


# The project's own ----------------------------------------------------------------------------


def test_the_recipe_of_the_paper_is_its_best_configuration() -> None:
    numbers = published(train("paper"))
    assert numbers
    assert numbers.accuracy == BEST


@pytest.mark.parametrize("name", recipes.names())
def test_each_recipe_is_valid_and_says_what_it_is_for_and_how_that_was_measured(name: str) -> None:
    assert study(name)
    comments = [
        line.removeprefix("# ")
        for line in (recipes.FOLDER / f"{name}.toml").read_text().splitlines()
        if line.startswith("#")
    ]
    assert comments[0].endswith(".")
    evidence = {line.partition(": ")[0] for line in comments[1:] if line.partition(": ")[2]}
    assert evidence >= {
        "test accuracy",
        "spread",
        "n",
        "PFLOP",
        "minutes",
        "machine",
        "commit",
        "command",
    }


# What trials are named ------------------------------------------------------------------------


def test_a_trial_is_named_after_its_recipe_and_what_differs_from_it(write: Write) -> None:
    own = write('architecture = "small"\nbatch_size = 16\n')
    assert train(own).name == "mine"
    assert train(own, batch_size="32", epochs="1").name == "mine-batch_size=32-epochs=1"
    assert train(own).key == train("none", architecture="small", batch_size="16").key


def test_what_a_study_of_a_recipe_varies_comes_first(write: Write) -> None:
    own = write('optimizer = ["sgd", "adam"]\nepochs = 3\n')
    assert [trial.name for trial in study(own)] == ["mine", "optimizer=adam-mine"]
    seeds = study(own, optimizer="adam", seed="0,1")
    assert [trial.name for trial in seeds] == [
        "mine-optimizer=adam",
        "seed=1-mine-optimizer=adam",
    ]
