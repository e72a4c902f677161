"""The lock files: complete, with hashes, without an index's address, and one list for everybody."""

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from platform import python_version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.txt", "requirements-cluster.txt", "requirements-dev.txt")


def pins(name: str) -> set[str]:
    return set(re.findall(r"^[\w.-]+==\S+", (ROOT / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_every_version_has_a_hash_and_no_address_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"(?<!file)://|--index-url|--find-links", text)


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.parametrize(
    ("platform", "machine", "refused"),
    [
        ("linux", "x86_64", False),
        ("linux", "aarch64", False),
        ("darwin", "arm64", False),
        ("darwin", "x86_64", True),
        ("win32", "AMD64", True),
    ],
)
def test_a_platform_that_is_not_supported_is_refused_with_a_sentence(
    name: str, platform: str, machine: str, refused: bool
) -> None:
    lines = (ROOT / name).read_text().splitlines()
    (only_there,) = [Requirement(line) for line in lines if "file://" in line]
    assert only_there.marker
    environment = {"sys_platform": platform, "platform_machine": machine}
    assert only_there.marker.evaluate(environment) == refused
    # Nothing lies there, so that pip and uv end with an error that has this text.
    assert only_there.url
    assert "runs-on-Linux-and-on-macOS-arm64--on-Windows-use-WSL" in only_there.url
    assert not Path(only_there.url.removeprefix("file://")).exists()


def test_direct_dependencies_are_locked_at_their_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for lock, direct in {
        "requirements.txt": project["dependencies"],
        "requirements-cluster.txt": extras["cluster"],
        "requirements-dev.txt": extras["dev"],
    }.items():
        locked = {pin.split("==")[0]: pin for pin in pins(lock)}
        for requirement in direct:
            name = requirement.split("==")[0].split("[")[0]
            assert name in locked or name == project["name"]
            assert "==" not in requirement or locked[name].startswith(requirement)


def test_tests_and_clusters_run_on_the_versions_that_users_get() -> None:
    assert (
        pins("requirements.txt") < pins("requirements-cluster.txt") < pins("requirements-dev.txt")
    )


def test_conda_users_get_the_same_list() -> None:
    environment = yaml.safe_load((ROOT / "conda.yaml").read_text())
    assert environment["dependencies"][-1] == {"pip": ["-r requirements.txt"]}


def test_every_package_is_for_this_python() -> None:
    """pip refuses others; uv, which compiles the locks, ignores upper bounds of Requires-Python."""
    unfit = [
        package.name
        for package in distributions()
        if not SpecifierSet(str(package.metadata.json.get("requires_python", ""))).contains(
            python_version()
        )
    ]
    assert not unfit
