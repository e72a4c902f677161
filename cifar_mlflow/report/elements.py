"""The elements of the page: figures, commands, and notes on what is missing."""

import base64
import io
import re
import shlex
import struct
from collections.abc import Mapping
from typing import NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from cifar_mlflow.formatting import as_text
from cifar_mlflow.report.collect import STUDIES, uses_own_data
from cifar_mlflow.store.runs import TrackedRun

# Parameters that a command to repeat a run leaves out: how it was run, where the data lies, and the
# recipe, whose values it has: the file may change.
NOT_REPEATED = ("data_dir", "verbose", "dry_run", "resume", "engine", "address", "recipe")
COLOUR = re.compile(r"#[0-9a-f]{6}\b")
FONT_FAMILY = re.compile(r"font-family: [^;]*;\s*")
NO_ROTATION = re.compile(r"rotate\(-0 .*\)")
REFERENCE = re.compile(r"#([\w.-]+)")


class Missing(NamedTuple):
    """A part of the paper that the page lacks, why, and the command that produces it."""

    part: str
    why: str
    command: str


# Figures ----------------------------------------------------------------------------------------


class ReportFigure(NamedTuple):
    label: str
    caption: str
    content: Markup
    wide: bool = False  # on a narrow page it scrolls; shrunk, it would be too small to read


def vector_figure(
    figure: Figure, element_id: str, label: str, caption: str, alt_text: str
) -> ReportFigure:
    """A figure drawn for this page."""
    return ReportFigure(label, caption, Markup(svg(figure, element_id, alt_text)))


def png_figure(
    png: bytes, element_id: str, label: str, caption: str, alt_text: str
) -> ReportFigure:
    """A figure that a run has logged."""
    width, height = struct.unpack(">II", png[16:24])
    image = Markup(
        '<img id="{}" src="data:image/png;base64,{}" width="{}" height="{}" alt="{}">'
    ).format(element_id, base64.b64encode(png).decode(), width, height, alt_text)
    return ReportFigure(label, caption, image, wide=True)


def svg(figure: Figure, element_id: str, alt_text: str) -> str:
    """The figure as an ``<svg>`` element for inline use, which takes the page's fonts and colours.

    Text stays text, in the page's font. A colour such as #cc3311 becomes var(--cc3311, #cc3311), so
    that the page's style can change it; black becomes the colour of the page's text.

    Args:
        element_id: unique in the page. The ids inside depend on it, so they are unique too.
        alt_text: what the figure shows, for those who cannot see it.
    """
    drawn = io.StringIO()
    # The salt gives the same ids, and so the same page, each time.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": element_id}):
        figure.savefig(drawn, format="svg", transparent=True)
    root = ElementTree.fromstring(drawn.getvalue())
    # Creator and date, and a style that would apply to the whole page.
    for unwanted in root.findall("{*}metadata") + root.findall("{*}defs[{*}style]"):
        root.remove(unwanted)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
    referenced = {
        reference
        for element in root.iter()
        for name in ("href", "clip-path")
        for reference in REFERENCE.findall(element.get(name, ""))
    }
    for element in root.iter():
        if element.get("id") not in referenced:
            element.attrib.pop("id", None)
        if NO_ROTATION.fullmatch(element.get("transform", "")):
            del element.attrib["transform"]
        if path := element.get("d"):
            element.set("d", " ".join(path.split()))
        if style := element.get("style"):
            element.set("style", COLOUR.sub(_variable, FONT_FAMILY.sub("", style)))
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib = {
        "id": element_id,
        "viewBox": root.attrib["viewBox"],
        "width": width,
        "height": height,
        "role": "img",
        "aria-labelledby": f"{element_id}-title",
    }
    title = ElementTree.Element("title", id=f"{element_id}-title")
    title.text = alt_text
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """Without the namespace: HTML knows SVG's names by themselves."""
    return name.rpartition("}")[2]


def _variable(colour: re.Match[str]) -> str:
    value = colour.group()
    return "currentColor" if value == "#000000" else f"var(--{value[1:]}, {value})"


# Commands ---------------------------------------------------------------------------------------


def command(entry_point: str, parameters: Mapping[str, str], experiment: str) -> str:
    """An `mlflow run` command, quoted for a shell."""
    words = ["mlflow", "run", ".", "-e", entry_point]
    if experiment != "Default":
        words += ["--experiment-name", experiment]
    for name, value in parameters.items():
        words += ["-P", f"{name}={value}"]
    return shlex.join([*words, "--env-manager", "local"])


def command_of(run: TrackedRun, experiment: str) -> str:
    """The command that repeats a study; parameters with their default value are left out."""
    given = {
        name: run.parameters[name]
        for name, field in STUDIES[run.kind].model_fields.items()
        if name in run.parameters
        and name not in NOT_REPEATED
        and run.parameters[name] != as_text(field.default)
    }
    return command(run.kind, given | data_options(run), experiment)


def data_options(run: TrackedRun | None) -> dict[str, str]:
    """The parameters by which a command finds the images of a run that are the user's own."""
    if run is None or not uses_own_data(run):
        return {}
    named = {name: run.parameters.get(name) for name in ("data_dir", "image_size")}
    return {name: value for name, value in named.items() if value}
