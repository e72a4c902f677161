import re
from xml.etree import ElementTree

import pandas as pd

from cifar_mlflow.analysis import figures
from cifar_mlflow.formatting import as_text
from cifar_mlflow.parameters import GridParameters
from cifar_mlflow.report.elements import command_of, svg
from tests.stores import tracked

HISTORY = pd.DataFrame(
    {"epoch": [1, 2, 3], "train_accuracy": [0.1, 0.2, 0.3], "val_accuracy": [0.1, 0.2, 0.25]}
)


def drawn(element_id: str, alt_text: str = "A chart.") -> str:
    return svg(figures.accuracy_curves([HISTORY], published=0.5), element_id, alt_text)


def test_text_stays_text_in_the_font_of_the_page() -> None:
    root = ElementTree.fromstring(drawn("figure-1"))
    words = [element.text for element in root.iter("text")]
    assert {"epoch", "accuracy", "train", "validation", "published (test)"} <= set(words)
    assert "font-family" not in drawn("figure-1")


def test_two_figures_share_no_id_and_refer_to_their_own() -> None:
    ids = []
    for element_id in ("figure-1", "figure-2"):
        text = drawn(element_id)
        own = re.findall(r'\bid="([^"]+)"', text)
        references = re.findall(r'(?:href="|url\()#([^")]+)', text)
        assert references
        assert set(references) <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_colours_can_be_set_by_the_page() -> None:
    text = drawn("figure-1")
    assert "stroke: var(--cc3311, #cc3311)" in text
    assert "stroke: currentColor" in text
    assert not re.search(r"(?<!, )#[0-9a-f]{6}\b", text)


def test_nothing_in_it_reaches_beyond_it() -> None:
    text = drawn("figure-1")
    assert "<style" not in text
    assert "<metadata" not in text
    assert "http" not in text


def test_its_alt_text_is_its_name_whatever_is_in_it() -> None:
    text = drawn("figure-1", 'a <b> & "c"')
    root = ElementTree.fromstring(text)
    assert root.attrib["role"] == "img"
    (title,) = [e for e in root if e.get("id") == root.attrib["aria-labelledby"]]
    assert title.text == 'a <b> & "c"'
    assert "<b>" not in text


def test_the_same_figure_gives_the_same_text() -> None:
    assert drawn("figure-1") == drawn("figure-1")


def test_the_command_that_repeats_a_study_spells_out_its_recipe() -> None:
    options = GridParameters.model_validate({"recipe": "paper", "seed": "0,1"})
    parameters = {name: as_text(value) for name, value in options.model_dump().items()}
    run = tracked("1", parameters=parameters, kind="grid")
    values = "-P activation=relu -P batch_size=128 -P optimizer=adam -P seed=0,1"
    assert command_of(run, "Default") == f"mlflow run . -e grid {values} --env-manager local"
