"""Using the champion: docs/model.md is run as it is printed, with a real server behind it.

So is the program in the README.
"""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from cifar_mlflow.data.cifar10 import CLASSES
from tests import standin
from tests.conftest import PROJECT
from tests.end_to_end.conftest import Studies, User
from tests.end_to_end.servers import free_port, process

GUIDE = (PROJECT / "docs" / "model.md").read_text()
PORT = "5001"  # in the guide
# A fence's language, the file to save its code as if one is named, and the code.
FENCE = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(GUIDE)

ONE = np.zeros((1, 32, 32, 3), int)


def inputs(shape: tuple[int, ...], value: float = 0) -> str:
    return json.dumps({"inputs": np.full(shape, value).tolist()})


# By the first column of the guide's table: the request's body, JSON unless a type is named.
BAD_REQUESTS: dict[str, str | tuple[str, bytes]] = {
    "images of 28 x 28": inputs((1, 28, 28, 3)),
    "grey images": inputs((1, 32, 32, 1)),
    "channels first": inputs((1, 3, 32, 32)),
    "one image, not a list": inputs((32, 32, 3)),
    "no image": '{"inputs": []}',
    "a string": '{"inputs": "cat"}',
    "a list of strings": '{"inputs": ["cat"]}',
    "images of several sizes": '{"inputs": [[[[1, 2, 3]]], [[[1, 2]]]]}',
    "whole numbers over 255": inputs((1, 32, 32, 3), 300),
    "numbers under 0": inputs((1, 32, 32, 3), -1),
    "NaN": inputs((1, 32, 32, 3), float("nan")),
    "another key": json.dumps({"images": ONE.tolist()}),
    "a bare list": json.dumps(ONE.tolist()),
    "an object for a list": json.dumps({"inputs": {"images": ONE.tolist()}}),
    "nothing": "",
    "no JSON": "a picture of a cat",
    "CSV": ("text/csv", b"a,b\n1,2\n"),
    "a PNG file": ("image/png", b"\x89PNG\r\n\x1a\n"),
    "fractions, such as pixels scaled to 0..1": inputs((1, 32, 32, 3), 0.5),
}


class Answer(NamedTuple):
    status: int
    body: Any


@pytest.fixture(scope="module")
def server(studies: Studies) -> Iterator[str]:
    """`mlflow models serve` as the guide has it, on a free port; its address, once it answers."""
    user = studies.user
    port = str(free_port())
    (command,) = [code for _, _, code in BLOCKS if code.startswith("mlflow models serve")]
    address = f"http://127.0.0.1:{port}"
    with process(
        ["bash", "-c", command.replace(PORT, port)],
        user.environment,
        user.folder / "serve.log",
        f"{address}/ping",
        user.folder,
    ):
        yield address


def post(address: str, body: bytes, content_type: str = "application/json") -> Answer:
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request) as answer:
            return Answer(answer.status, json.load(answer))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read().decode())


def run_code(user: User, language: str, code: str) -> str:
    """Run blocks of the guide in the user's folder; gives what they printed."""
    command = ["bash", "-ec", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=user.folder, env=user.environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_block_of_the_guide_runs_as_printed(studies: Studies, server: str) -> None:
    user = studies.user
    images = standin.batch(20, seed=7).images
    np.save(user.folder / "images.npy", images)
    Image.fromarray(images[0]).resize((90, 60)).save(user.folder / "photo.png")

    # What the fixture does, what test_evaluate.py does, and what the user's environment has.
    elsewhere = ("mlflow models serve", "mlflow run", "export")
    commands, programs = "", []
    for language, name, code in BLOCKS:
        here = code.replace(f"127.0.0.1:{PORT}", server.removeprefix("http://"))
        if name:
            (user.folder / name).write_text(code)
        elif language == "python":
            programs.append(here)
        elif not code.startswith(elsewhere):
            commands += here
    shown = run_code(user, "bash", commands)
    # The README's program, and the card's.
    Image.fromarray(images[0]).save(user.folder / "photo.jpg")
    for page in (PROJECT / "README.md", user.folder / "README.md"):
        fences = FENCE.findall(page.read_text(encoding="utf-8"))
        programs += [code for language, _, code in fences if language == "python"]
    # Each by itself, but in one process, which imports TensorFlow once.
    one_by_one = f"for program in {programs!r}: exec(program, {{'__name__': '__main__'}})"
    shown += "\n" + run_code(user, "python", one_by_one)

    lines = shown.splitlines()
    assert lines[-1].partition(" ")[0] in CLASSES  # by the card's program
    # By the guide's program and the README's too.
    assert sum(line.partition(" ")[0] in CLASSES for line in lines) == 3
    assert "\nOn 40 test images. The intervals are" in shown
    # The same picture by curl, by `mlflow models predict` and by Python gets the same answer.
    (by_curl,) = [json.loads(line) for line in lines if line.startswith('{"predictions"')]
    by_file = json.loads((user.folder / "answer.json").read_text())
    np.testing.assert_allclose(by_curl["predictions"], by_file["predictions"], atol=1e-6)
    (probabilities,) = by_file["predictions"]
    assert f"{np.argmax(probabilities)} {max(probabilities)}" in lines
    assert np.load(user.folder / "probabilities.npy").shape == (200, 10)
    # Promoted, and rolled back.
    assert user.client.get_registered_model("cifar10-cnn").aliases == {
        "champion": 1,
        "challenger": 2,
    }


def test_the_input_example_is_a_request(studies: Studies, server: str) -> None:
    folder = Path(studies.user.client.get_logged_model(studies.champion_id).artifact_location, "")
    answer = post(server, (folder / "serving_input_example.json").read_bytes())
    assert answer.status == 200
    assert np.sum(answer.body["predictions"]) == pytest.approx(1, abs=1e-5)


def documented() -> dict[str, tuple[int, list[str]]]:
    """The guide's table: status and quoted pieces of the message, by request."""
    rows = re.findall(r"^\| (.+) \| \**(\d{3})\** \| (.+) \|$", GUIDE, re.MULTILINE)
    return {
        request.strip("*"): (int(status), re.findall(r"`([^`]+)`", message))
        for request, status, message in rows
    }


def test_the_guide_lists_the_requests_that_are_tried() -> None:
    assert documented().keys() == BAD_REQUESTS.keys()


@pytest.mark.parametrize("request_", BAD_REQUESTS)
def test_a_bad_request_is_answered_as_documented(server: str, request_: str) -> None:
    given = BAD_REQUESTS[request_]
    content_type, body = given if isinstance(given, tuple) else ("application/json", given.encode())
    answer = post(server, body, content_type)
    status, pieces = documented()[request_]
    assert answer.status == status
    assert all(piece in answer.body for piece in pieces)


def test_fractions_are_taken_for_black(server: str) -> None:
    """What the guide warns of; should MLflow refuse them one day, the guide must say so."""
    fractions = post(server, inputs((1, 32, 32, 3), 0.9).encode())
    assert fractions == post(server, inputs((1, 32, 32, 3)).encode())
