"""docs/extending.md does as it says: its diffs are applied to a copy of the project, and trained with."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.conftest import PROJECT
from tests.end_to_end.conftest import User

PAGE = (PROJECT / "docs" / "extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
COPIED = (
    ".ci",
    "cifar_mlflow",
    "docs",
    "entry_points",
    "recipes",
    "tests",
    "tools",
    "MLproject",
    "README.md",
    "pyproject.toml",
)


def diff(section: str) -> str:
    (found,) = re.findall(r"```diff\n(.*?)```", SECTIONS[section], re.DOTALL)
    return str(found)


def patch(user: User, section: str, *options: str) -> None:
    subprocess.run(
        ["git", "apply", *options, "-"],
        cwd=user.folder,
        env=user.environment | {"GIT_CEILING_DIRECTORIES": str(user.folder.parent)},
        input=diff(section),
        text=True,
        check=True,
    )


def python(user: User, *arguments: str) -> str:
    done = user.finish([sys.executable, *arguments])
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def extended(new_user: Callable[[], User]) -> User:
    """A user in a copy of the project with every diff of the page."""
    user = new_user()
    for name in COPIED:
        source, target = PROJECT / name, user.folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    user = replace(user, environment=user.environment | {"PYTHONPATH": ""})
    for section in SECTIONS:
        patch(user, section, "--check")  # alone
    for section in SECTIONS:
        patch(user, section)
    python(user, "-m", "tools.generate")
    return user


@pytest.mark.parametrize("section", SECTIONS)
def test_each_takes_fewer_than_ten_lines(section: str) -> None:
    lines = diff(section).splitlines()
    written = [line for line in lines if re.match(r"\+(?!\+\+ )\s*\S", line)]
    assert 0 < len(written) < 10


def test_the_new_network_is_trained_with_the_new_factor(extended: User) -> None:
    given = {"architecture": "pooled", "clipnorm": "1.0"}
    quick = {"optimizer": "adam", "learning_rate": "0.01", "batch_size": "8", "epochs": "10"}
    done = extended.run_script("train", given | quick)
    assert done.returncode == 0, done.stdout
    (run,) = extended.runs()
    assert run.data.params.items() >= given.items()
    expected = "relu-8-adam-pooled-learning_rate=0.01-clipnorm=1.0-epochs=10"
    assert run.info.run_name == expected
    assert run.data.metrics["parameters"] == 20_042
    assert run.data.metrics["test_accuracy"] > 0.5


def test_the_new_factor_is_one_of_the_grid(extended: User) -> None:
    grid = extended.script("grid", {"clipnorm": "0,1", "dry_run": "true"})
    plan = extended.finish(grid).stdout
    assert plan.splitlines()[-1].startswith("24 trials")


def test_the_tests_of_parameters_and_networks_pass(extended: User) -> None:
    names = ("training/test_network.py", "test_mlproject.py", "test_config.py")
    options = ("-q", "-n", "0", "-p", "no:cacheprovider")
    python(extended, "-m", "pytest", *options, *(f"tests/{name}" for name in names))
