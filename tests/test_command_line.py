import subprocess
import sys
from collections.abc import Callable

import pytest

from cifar_mlflow.command_line import MISUSED, parse
from cifar_mlflow.config import (
    ArchitecturesParameters,
    DataParameters,
    GridParameters,
    TrainParameters,
)

Refuse = Callable[..., str]


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Refuse:
    def refuse(*arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            parse(TrainParameters, "train", arguments)
        assert caught.value.code == MISUSED
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    return refuse


def test_values_arrive_with_their_types() -> None:
    parsed = parse(
        TrainParameters, "train", ["--batch_size=64", "--tensorboard=true", "--seed", "5"]
    )
    assert (parsed.batch_size, parsed.tensorboard, parsed.trial.seed) == (64, True, 5)
    assert parsed.threads == "auto"
    assert parse(TrainParameters, "train", ["--threads=2"]).threads == 2


def test_an_unknown_parameter_is_refused_and_the_known_are_listed(refuse: Refuse) -> None:
    line = refuse("--typo", "3")
    assert "--typo" in line
    assert all(name in line for name in TrainParameters.model_fields)


def test_an_abbreviated_parameter_is_refused(refuse: Refuse) -> None:
    assert "--batch" in refuse("--batch=32")


def test_only_true_and_false_are_flags(refuse: Refuse) -> None:
    assert (
        refuse("--tensorboard=yes") == "train: tensorboard=yes: input should be 'true' or 'false'"
    )


def test_a_number_or_auto_is_asked_for(refuse: Refuse) -> None:
    line = refuse("--threads=many")
    assert line.startswith("train: threads=many:")
    assert "integer" in line
    assert "'auto'" in line


@pytest.mark.parametrize(
    "parameters", [TrainParameters, GridParameters, ArchitecturesParameters, DataParameters]
)
def test_help_explains_every_parameter(
    parameters: type[DataParameters], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(parameters, "prog", ["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{name} " in shown for name in parameters.model_fields)
    assert all(field.description for field in parameters.model_fields.values())


@pytest.mark.parametrize("entry", ["grid", "architectures"])
@pytest.mark.parametrize("argument", ["--help", "--dry_run=true"])
def test_help_and_a_dry_run_load_neither_tensorflow_nor_mlflow(entry: str, argument: str) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['{entry}', '{argument}']\n"
        f"try: runpy.run_module('entry_points.{entry}', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'tensorflow', 'keras', 'mlflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
