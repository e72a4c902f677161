"""MLproject repeats names and defaults for `mlflow run`; here they are held against the code."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cifar_mlflow.config import (
    ArchitecturesParameters,
    DataParameters,
    EvaluateParameters,
    GridParameters,
    Options,
    ReportParameters,
    TrainParameters,
    as_text,
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
    "report": ReportParameters,
}


def test_the_entry_points_are_those_of_the_code() -> None:
    assert PROJECT["entry_points"].keys() == CODE.keys()


@pytest.mark.parametrize("name", CODE)
def test_parameters_and_defaults_are_those_of_the_code(name: str) -> None:
    declared = PROJECT["entry_points"][name]["parameters"]
    fields = CODE[name].model_fields
    assert declared == {
        field: {"type": "string", "default": as_text(fields[field].default)} for field in fields
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
        r"^\| `(\w+)` \| `([^`]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    documented = dict(rows)
    classes = (GridParameters, TrainParameters, EvaluateParameters, ReportParameters)
    fields = {name: field for each in classes for name, field in each.model_fields.items()}
    assert documented == {name: as_text(field.default) for name, field in fields.items()}


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = next(
        line
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("pip install -r requirements-dev.txt")
    )
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()
