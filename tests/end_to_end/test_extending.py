"""docs/extending.md does as it says: its diffs are applied to a copy of the project, and trained with."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Run

from tests.conftest import PROJECT
from tests.end_to_end.conftest import User

PAGE = (PROJECT / "docs" / "extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
COPIED = (
    ".ci",
    "cifar_mlflow",
    "docs",
    "entry_points",
    "tests",
    "tools",
    "MLproject",
    "README.md",
    "pyproject.toml",
)

Extend = Callable[[str], User]


def block(section: str, language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)
    return str(found)


@pytest.fixture
def extend(new_user: Callable[[], User]) -> Extend:
    """A user in a copy of the project to which a section's diff has been applied."""

    def extend(section: str) -> User:
        user = new_user()
        for name in COPIED:
            source, target = PROJECT / name, user.folder / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        apply = ["git", "apply", "-"]
        environment = user.environment | {"GIT_CEILING_DIRECTORIES": str(user.folder.parent)}
        text = block(section, "diff")
        subprocess.run(apply, cwd=user.folder, env=environment, input=text, text=True, check=True)
        return user

    return extend


def python(user: User, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=user.folder,
        env=user.environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def trained(user: User, *arguments: str, **variables: str) -> Run:
    done = python(user, "-m", "entry_points.train", "--epochs=1", *arguments, **variables)
    assert done.returncode == 0, done.stdout
    (run,) = user.runs()
    return run


def check(user: User, name: str) -> None:
    done = python(user, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", f"tests/{name}")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("section", SECTIONS)
def test_each_takes_fewer_than_ten_lines(section: str) -> None:
    lines = block(section, "diff").splitlines()
    written = [line for line in lines if re.match(r"\+(?!\+\+ )\s*\S", line)]
    assert 0 < len(written) < 10


def generate(user: User) -> None:
    done = python(user, "-m", "tools.generate")
    assert done.returncode == 0, done.stdout


def test_an_architecture_is_trained(extend: Extend) -> None:
    user = extend("An architecture")
    assert trained(user, "--architecture=pooled").data.metrics["parameters"] == 20_042
    generate(user)
    check(user, "training/test_network.py")
    check(user, "test_mlproject.py")


def test_a_factor_is_a_parameter_everywhere(extend: Extend) -> None:
    user = extend("A factor")
    run = trained(user, "--architecture=small", "--weight_decay=0.01")
    assert run.info.run_name == "relu-32-sgd-small-weight_decay=0.01-epochs=1"
    generate(user)
    check(user, "test_mlproject.py")
    check(user, "test_config.py")
    plan = python(user, "-m", "entry_points.grid", "--weight_decay=0,0.01", "--dry_run=true")
    assert plan.stdout.splitlines()[-1].startswith("24 trials")


def test_a_data_set_is_trained_on(extend: Extend) -> None:
    user = extend("A data set")
    made = python(user, "-c", block("A data set", "python"))
    assert made.returncode == 0, made.stdout
    where = {"CIFAR10_DIR": "digits.npz", "CIFAR10_DIGEST": "unknown"}
    refused = python(user, "-m", "entry_points.data", **where)
    (digest,) = re.findall(r"SHA-256 of the content is ([0-9a-f]{64})", refused.stdout)
    run = trained(
        user, "--architecture=small", "--optimizer=adam", **where | {"CIFAR10_DIGEST": digest}
    )
    confusion = Path(user.read(run, "confusion_matrix.csv")).read_text()
    assert confusion.splitlines()[0] == "true,0,1,2,3,4,5,6,7,8,9"
    assert run.data.metrics["test_accuracy"] > 0.5
