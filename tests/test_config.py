import os
import pickle
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from cifar_mlflow.command_line import one_line
from cifar_mlflow.config import DEFAULT_LEARNING_RATES, TrialConfig
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import printable
from cifar_mlflow.parameters import (
    ArchitecturesParameters,
    GridParameters,
    PredictParameters,
    ReportParameters,
    StudyOptions,
    expand,
)
from cifar_mlflow.paths import user_path, written_to


def grid(**factors: str) -> StudyOptions:
    return GridParameters.model_validate(factors)


def refusal(**values: object) -> str:
    with pytest.raises(ValidationError) as caught:
        TrialConfig.model_validate(values)
    return one_line(caught.value)


def test_the_default_grid_is_the_published_twelve() -> None:
    trials = expand(grid())
    assert {(t.activation, t.batch_size, t.optimizer) for t in trials} == {
        (activation, batch_size, optimizer)
        for activation in ("relu", "sigmoid")
        for batch_size in (32, 64, 128)
        for optimizer in ("sgd", "adam")
    }
    assert len(trials) == 12
    rest = {"activation", "batch_size", "optimizer", "learning_rate"}
    usual = TrialConfig().model_dump(exclude=rest)
    assert all(trial.model_dump(exclude=rest) == usual for trial in trials)


def test_a_grid_varies_its_last_factor_fastest() -> None:
    names = [trial.name for trial in expand(grid(activation="relu", batch_size="32,64"))]
    assert names == [
        "32-sgd-relu-deep",
        "32-adam-relu-deep",
        "64-sgd-relu-deep",
        "64-adam-relu-deep",
    ]


def test_every_field_of_a_trial_is_a_factor() -> None:
    trials = expand(
        grid(activation="relu", batch_size="32", optimizer="adam", seed="0,1", keep="last,best")
    )
    assert {(trial.seed, trial.keep) for trial in trials} == {
        (0, "last"),
        (0, "best"),
        (1, "last"),
        (1, "best"),
    }


def test_an_automatic_learning_rate_is_the_optimizers_default() -> None:
    assert TrialConfig(optimizer="sgd").learning_rate == 0.01
    assert TrialConfig(optimizer="adam").learning_rate == 0.001
    assert TrialConfig.model_validate({"learning_rate": "0.5"}).learning_rate == 0.5


def test_default_learning_rates_are_those_of_keras() -> None:
    import keras

    for name, rate in DEFAULT_LEARNING_RATES.items():
        assert float(keras.optimizers.get(name).learning_rate) == pytest.approx(rate)


def test_a_trial_is_its_configuration_however_it_was_spelled() -> None:
    spelled = TrialConfig.model_validate({"learning_rate": "1e-2", "batch_size": "32"})
    assert spelled.key == TrialConfig().key
    keys = {TrialConfig(seed=seed, epochs=epochs).key for seed in (0, 1) for epochs in (19, 20)}
    assert len(keys) == 4


