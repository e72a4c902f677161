"""MLproject repeats names and defaults for `mlflow run`; here they are held against the code."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cifar_mlflow.formatting import as_text
from cifar_mlflow.parameters import (
    ArchitecturesParameters,
    DataParameters,
    EvaluateParameters,
    GridParameters,
    Options,
    PredictParameters,
    ReportParameters,
    ReproduceParameters,
    TrainParameters,
)

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = yaml.safe_load((ROOT / "MLproject").read_text())
CODE: dict[str, type[Options]] = {
    "main": TrainParameters,
    "train": TrainParameters,
    "architectures": ArchitecturesParameters,
    "grid": GridParameters,
    "evaluate": EvaluateParameters,
    "data": DataParameters,
    "predict": PredictParameters,
    "report": ReportParameters,
    "reproduce": ReproduceParameters,
    "study": ReproduceParameters,
}


def test_the_entry_points_are_those_of_the_code() -> None:
    assert PROJECT["entry_points"].keys() == CODE.keys()


@pytest.mark.parametrize("name", CODE)
def test_parameters_and_defaults_are_those_of_the_code(name: str) -> None:
    declared = PROJECT["entry_points"][name]["parameters"]
    fields = CODE[name].model_fields
    assert declared == {
        name: {"type": "string"}
        if field.is_required()
        else {"type": "string", "default": as_text(field.default)}
        for name, field in fields.items()
    }


@pytest.mark.parametrize("name", CODE)
def test_every_parameter_is_passed_on_under_its_name(name: str) -> None:
    command = PROJECT["entry_points"][name]["command"]
    passed = re.findall(r"--(\w+)=\{(\w+)\}", command)
    assert [option for option, _ in passed] == [value for _, value in passed]
    assert {option for option, _ in passed} == set(CODE[name].model_fields)


@pytest.mark.parametrize("name", CODE)
def test_every_command_runs_a_module_that_exists(name: str) -> None:
    module = PROJECT["entry_points"][name]["command"].split()[2]
    assert (ROOT / f"{module.replace('.', '/')}.py").exists()


def test_the_readme_names_every_parameter_with_its_default() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (?:`([^`]+)`|required) \|", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    expected = {
        (name, "" if field.is_required() else as_text(field.default))
        for code in CODE.values()
        for name, field in code.model_fields.items()
        # The factors of a study are lists of what one training takes.
        if code is TrainParameters or name not in TrainParameters.model_fields
    }
    assert set(rows) == expected


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = next(
        line
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("pip install -r requirements-dev.txt")
    )
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()
