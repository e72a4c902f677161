"""Write the page to a file and to its run."""

from pathlib import Path
from typing import Any

import pandas as pd

from cifar_mlflow.analysis import metrics
from cifar_mlflow.analysis.statistics import INTERVAL
from cifar_mlflow.console import say
from cifar_mlflow.demo.page import Shown, render_page
from cifar_mlflow.demo.runtime import load_runtime
from cifar_mlflow.errors import UsageError
from cifar_mlflow.formats import SUFFIXES, Metadata
from cifar_mlflow.formatting import number, percent
from cifar_mlflow.parameters import DemoParameters
from cifar_mlflow.paths import user_path, write_whole, written_to
from cifar_mlflow.store import models, query, tracking
from cifar_mlflow.store.models import Lineage, LoadedModel


def write_demo(parameters: DemoParameters) -> None:
    """Write the page, complete or not at all.

    Raises:
        UsageError: there is no such model, it is a LiteRT file, or there is no ONNX Runtime Web.
    """
    output = written_to(parameters.output)
    model = models.load_model(parameters.model)
    say("Model", str(model))
    onnx = as_onnx(model, user_path(parameters.model))
    runtime = load_runtime()
    with tracking.tracked_run("demo") as run:
        tracking.log_parameters(parameters)
        if model.model_id:
            tracking.log_model_used(model.model_id)
        page = render_page(describe(model, onnx), runtime)
        tracking.log_files(texts={"demo.html": page})
        content = page.encode()
        write_whole(output, content)
    say("Page", f"{output}, {number(len(content) / 1e6, 1)} MB; open it in a browser")
    say("Artifact", f"demo.html of run {run.run_id}")


def as_onnx(model: LoadedModel, path: Path) -> bytes:
    """The model as an ONNX file: a Keras model is converted, an exported file at ``path`` read.

    Raises:
        UsageError: it is a LiteRT file.
    """
    if model.file is None:
        from cifar_mlflow.training import convert  # takes seconds to import

        network: Any = model.model  # a keras.Model, as it is no exported file
        metadata = Metadata(
            classes=model.classes,
            image_size=model.image_size,
            model_name=model.name or "",
            model_version=model.version or "",
            model_id=model.model_id or "",
        )
        return convert.to_onnx(network, metadata.as_text())
    if path.suffix.lower() != SUFFIXES["onnx"]:
        raise UsageError(
            f"{model.uri}: the page cannot run this format; give the model itself, or an "
            f"{SUFFIXES['onnx']} file"
        )
    return path.read_bytes()


def describe(model: LoadedModel, onnx: bytes) -> Shown:
    """What the page shows: of the model's training all that the tracking store knows."""
    origin = models.lineage(model.model_id)
    run_id = origin.run_id if origin else None
    predictions = query.find_table(run_id, "predictions.parquet") if run_id else None
    return Shown(
        model=models.short_name(model, origin),
        classes=model.classes,
        size=model.image_size,
        onnx=onnx,
        calibration=None if predictions is None else metrics.calibration_table(predictions),
        facts=facts(model, origin, predictions),
    )


def facts(
    model: LoadedModel, origin: Lineage | None, predictions: pd.DataFrame | None
) -> list[tuple[str, str]]:
    """Terms and texts.

    Args:
        predictions: of the test set, by `metrics.prediction_table`.
    """
    known = []
    if predictions is not None:
        columns = metrics.intervals(predictions)
        value, low, high = (percent(columns[each]["accuracy"]) for each in ("value", "low", "high"))
        text = f"{value} ({INTERVAL} {low} to {high}) on {len(predictions):,} test images"
        if model.file:
            text += ", before it was exported"
        known.append(("Test accuracy", text))
    if origin and origin.data_digest:
        digest = f"SHA-256 {origin.data_digest[:8]}…"
        known.append(("Trained on", ", ".join(filter(None, [origin.data_name, digest]))))
    if origin and origin.trial:
        known.append(("Trial", origin.trial))
    return [*known, ("Model", str(model))]
