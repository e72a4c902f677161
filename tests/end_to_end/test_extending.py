"""docs/extending.md does as it says: its diffs are applied to a copy of the project, and trained with."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_mlflow.errors import MISUSED
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


def block(section: str, language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)
    return str(found)


def patch(user: User, section: str, *options: str) -> None:
    subprocess.run(
        ["git", "apply", *options, "-"],
        cwd=user.folder,
        env=user.environment | {"GIT_CEILING_DIRECTORIES": str(user.folder.parent)},
        input=block(section, "diff"),
        text=True,
        check=True,
    )


def python(user: User, *arguments: str) -> str:
    done = user.finish([sys.executable, *arguments])
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def extended(new_user: Callable[[], User]) -> User:
    """A user in a copy of the project with every diff of the page, and with its data set."""
    user = new_user()
    for name in COPIED:
        source, target = PROJECT / name, user.folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    environment = user.environment | {"PYTHONPATH": "", "CIFAR10_DIR": "digits.npz"}
    user = replace(user, environment=environment)
    for section in SECTIONS:
        patch(user, section, "--check")  # alone
    for section in SECTIONS:
        patch(user, section)
    python(user, "-m", "tools.generate")
    python(user, "-c", block("A data set", "python"))
    return user


@pytest.mark.parametrize("section", SECTIONS)
def test_each_takes_fewer_than_ten_lines(section: str) -> None:
    lines = block(section, "diff").splitlines()
    written = [line for line in lines if re.match(r"\+(?!\+\+ )\s*\S", line)]
    assert 0 < len(written) < 10


def test_the_new_network_is_trained_with_the_new_factor_on_the_new_data(extended: User) -> None:
    unknown = replace(extended, environment=extended.environment | {"CIFAR10_DIGEST": "unknown"})
    refused = unknown.run_script("data", {})
    assert refused.returncode == MISUSED
    (digest,) = re.findall(r"SHA-256 of the content is ([0-9a-f]{64})", refused.stdout)

    user = replace(extended, environment=extended.environment | {"CIFAR10_DIGEST": digest})
    given = {"architecture": "pooled", "clipnorm": "1.0"}
    quick = {"optimizer": "adam", "learning_rate": "0.01", "epochs": "10"}
    done = user.run_script("train", given | quick)
    assert done.returncode == 0, done.stdout
    (run,) = user.runs()
    assert run.data.params.items() >= given.items()
    expected = "relu-32-adam-pooled-learning_rate=0.01-clipnorm=1.0-epochs=10"
    assert run.info.run_name == expected
    assert run.data.metrics["parameters"] == 20_042
    assert run.data.metrics["test_accuracy"] > 0.5
    confusion = Path(user.read(run, "confusion_matrix.csv")).read_text()
    assert confusion.splitlines()[0] == "true,0,1,2,3,4,5,6,7,8,9"


def test_the_new_factor_is_one_of_the_grid(extended: User) -> None:
    grid = extended.script("grid", {"clipnorm": "0,1", "dry_run": "true"})
    plan = extended.finish(grid).stdout
    assert plan.splitlines()[-1].startswith("24 trials")


def test_the_tests_of_parameters_and_networks_pass(extended: User) -> None:
    names = ("training/test_network.py", "test_mlproject.py", "test_config.py")
    options = ("-q", "-n", "0", "-p", "no:cacheprovider")
    python(extended, "-m", "pytest", *options, *(f"tests/{name}" for name in names))
