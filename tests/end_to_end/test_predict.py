import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run
from PIL import Image

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.load import load
from cifar_mlflow.store import registry
from cifar_mlflow.study.trial import TrialOptions, run_trial
from tests import standin
from tests.conftest import PROJECT
from tests.end_to_end.conftest import User

IMAGES = standin.batch(3, seed=7).images


def script(user: User, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The entry point's own program, in the user's folder."""
    return subprocess.run(
        [sys.executable, "-m", "entry_points.predict", *arguments],
        cwd=user.folder,
        env=user.environment | {"PYTHONPATH": str(PROJECT), "NO_PROXY": "127.0.0.1"},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def owner(new_user: Callable[[], User]) -> User:
    """A user with a champion, and with 30 pictures in a folder."""
    user = new_user()
    config = TrialConfig(architecture="small", optimizer="adam", epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "CIFAR10_DIGEST", "HOME"):
            patch.setenv(name, user.environment[name])
        patch.chdir(user.folder)  # where MLflow keeps artifacts
        data = load(user.environment["CIFAR10_DIR"])
        run = run_trial(config, data, TrialOptions(threads=1), "auto")
        registry.register("cifar10-cnn", run, config, data)
    photos = user.folder / "photos"
    photos.mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(photos / f"{number:02}.png")
    return user


@pytest.fixture(scope="module")
def predicted(owner: User) -> tuple[Run, Path, str]:
    """The run of a prediction through `mlflow run`, its folder, and what the terminal showed."""
    output = owner.folder / "results" / "mine"
    (owner.folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff nothing")
    done = owner.run(
        "predict",
        {"images": f"{owner.folder}/photos,{owner.folder}/*.jpg", "output": str(output)},
    )
    (owner.folder / "damaged.jpg").unlink()
    assert done.returncode == 1  # because one was skipped
    return owner.runs("tags.kind = 'predict'")[0], output, done.stdout


def test_the_folder_has_what_the_champion_says(
    owner: User, predicted: tuple[Run, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, output, _ = predicted
    table = pd.read_csv(output / "predictions.csv")
    assert table["file"].tolist() == [f"{owner.folder}/photos/{n:02}.png" for n in range(30)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", owner.environment["MLFLOW_TRACKING_URI"])
    model = mlflow.pyfunc.load_model("models:/cifar10-cnn@champion")
    probabilities = model.predict(IMAGES)
    classes = np.array(model.metadata.metadata["classes"])
    assert table["class"].tolist() == classes[probabilities.argmax(axis=1)].tolist()
    np.testing.assert_allclose(table["probability"], probabilities.max(axis=1), atol=1e-5)
    record = json.loads((output / "predictions.json").read_text())
    assert (record["model"]["name"], record["model"]["version"]) == ("cifar10-cnn", "1")
    assert [each["class"] for each in record["predictions"]] == table["class"].tolist()
    assert record["skipped"][0]["file"] == f"{owner.folder}/damaged.jpg"
    with Image.open(output / "contact_sheet.png") as sheet:
        assert sheet.width > 6 * 128


def test_the_run_has_the_same_files_and_uses_the_model(
    owner: User, predicted: tuple[Run, Path, str]
) -> None:
    run, output, _ = predicted
    # FAILED is what `mlflow run` makes of the exit code; the results are whole.
    assert (run.info.run_name, run.info.status) == ("predict", "FAILED")
    assert run.data.tags["end_reason"] == "1 could not be read"
    assert owner.artifacts(run) == {path.name for path in output.iterdir()}
    for name in owner.artifacts(run):
        assert owner.read(run, name).read_bytes() == (output / name).read_bytes()
    assert (run.data.metrics["pictures"], run.data.metrics["skipped"]) == (30, 1)
    assert "damaged.jpg" in run.data.tags["mlflow.note.content"]
    champion = owner.client.get_model_version_by_alias("cifar10-cnn", "champion")
    inputs = owner.client.get_run(run.info.run_id).inputs
    assert inputs
    assert f"models:/{inputs.model_inputs[0].model_id}" == champion.source


def test_the_terminal_shows_counts_what_was_skipped_and_where_the_results_are(
    predicted: tuple[Run, Path, str],
) -> None:
    _, output, shown = predicted
    assert "Model     cifar10-cnn version 1, m-" in shown
    assert "class " in shown
    assert "/damaged.jpg: " in shown
    assert f"Results   {output}/predictions.csv" in shown
    assert "Traceback" not in shown


def test_without_an_unreadable_file_the_exit_code_is_0(owner: User) -> None:
    done = script(owner, "--images=photos/0?.png,photos/05.png")
    assert (done.returncode, done.stderr) == (0, "")
    table = pd.read_csv(owner.folder / "predictions" / "predictions.csv")
    assert table["file"].tolist() == [f"photos/0{n}.png" for n in range(10)]
    assert all(f"photos/0{n}.png" in done.stdout for n in range(10))
    run = owner.runs("tags.kind = 'predict'")[-1]
    assert run.info.status == "FINISHED"
    assert run.data.params["images"] == "photos/0?.png,photos/05.png"


@pytest.fixture
def site(owner: User) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(owner.folder / "photos"))
    )
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_any_model_and_address_will_do_and_a_skipped_one_gives_1(owner: User, site: str) -> None:
    model = owner.runs("tags.kind = 'trial'")[0].data.tags["model_uri"]
    done = script(owner, f"--images={site}/01.png,{site}/none.png", f"--model={model}")
    assert done.returncode == 1
    table = pd.read_csv(owner.folder / "predictions" / "predictions.csv")
    assert table["file"].tolist() == [f"{site}/01.png"]
    assert f"Skipped   {site}/none.png: HTTP status 404" in done.stdout
    # Its results are whole; `mlflow run` says FAILED of every command that does not exit with 0.
    assert owner.runs("tags.kind = 'predict'")[-1].info.status == "FAILED"


def test_an_odd_name_leaves_the_other_pictures_and_no_password_is_kept(owner: User) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    Image.fromarray(IMAGES[0]).save(owner.folder / odd)
    wrong = "http://me:secret@[::1"
    done = script(owner, f"--images=photos/01.png,{odd},{wrong},~nobody-else/a.png")
    assert (done.returncode, done.stderr) == (1, "")
    output = owner.folder / "predictions"
    table = pd.read_csv(output / "predictions.csv")
    assert table["file"].tolist() == ["photos/01.png", "caf\ufffd.png"]
    skipped = json.loads((output / "predictions.json").read_text())["skipped"]
    assert {each["file"] for each in skipped} == {"http://[::1", "~nobody-else/a.png"}
    run = owner.runs("tags.kind = 'predict'")[-1]
    expected = "photos/01.png,caf\ufffd.png,http://[::1,~nobody-else/a.png"
    assert run.data.params["images"] == expected
    assert "secret" not in done.stdout + run.data.tags["mlflow.note.content"]


def test_where_nothing_can_be_read_the_exit_code_is_2_and_nothing_is_written(owner: User) -> None:
    (owner.folder / "empty.png").touch()
    for images, line in (
        ("absent.png", f"predict: absent.png: no such file or folder (in {owner.folder})"),
        ("empty.png,absent.png", "predict: none of 2 could be read"),
    ):
        done = script(owner, f"--images={images}", "--output=nothing")
        assert (done.returncode, done.stderr) == (2, f"{line}\n")
    assert not (owner.folder / "nothing").exists()
    run = owner.runs("tags.kind = 'predict'")[-1]
    assert run.info.status == "FAILED"
    assert "none of 2 could be read" in run.data.tags["end_reason"]


def test_what_cannot_be_done_is_one_line_before_anything_is_read(owner: User) -> None:
    (owner.folder / "foreign").mkdir()
    (owner.folder / "foreign" / "predictions.csv").write_text("mine")
    runs = len(owner.runs())
    for arguments, part in (
        (["--output=foreign"], "predictions.csv there is not a former prediction's"),
        (["--model=models:/cifar10-cnn@best"], "cifar10-cnn (@champion; newest version 1)"),
    ):
        done = script(owner, "--images=photos", *arguments)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert part in line
    assert (owner.folder / "foreign" / "predictions.csv").read_text() == "mine"
    assert len(owner.runs()) == runs
