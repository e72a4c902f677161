"""MLproject and docs/parameters.md are generated; here they are compared with their generator."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.formatting import as_text
from cifar_mlflow.parameters import RecipeOption
from tests.conftest import PROJECT
from tools.generate import ALIASES, ENTRY_POINTS, files

TEXT = (PROJECT / "MLproject").read_text()
DECLARED: dict[str, Any] = yaml.safe_load(TEXT)["entry_points"]
# The same with the declarations that are comments.
SHOWN: dict[str, Any] = yaml.safe_load(TEXT.replace("      # ", "      "))["entry_points"]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_generated_files_are_fresh(path: Path) -> None:
    assert path.read_text() == files()[path], "run python -m tools.generate"


def test_every_entry_point_has_a_script_and_every_script_is_one() -> None:
    scripts = {path.stem for path in (PROJECT / "entry_points").glob("*.py")} - {"__init__"}
    assert scripts == set(ENTRY_POINTS)
    aliases = {alias for names in ALIASES.values() for alias, _ in names}
    assert DECLARED.keys() == scripts | aliases


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_parameter_is_shown_with_its_default(name: str) -> None:
    fields = ENTRY_POINTS[name].model_fields
    assert SHOWN[name]["parameters"] == {
        field: {"type": "string"}
        if info.is_required()
        else {"type": "string", "default": as_text(info.default)}
        for field, info in fields.items()
    }


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_what_is_declared_is_passed_on_and_what_a_recipe_may_set_is_not_declared(name: str) -> None:
    fields, command = ENTRY_POINTS[name].model_fields, DECLARED[name]["command"]
    takes_recipes = issubclass(ENTRY_POINTS[name], RecipeOption)
    undeclared = set(TrialConfig.model_fields) if takes_recipes else set()
    assert list(DECLARED[name]["parameters"]) == [f for f in fields if f not in undeclared]
    options = " ".join(f"--{field}={{{field}}}" for field in DECLARED[name]["parameters"])
    assert command == f"python -m entry_points.{name} {options}"


def test_main_is_train_and_study_is_still_reproduce() -> None:
    assert DECLARED["main"] == DECLARED["train"]
    assert DECLARED["study"] == DECLARED["reproduce"]


def test_the_page_of_parameters_explains_each_of_them_once_with_its_default() -> None:
    page = (PROJECT / "docs" / "parameters.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]+)`|required) \| \S", page, re.MULTILINE)
    expected = {
        (name, "" if field.is_required() else as_text(field.default))
        for parameters in ENTRY_POINTS.values()
        for name, field in parameters.model_fields.items()
    }
    assert set(rows) == expected
    trials = page.split("## Trials\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)`", trials, re.MULTILINE) == list(TrialConfig.model_fields)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = next(
        line
        for line in (PROJECT / "README.md").read_text().splitlines()
        if line.startswith("pip install -r requirements-dev.txt")
    )
    assert command in (PROJECT / ".ci" / "run").read_text().splitlines()
