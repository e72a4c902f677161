import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cifar_mlflow.command_line import parse
from cifar_mlflow.errors import FAILED, INTERRUPTED, MISUSED
from cifar_mlflow.parameters import (
    ArchitecturesParameters,
    DataParameters,
    GridParameters,
    Options,
    PredictParameters,
    ReproduceParameters,
    TrainParameters,
)
from tests.conftest import PROJECT

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


@pytest.mark.parametrize(
    ("parameters", "argument", "line"),
    [
        (
            ReproduceParameters,
            "--output=/nowhere/report.html",
            "output=/nowhere/report.html: input should be a new or a regular file in a folder that exists",
        ),
        (
            ReproduceParameters,
            "--resume=yes",
            "resume=yes: input should be 'auto', 'never' or a run's id (32 hexadecimal digits)",
        ),
        (
            GridParameters,
            "--model_name=a/b",
            (
                "model_name=a/b: input should be up to 250 letters, digits, '_', '-' and '.', and not "
                "begin with '.'"
            ),
        ),
    ],
)
def test_what_a_study_could_not_use_in_the_end_is_refused_before_it_begins(
    parameters: type[Options], argument: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(parameters, "study", [argument])
    assert caught.value.code == MISUSED
    assert capsys.readouterr().err == f"study: {line}\n"


def test_an_empty_path_is_refused(refuse: Refuse) -> None:
    assert refuse("--data_dir=") == "train: data_dir is empty; give a value, or leave it out"


def test_a_path_with_a_comma_is_one_path(tmp_path: Path) -> None:
    (tmp_path / "a,b.png").touch()
    parsed = parse(PredictParameters, "predict", [f"--images={tmp_path}/a,b.png"])
    assert parsed.images == (f"{tmp_path}/a,b.png",)
    assert parse(PredictParameters, "predict", ["--images=a,c.png"]).images == ("a", "c.png")


def test_a_number_or_auto_is_asked_for(refuse: Refuse) -> None:
    line = refuse("--threads=many")
    assert line.startswith("train: threads=many:")
    assert "integer" in line
    assert "'auto'" in line


def test_a_parameter_without_a_default_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(PredictParameters, "predict", [])
    assert caught.value.code == MISUSED
    assert capsys.readouterr().err == "predict: images is required\n"


@pytest.mark.parametrize(
    "parameters",
    [TrainParameters, GridParameters, ArchitecturesParameters, DataParameters, PredictParameters],
)
def test_help_explains_every_parameter(
    parameters: type[Options], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(parameters, "prog", ["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{name} " in shown for name in parameters.model_fields)
    assert all(field.description for field in parameters.model_fields.values())


@pytest.mark.parametrize(
    ("entry", "argument"),
    [
        ("grid", "--help"),
        ("grid", "--dry_run=true"),
        ("architectures", "--dry_run=true"),
        ("search", "--dry_run=true"),
        ("predict", "--help"),
    ],
)
def test_help_and_a_dry_run_load_neither_tensorflow_nor_mlflow(entry: str, argument: str) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{entry!r}, {argument!r}]\n"
        f"try: runpy.run_module('entry_points.{entry}', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'tensorflow', 'keras', 'mlflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT)


# A command that works until it is interrupted, and then tidies up until it is told to stop, as if the
# tracking store did not answer.
ENDLESS = """
import sys, threading
from cifar_mlflow.command_line import main
from cifar_mlflow.parameters import Options

def command(options):
    try:
        print("works…", flush=True)
        threading.Event().wait()
    finally:
        print("tidies up", flush=True)
        sys.stdin.readline()
        print("tidied up", flush=True)

sys.argv = ["endless"]
main(Options, "endless", command)
"""


@pytest.fixture
def endless() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "works?\n"  # Latin-1 has no …
        yield process
        process.kill()


def test_a_first_ctrl_c_lets_the_command_tidy_up(endless: subprocess.Popen[str]) -> None:
    assert endless.stdout
    endless.send_signal(signal.SIGINT)
    assert endless.stdout.readline() == "tidies up\n"
    endless.send_signal(signal.SIGTERM)  # what `mlflow run` adds to a Ctrl-C
    shown, said = endless.communicate("\n")
    assert shown == "tidied up\n"
    assert said.splitlines() == [
        "interrupted; press Ctrl-C again to end at once",
        "endless: interrupted by SIGINT",
    ]
    assert endless.returncode == INTERRUPTED


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_text(
        "a text that is long enough to be read as the header of a database, which it is not"
    )
    program = (
        "import sys; from cifar_mlflow.command_line import main; "
        "from cifar_mlflow.parameters import Options; sys.argv = ['look']; "
        "main(Options, 'look', lambda _: __import__('mlflow').MlflowClient().search_experiments())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{file}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == FAILED
    assert done.stderr == "look: (sqlite3.DatabaseError) file is not a database\n"


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_the_process_whatever_it_waits_for(
    first: signal.Signals, endless: subprocess.Popen[str]
) -> None:
    assert endless.stdout
    endless.send_signal(first)
    assert endless.stdout.readline() == "tidies up\n"
    endless.send_signal(signal.SIGINT)
    assert endless.wait() == -signal.SIGINT
