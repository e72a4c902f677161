"""The rooms of the package, and the one way in which they import each other."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGE = PROJECT / "cifar_mlflow"
# From the top down: a module imports from its own room and from the floors below it.
FLOORS = (
    ("reproduce",),
    ("report", "export"),
    ("study", "predict", "demo", "evaluate", "describe_data"),
    ("store",),
    ("analysis", "training"),
    ("data",),
    ("command_line",),
    ("parameters",),
    ("paper", "recipes", "space"),
    ("config",),
    ("architectures",),
    ("backend", "npm"),
    ("console", "paths", "formats", "output_folder"),
    ("errors", "formatting", "processes", "templates"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__"
)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a module imports from, inside its functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("cifar_mlflow.")}


def test_every_room_has_its_floor() -> None:
    assert {room(path) for path in MODULES} == FLOOR.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = room(path)
    assert {other for other in imported_rooms(path) - {own} if FLOOR[other] <= FLOOR[own]} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_store_talks_to_mlflow(path: Path) -> None:
    tree = ast.parse(path.read_text())
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {
        a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names
    }
    talks = {module for module in modules if module.split(".")[0] == "mlflow"}
    # A command's last line of defence knows MLflow's exceptions by name.
    assert not talks - {"mlflow.exceptions"} or room(path) == "store"


def test_the_picture_in_the_docs_shows_the_imports() -> None:
    text = (PROJECT / "docs" / "development.md").read_text()
    drawn = set(re.findall(r"^    (\w+) --> (\w+)$", text, re.MULTILINE))
    arrows = {
        (shown(room(path)), shown(other)) for path in MODULES for other in imported_rooms(path)
    }
    arrows = {(upper, lower) for upper, lower in arrows if upper != lower}
    assert drawn == {arrow for arrow in arrows if arrow[1] not in below(arrow[0], arrows - {arrow})}


def shown(name: str) -> str:
    """The picture shows the modules below data as one room."""
    return "base" if FLOOR[name] > FLOOR["data"] else name


def below(name: str, arrows: set[tuple[str, str]]) -> set[str]:
    """All that a room reaches."""
    reached = {lower for upper, lower in arrows if upper == name}
    return reached.union(*(below(lower, arrows) for lower in reached))


def test_the_docs_have_a_line_for_each_room() -> None:
    text = (PROJECT / "docs" / "development.md").read_text()
    named = set(re.findall(r"^\| `cifar_mlflow/(\w+)", text, re.MULTILINE))
    assert named == {shown(name) for name in FLOOR} - {"base"}
