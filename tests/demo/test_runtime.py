import hashlib
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from cifar_mlflow.demo import runtime
from cifar_mlflow.demo.runtime import BINARY, PACKAGE, SCRIPT, Runtime, load_runtime
from cifar_mlflow.errors import UsageError
from tests.packages import put_npm

FILES = {SCRIPT: b"export default 1", BINARY: b"\0asm"}


@pytest.fixture(autouse=True)
def _no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No npm, and small files in place of the real ones."""
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(runtime, "SHA256", digests)


def package(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    dist = folder / "files" / "dist"
    dist.mkdir(parents=True)
    for name, content in files.items():
        (dist / name).write_bytes(content)
    return dist.parent


def cached() -> Path:
    return user_cache_path("cifar_mlflow") / f"onnxruntime-web-{runtime.VERSION}"


def refusal() -> str:
    with pytest.raises(UsageError) as caught:
        load_runtime()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_downloaded_once_and_then_needs_no_npm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as once:
        put_npm(tmp_path, PACKAGE, package(tmp_path), once)
        assert load_runtime() == Runtime(FILES[SCRIPT], FILES[BINARY])
    assert {path.name for path in cached().iterdir()} == FILES.keys()
    assert load_runtime() == Runtime(FILES[SCRIPT], FILES[BINARY])


def test_a_damaged_file_in_the_cache_is_never_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_npm(tmp_path, PACKAGE, package(tmp_path), monkeypatch)
    load_runtime()
    (cached() / BINARY).write_bytes(b"\0as")
    assert load_runtime().binary == FILES[BINARY]
    (cached() / BINARY).write_bytes(b"\0as")
    monkeypatch.setenv("PATH", "")
    assert "npm is not on this machine" in refusal()


def test_without_npm_the_message_names_it_and_the_folder_of_the_cache() -> None:
    message = refusal()
    assert str(cached()) in message
    assert "(npm is not on this machine); install npm, or copy that folder" in message


def test_an_npm_that_fails_is_quoted_in_its_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_npm(tmp_path, PACKAGE, package(tmp_path), monkeypatch, fails=True)
    assert "(npm pack failed (npm error code E404))" in refusal()


@pytest.mark.parametrize("files", [FILES | {BINARY: b"\0other"}, {SCRIPT: FILES[SCRIPT]}])
def test_a_package_with_other_files_is_refused_and_not_kept(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_npm(tmp_path, PACKAGE, package(tmp_path, files), monkeypatch)
    assert BINARY in refusal()
    assert not cached().exists()


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_npm(tmp_path, PACKAGE, package(tmp_path), monkeypatch)
    cached().parent.parent.mkdir(parents=True)
    cached().parent.write_text("a file where the folder should be")
    assert refusal().startswith(f"{cached()}: the cache cannot be written")
