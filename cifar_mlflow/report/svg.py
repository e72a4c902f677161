"""Figures as SVG that stands inline in a page: it takes the page's fonts and colours, light or dark."""

import io
import re
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure

COLOUR = re.compile(r"#[0-9a-f]{6}\b")
FONT_FAMILY = re.compile(r"font-family: [^;]*;\s*")
NO_ROTATION = re.compile(r"rotate\(-0 .*\)")
REFERENCE = re.compile(r"#([\w.-]+)")


def inline(figure: Figure, identity: str, title: str) -> str:
    """The figure as an ``<svg>`` element, titled for those who cannot see it.

    Text stays text, in the page's font. A colour such as #cc3311 becomes var(--cc3311, #cc3311), so
    that the page's style can change it; black becomes the colour of the page's text.

    Args:
        identity: the element's id, unique in the page; the ids inside begin with it.
    """
    drawn = io.StringIO()
    # The salt makes the ids, and so the page, the same each time.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": identity}):
        figure.savefig(drawn, format="svg", transparent=True)
    root = ElementTree.fromstring(drawn.getvalue())
    # Who made it and when, and a style that would hold for the whole page.
    for unwanted in root.findall("{*}metadata") + root.findall("{*}defs[{*}style]"):
        root.remove(unwanted)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
    referred = {
        match
        for element in root.iter()
        for name in ("href", "clip-path")
        for match in REFERENCE.findall(element.get(name, ""))
    }
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            element.set(name, _adapted(name, value, identity))
        if element.get("id", "").removeprefix(f"{identity}-") not in referred:
            element.attrib.pop("id", None)
        if NO_ROTATION.fullmatch(element.get("transform", "")):
            del element.attrib["transform"]
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib = {
        "id": identity,
        "viewBox": root.attrib["viewBox"],
        "width": width,
        "height": height,
        "role": "img",
        "aria-labelledby": f"{identity}-title",
    }
    described = ElementTree.Element("title", id=f"{identity}-title")
    described.text = title
    root.insert(0, described)
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """Without the namespace: HTML knows SVG's names by themselves."""
    return name.rpartition("}")[2]


def _adapted(name: str, value: str, identity: str) -> str:
    if name == "style":
        return COLOUR.sub(_variable, FONT_FAMILY.sub("", value))
    if name in ("href", "clip-path"):
        return value.replace("#", f"#{identity}-")
    if name == "d":
        return " ".join(value.split())
    return f"{identity}-{value}" if name == "id" else value


def _variable(colour: re.Match[str]) -> str:
    value = colour.group()
    return "currentColor" if value == "#000000" else f"var(--{value[1:]}, {value})"
