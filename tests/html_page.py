"""Check that an HTML page is valid and accessible, and needs no other file."""

import re
from html.parser import HTMLParser

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
BLOCKS = {
    "div",
    "table",
    "figure",
    "ul",
    "ol",
    "dl",
    "pre",
    "section",
    "p",
    "h1",
    "h2",
    "h3",
    "nav",
}
DATA = "application/"  # a type of <script> that does not run
REMOTE = re.compile(r"(?:https?:)?//|@import|url\((?!#)", re.IGNORECASE)


class Page(HTMLParser):
    """A parsed page; ``faults`` lists what is wrong with it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.headings: list[int] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self._check()

    @property
    def text(self) -> str:
        """The visible text, with single spaces."""
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.faults.append(f"<{tag}> has an attribute twice")
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        self._look_at(tag, values)
        if "p" in self.open and tag in BLOCKS:
            self.faults.append(f"<{tag}> inside <p>")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            if "svg" not in self.open:
                self.faults.append(f"<{tag}/> closes itself outside SVG")
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at line {self.getpos()[0]} closes another element")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title", "script"):
            self.words.append(data)
        if self.open and self.open[-1] == "style" and REMOTE.search(data):
            self.faults.append("the style loads another file")

    def _look_at(self, tag: str, values: dict[str, str]) -> None:
        if tag in ("link", "iframe", "object", "embed", "form", "base"):
            self.faults.append(f"<{tag}> is not allowed")
        self.faults += [f"<{tag}> has {name}" for name in values if name.startswith("on")]
        if "id" in values:
            self.ids.append(values["id"])
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(int(tag[1]))
        if tag == "th" and values.get("scope") not in ("row", "col", "colgroup"):
            self.faults.append("<th> without a scope")
        if tag == "img" and not (values.get("alt") and values.get("width")):
            self.faults.append("<img> without alt text or width")
        self.references += values.get("aria-labelledby", "").split()
        for name in ("href", "src", "clip-path", "style"):
            value = values.get(name, "")
            if value.startswith("#"):
                self.references.append(value[1:])
            self.references += re.findall(r"url\(#([^)]+)\)", value)
            if not value.startswith("data:") and REMOTE.search(value):
                self.faults.append(f"<{tag} {name}> leaves the page: {value[:60]}")
            if name == "src" and value and not value.startswith("data:image/png;base64,"):
                self.faults.append(f"<{tag}> loads {value[:60]}")

    def _check(self) -> None:
        self.faults += [f"<{tag}> is never closed" for tag in self.open]
        self.faults += [
            f"id {i} is used twice" for i in {i for i in self.ids if self.ids.count(i) > 1}
        ]
        self.faults += [f"no id {name}" for name in self.references if name not in self.ids]
        if self.headings[:1] != [1] or self.headings.count(1) != 1:
            self.faults.append("the page does not start with its only <h1>")
        steps = zip(self.headings, self.headings[1:])
        self.faults += [f"<h{b}> after <h{a}>" for a, b in steps if b > a + 1]
        types = [values.get("type", "") for tag, values in self.tags if tag == "script"]
        if len([kind for kind in types if not kind.startswith(DATA)]) != 1:
            self.faults.append("there is another script than the page's own")
        tables = [tag for tag, _ in self.tags if tag == "table"]
        captions = [tag for tag, _ in self.tags if tag == "caption"]
        if len(tables) != len(captions):
            self.faults.append("a <table> has no caption")
        for tag, values in self.tags:
            if tag == "html" and not values.get("lang"):
                self.faults.append("the page has no language")
            if tag == "svg" and not (values.get("role") == "img" and "aria-labelledby" in values):
                self.faults.append("an <svg> has no name")
