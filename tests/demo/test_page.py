import base64
import gzip
import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest

from cifar_mlflow.analysis import metrics
from cifar_mlflow.demo.page import Shown, render_page
from cifar_mlflow.demo.runtime import Runtime
from tests.html_page import Page

RUNTIME = Runtime(b"export const script = 1", bytes(range(256)))
CLASSES = ("cat", "dog", "</script><script>alert(1)</script>", "\"'&<b>")
CALIBRATION = pd.DataFrame(
    {
        "lower": [0.0, 0.5],
        "upper": [0.5, 1.0],
        "count": [19, 20],
        "confidence": [0.4, 0.8],
        "accuracy": [np.nan, 0.9],
    }
)


def shown(calibration: pd.DataFrame | None = CALIBRATION) -> Shown:
    facts = [("Trial", "</dd><script>alert(2)</script>")]
    return Shown("mine</title> version 3", CLASSES, 48, b"an ONNX file", calibration, facts)


@pytest.fixture(scope="module")
def html() -> str:
    return render_page(shown(), RUNTIME)


def block(html: str, name: str) -> str:
    """The text of the element <script> with this id, as a browser reads it: up to the first end tag."""
    found = re.search(rf'<script type="application/\w+" id="{name}">(.*?)</script', html, re.DOTALL)
    assert found
    return found[1]


def test_the_page_is_valid_accessible_and_needs_nothing_but_itself(html: str) -> None:
    page = Page(html)
    assert page.faults == []
    names = [values.get("aria-label") for tag, values in page.tags if tag in ("canvas", "input")]
    assert all(names)
    assert {values.get("type") for tag, values in page.tags if tag == "button"} == {"button"}
    assert ("div", {"role": "status", "aria-atomic": "true"}) in page.tags


def test_model_and_runtime_are_inside_byte_by_byte(html: str) -> None:
    for name, content in (
        ("model", b"an ONNX file"),
        ("runtime-script", RUNTIME.script),
        ("runtime-binary", RUNTIME.binary),
    ):
        assert gzip.decompress(base64.b64decode(block(html, name))) == content


def test_hostile_names_are_text(html: str) -> None:
    assert json.loads(block(html, "about"))["classes"] == list(CLASSES)
    page = Page(html)
    assert ", ".join(CLASSES) in page.text
    assert "</dd><script>alert(2)</script>" in page.text
    assert "mine</title> version 3 answers with the likeliest of 4 classes" in page.text


def test_the_policy_allows_the_pages_own_code_and_no_connection(html: str) -> None:
    page = Page(html)
    (policy,) = [values["content"] for tag, values in page.tags if "http-equiv" in values]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for element, rule in (("style>", "style-src"), ('script type="module">', "script-src")):
        (content,) = re.findall(rf"<{element}(.*?)</", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules.pop(rule).split()
    refused = ("default-src", "connect-src", "base-uri", "form-action")
    assert rules == dict.fromkeys(refused, "'none'")
    assert "unsafe-inline" not in policy


def test_only_bins_with_enough_test_images_say_how_often_the_model_was_right(html: str) -> None:
    about = json.loads(block(html, "about"))
    assert about["calibration"] == [{"lower": 0.5, "upper": 1.0, "count": 20, "accuracy": 0.9}]
    assert about["size"] == 48
    assert json.loads(block(render_page(shown(None), RUNTIME), "about"))["calibration"] == []


def test_a_real_calibration_table_has_what_the_page_shows() -> None:
    probabilities = np.eye(10, dtype=np.float32)[np.arange(30) % 10]
    table = metrics.prediction_table(
        probabilities, (np.arange(30) % 10).astype(np.uint8), tuple("0123456789")
    )
    html = render_page(shown(metrics.calibration_table(table)), RUNTIME)
    (only,) = json.loads(block(html, "about"))["calibration"]
    assert (only["upper"], only["count"], only["accuracy"]) == (1.0, 30, 1.0)


def test_the_same_model_gives_the_same_page(html: str) -> None:
    assert render_page(shown(), RUNTIME) == html
