import os
import warnings

import pytest

from cifar_mlflow import console
from tests.conftest import Screen


def test_this_process_and_those_it_starts_show_no_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        console.quieten()
        warnings.warn("a worker stopped", stacklevel=1)
    assert shown == []
    assert os.environ["PYTHONWARNINGS"] == "ignore"


def test_a_line_is_shown_as_it_is(screen: Screen) -> None:
    shown = screen(20, is_terminal=True)
    console.say("Skipped", "[red]x[/red]:cat:\x1b[31m http://me:secret@host/a.png")
    assert shown.getvalue() == "Skipped   [red]x[/red]:cat:\ufffd[31m http://host/a.png\n"


def test_names_in_a_description_are_no_markup() -> None:
    lines = [("Best", "_noise_ and *b*"), ("Use", "cat")]
    assert console.lines_markdown(lines) == "**Best** \\_noise\\_ and \\*b\\*\n\n**Use** cat"
