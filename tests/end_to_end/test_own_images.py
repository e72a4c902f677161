"""A person's own images, all the way: scikit-learn's digits in an .npz file, of 16 x 16 pixels."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cifar_mlflow.parameters import ReportParameters
from cifar_mlflow.report.write import write_report
from tests.digits import digits
from tests.end_to_end.conftest import User
from tests.html_page import Page

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_own_images_are_trained_on_reported_and_predicted(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = digits(60)
    own = user.folder / "my digits.npz"
    np.savez(own, images=images, labels=labels, class_names=NAMES)
    data = {"data_dir": str(own), "image_size": "16"}
    quick = {"architecture": "small", "optimizer": "adam", "activation": "relu"}
    quick |= {"batch_size": "16", "epochs": "10", "class_weights": "balanced"}
    done = user.run_script("grid", data | quick)
    assert done.returncode == 0, done.stdout
    (study,) = user.runs("tags.kind = 'grid'")
    assert study.data.tags["data_name"] == "my digits"
    (trial,) = user.children(study).values()
    assert trial.data.metrics["test_accuracy"] > 0.8
    assert "Champion  my-digits-cnn version 1: there was no champion" in done.stdout

    monkeypatch.setenv("MLFLOW_TRACKING_URI", user.environment["MLFLOW_TRACKING_URI"])
    model = mlflow.pyfunc.load_model("models:/my-digits-cnn@champion")
    assert model.metadata.metadata == {"classes": NAMES, "data": "my digits"}
    assert model.metadata.get_input_schema().inputs[0].shape == (-1, 16, 16, 3)
    version = user.client.get_model_version_by_alias("my-digits-cnn", "champion")
    described = "colour images of 16 x 16 pixels into the 10 classes of my digits"
    assert described in str(version.description)

    write_report(ReportParameters(output=user.folder / "report.html"))
    page = Page((user.folder / "report.html").read_text())
    assert page.faults == []
    assert "my digits: image classification" in page.text
    assert "published" not in page.text

    # Images that the model has not seen, as files of another size.
    unseen, truth = digits(2, start=70)
    photos = user.folder / "photos"
    photos.mkdir()
    for number, pixels in enumerate(unseen):
        Image.fromarray(pixels).resize((40, 50)).save(photos / f"{number:02}.png")
    champion = {"model": "models:/my-digits-cnn@champion", "images": str(photos)}
    done = user.run_script("predict", champion | {"output": str(user.folder / "predictions")})
    assert done.returncode == 0, done.stdout
    table = pd.read_csv(Path(user.folder, "predictions", "predictions.csv"))
    assert (table["class"] == np.array(NAMES)[truth]).mean() > 0.5
