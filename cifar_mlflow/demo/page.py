"""The demo as one HTML page: the model, the runtime and the page's own code, all inside.

page.html.jinja has its text, page.css its style; pixels.js makes a picture into the network's pixels,
page.js does the rest.
"""

import base64
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from cifar_mlflow import templates
from cifar_mlflow.demo.runtime import VERSION, Runtime

FOLDER = Path(__file__).parent
FEW = 20  # test images: an accuracy of fewer says too little


@dataclass(frozen=True)
class Shown:
    """What the page shows and runs.

    model: what it is called.
    classes: in the order of the model's outputs.
    size: the side of the images that it takes, in pixels.
    onnx: the model as an ONNX file: ``pixels``, uint8 (1, size, size, 3), to ``probabilities``,
        float32 (1, classes).
    calibration: how often it was right, by how sure it was: `metrics.calibration_table` of the test set;
        None if not known.
    facts: further terms and texts.
    """

    model: str
    classes: tuple[str, ...]
    size: int
    onnx: bytes
    calibration: pd.DataFrame | None
    facts: list[tuple[str, str]]


def render_page(shown: Shown, runtime: Runtime) -> str:
    """The page as HTML."""
    style = _read("page.css")
    script = _read("pixels.js") + _read("page.js")
    blocks = {
        "runtime-script": runtime.script,
        "runtime-binary": runtime.binary,
        "model": shown.onnx,
    }
    template = templates.environment(FOLDER).get_template("page.html.jinja")
    return template.render(
        model=shown.model,
        classes=shown.classes,
        size=shown.size,
        facts=[
            *shown.facts,
            ("Classes", ", ".join(shown.classes)),
            ("Runs on", f"ONNX Runtime Web {VERSION}, © Microsoft Corporation, MIT licence"),
        ],
        about={
            "classes": shown.classes,
            "size": shown.size,
            "calibration": _bins(shown.calibration),
        },
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        blocks={name: _packed(content) for name, content in blocks.items()},
    )


def _bins(calibration: pd.DataFrame | None) -> list[dict[str, float]]:
    """The bins with enough images: lower, upper, count, accuracy."""
    if calibration is None:
        return []
    columns = ["lower", "upper", "count", "accuracy"]
    bins = calibration.loc[calibration["count"] >= FEW, columns]
    return [dict(zip(columns, row)) for row in bins.itertuples(index=False, name=None)]


def _policy(style: str, script: str) -> str:
    """The content security policy: the page's own code and no other, and no connection anywhere.

    ``blob:`` is for the runtime's module, which the page unpacks itself.
    """
    rules = {
        "default-src": "'none'",
        "connect-src": "'none'",
        "script-src": f"{_hash(script)} 'wasm-unsafe-eval' blob:",
        "style-src": _hash(style),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _packed(content: bytes) -> str:
    """Compressed, as base64; always the same text for the same content."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
