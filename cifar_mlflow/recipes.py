"""Recipes: configurations with a name, each a TOML file of a trial's fields (docs/recipes.md)."""

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cifar_mlflow.config import Recipe, TrialConfig, combinations
from cifar_mlflow.errors import UsageError, one_line
from cifar_mlflow.formatting import as_text, printable
from cifar_mlflow.paths import user_path

FOLDER = Path(__file__).parents[1] / "recipes"
NONE = "none"  # in place of a recipe


def names() -> list[str]:
    """The recipes of the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(recipe: str, several: bool, given: Collection[str] = ()) -> dict[str, Any]:
    """The value of every field of a trial that is not given, as a command line spells it.

    A recipe is a whole configuration: what it leaves out is at TrialConfig's default, not at that of an
    entry point, so it means the same in each of them.

    Args:
        recipe: one of `names`, or a path, which ends in .toml or has a slash.
        several: whether a field may have a list of values. Then each becomes a tuple.
        given: fields whose values come from elsewhere.

    Raises:
        UsageError: there is no such recipe, or its file cannot be read, or a field is unknown or has a
            value that is not allowed; the line names the file and the field.
    """
    path, shown = _locate(recipe)
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # with or without a BOM
    except OSError as error:
        raise UsageError(f"{shown}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{shown}: not a TOML file: {error}") from None
    known = TrialConfig.model_fields
    levels: dict[str, tuple[str, ...]] = {
        name: (as_text(field.default),) for name, field in known.items()
    }
    for name, value in fields.items():
        if name not in known:
            raise UsageError(
                f"{shown}: unknown field {printable(name)}; it may be {', '.join(known)}"
            )
        levels[name] = _texts(value, f"{shown}: {name}")
        if isinstance(value, list) and not several and name not in given:
            raise UsageError(f"{shown}: {name} is a list, which train does not take")
    try:
        combinations(levels)
    except ValidationError as error:
        raise UsageError(f"{shown}: {printable(one_line(error))}") from None
    except UsageError as error:
        raise UsageError(f"{shown}: {error}") from None
    return {n: texts if several else texts[0] for n, texts in levels.items() if n not in given}


def find(recipe: str) -> Recipe | None:
    """The recipe by its short name, for the names of its trials; None for `NONE`.

    Raises:
        UsageError: as `read` does.
    """
    if recipe == NONE:
        return None
    first, *_ = combinations(read(recipe, several=True))
    return Recipe(printable(Path(recipe).stem), first.model_dump())


def _locate(recipe: str) -> tuple[Path, str]:
    """The file of a recipe, and how a message names it."""
    if "/" not in recipe and not recipe.endswith(".toml"):
        if recipe not in names():
            raise UsageError(
                f"recipe={printable(recipe)}: no such recipe; choose {', '.join(names())}, or "
                "give the path of your own .toml file"
            )
        return FOLDER / f"{recipe}.toml", f"recipe {recipe}.toml"
    path = user_path(recipe)
    # `mlflow run` starts commands in the project's folder, so say where a relative path leads.
    where = "" if path.is_absolute() else f" (in {Path.cwd()})"
    return path, printable(f"recipe {path}{where}")


def _texts(value: object, shown: str) -> tuple[str, ...]:
    """The levels of a factor: one value of TOML, or a list of them."""
    levels = value if isinstance(value, list) else [value]
    if not levels or not all(isinstance(level, str | int | float) for level in levels):
        raise UsageError(f"{shown} should be a number, a string, or a list of one or more of them")
    return tuple(map(as_text, levels))