def test_a_name_tells_what_is_not_at_its_default() -> None:
    assert TrialConfig(batch_size=128, optimizer="adam").name == "relu-128-adam-deep"
    trial = TrialConfig(seed=3, learning_rate=0.1)
    assert trial.name == "relu-32-sgd-deep-learning_rate=0.1-seed=3"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "adm"}, "optimizer=adm: input should be 'sgd', 'adam'"),
        ({"batch_size": "0"}, "batch_size=0: input should be greater than 0"),
        ({"epochs": "-1"}, "epochs=-1: input should be greater than 0"),
        ({"validation_fraction": "1.5"}, "validation_fraction=1.5: input should be less than 1"),
        (
            {"learning_rate": "fast"},
            "learning_rate=fast: input should be a number greater than 0, or",
        ),
        ({"learning_rate": "nan"}, "learning_rate=nan: input should be"),
        ({"seed": "-2"}, "seed=-2: input should be greater than or equal to 0"),
        ({"architecture": "huge"}, "architecture=huge: input should be 'small', 'wide'"),
        ({"keep": ""}, "keep=: input should be 'last' or 'best'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(values: dict[str, str], message: str) -> None:
    assert refusal(**values).startswith(message)


@pytest.mark.parametrize("name", ["activation", "batch_size", "seed"])
def test_an_empty_list_is_refused(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        grid(**{name: " "})
    assert "the list is empty" in one_line(caught.value)


def test_an_empty_value_in_a_list_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        PredictParameters.model_validate({"images": "a.png,,b.png"})
    assert one_line(caught.value).startswith("images=a.png,,b.png: one value of the list is empty")


def test_what_is_no_regular_file_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("circle").symlink_to("circle")
    Path("link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for output in ("pipe", "folder", "circle", "link", "socket", os.devnull, "~nobody/a.html"):
            with pytest.raises(ValidationError) as caught:
                ReportParameters.model_validate({"output": output})
            allowed = "input should be a new or a regular file in a folder that exists"
            assert one_line(caught.value) == f"output={output}: {allowed}"


def test_a_file_is_written_where_its_link_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("link.html").symlink_to("folder/new.html")
    parameters = ReportParameters.model_validate({"output": "link.html"})
    assert parameters.output == Path("link.html")  # as it was given
    assert written_to(parameters.output) == tmp_path.resolve() / "folder" / "new.html"


def test_an_image_may_be_named_twice() -> None:
    parameters = PredictParameters.model_validate({"images": "a.png, a.png"})
    assert parameters.images == ("a.png", "a.png")


def test_a_value_that_stands_twice_in_a_list_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        grid(batch_size="32, 64,32")
    assert one_line(caught.value).endswith("32 stands more than once")


def test_one_trial_under_two_spellings_is_refused() -> None:
    with pytest.raises(UsageError, match="more than once in the study"):
        expand(grid(optimizer="adam", learning_rate="0.1,1e-1"))
    with pytest.raises(UsageError, match="more than once in the study"):
        expand(grid(optimizer="adam", learning_rate="auto,0.001"))


@pytest.mark.parametrize("name", ["cifar10-cnn", "v1.2", "_", "-a", "Größe", "n" * 250])
def test_a_name_that_the_registry_takes_is_taken(name: str) -> None:
    options = GridParameters.model_validate({"model_name": name})
    assert options.model_dump()["model_name"] == name


@pytest.mark.parametrize(
    "name", ["o'brien", ".", "..", ".hidden", "", "a b", "a/b", "a:b", "a\n", "n" * 251]
)
def test_a_name_that_the_registry_would_refuse_is_refused_before_any_training(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        grid(model_name=name)
    allowed = "input should be up to 250 letters, digits, '_', '-' and '.', and not begin with '.'"
    assert one_line(caught.value) == f"model_name={name}: {allowed}"


def test_a_tilde_stands_for_a_home_unless_a_file_is_named_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/a.png") == Path("/home/me/a.png")
    Path("~no-such-user").touch()
    assert user_path("~no-such-user") == Path("~no-such-user")
    with pytest.raises(UsageError, match="no home folder is known for ~nobody-else$"):
        user_path("~nobody-else/a.png")
    with pytest.raises(ValidationError) as caught:
        ReportParameters.model_validate({"output": "~nobody-else/a.html"})
    expected = "output=~nobody-else/a.html: no home folder is known for ~nobody-else"
    assert one_line(caught.value) == expected


def test_printable_text_has_no_control_characters_and_no_passwords() -> None:
    assert printable("caf\udce9\x1b[31m\n é 猫") == "caf\ufffd\ufffd[31m\ufffd é 猫"
    for address in ("http://me:secret@host/a@b.png", "http://me@secret@host/a@b.png"):
        assert printable(f"{address}: gone") == "http://host/a@b.png: gone"
    assert printable("http://host/a@b.png") == "http://host/a@b.png"


@pytest.mark.parametrize("study", [GridParameters, ArchitecturesParameters])
def test_eleven_letters_tell_the_trials_of_a_published_study_apart(
    study: type[StudyOptions],
) -> None:
    names = [trial.name for trial in expand(study())]
    assert len({name[:11] for name in names}) == len(names)


def test_a_name_begins_with_what_its_study_varies() -> None:
    assert "relu-128-adam-deep" in [trial.name for trial in expand(grid())]
    networks = expand(ArchitecturesParameters.model_validate({}))
    assert [trial.name for trial in networks][:2] == ["small-relu-32-sgd", "wide-relu-32-sgd"]
    seeds = expand(grid(activation="relu", batch_size="32", optimizer="adam", seed="0,1"))
    assert [trial.name for trial in seeds] == ["relu-32-adam-deep", "seed=1-relu-32-adam-deep"]
    # It is the same trial, and has the same name in the process that trains it.
    assert seeds[1].key == TrialConfig(optimizer="adam", seed=1).key
    assert pickle.loads(pickle.dumps(seeds[1])).name == seeds[1].name
