"""What a page is made of: numbers, pictures and commands as text, and what is missing."""

import base64
import math
import shlex
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from cifar_mlflow.formatting import as_text, number
from cifar_mlflow.report import svg
from cifar_mlflow.report.collect import STUDIES
from cifar_mlflow.store.runs import TrackedRun

# Not part of a command that makes a run again: how it was run, and where the data lies.
PRIVATE = ("data_dir", "verbose", "dry_run", "resume", "engine", "address")


class Missing(NamedTuple):
    """A part of the study that the page lacks, why, and the command that makes it."""

    part: str
    why: str
    command: str


class Picture(NamedTuple):
    label: str
    caption: str
    content: Markup
    wide: bool = False  # too small to read where the page is narrow, unless it scrolls


def mean(record: Mapping[Any, Any], measure: str) -> str:
    """A configuration's mean, and its standard deviation where there are several seeds."""
    deviation = record[f"{measure}_sd"]
    spread = "" if math.isnan(deviation) else f" ± {number(deviation)}"
    return number(record[f"{measure}_mean"]) + spread


def vector(figure: Figure, identity: str, label: str, caption: str, seen: str) -> Picture:
    """A figure drawn here; ``seen`` tells what is to be seen in it."""
    return Picture(label, caption, Markup(svg.inline(figure, identity, seen)))


def photograph(png: bytes, identity: str, label: str, caption: str, seen: str) -> Picture:
    """A figure as a run has logged it."""
    width, height = struct.unpack(">II", png[16:24])
    image = Markup(
        '<img id="{}" src="data:image/png;base64,{}" width="{}" height="{}" alt="{}">'
    ).format(identity, base64.b64encode(png).decode(), width, height, seen)
    return Picture(label, caption, image, wide=True)


def command(entry: str, parameters: Mapping[str, str], experiment: str) -> str:
    """A command that makes a run, spelled for a shell."""
    words = ["mlflow", "run", ".", "-e", entry]
    if experiment != "Default":
        words += ["--experiment-name", experiment]
    for name, value in parameters.items():
        words += ["-P", f"{name}={value}"]
    return shlex.join([*words, "--env-manager", "local"])


def command_of(run: TrackedRun, experiment: str) -> str:
    """The command that made a study; parameters at their defaults are left out."""
    given = {
        name: run.parameters[name]
        for name, field in STUDIES[run.kind].model_fields.items()
        if name in run.parameters
        and name not in PRIVATE
        and run.parameters[name] != as_text(field.default)
    }
    return command(run.kind, given, experiment)
