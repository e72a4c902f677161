import errno
import os
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from cifar_mlflow.errors import UsageError, one_line
from cifar_mlflow.parameters import ReportParameters
from cifar_mlflow.paths import user_path, write_whole, written_to


def test_only_a_new_or_regular_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("circle").symlink_to("circle")
    Path("link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for output in ("pipe", "folder", "circle", "link", "socket", os.devnull, "~nobody/a.html"):
            with pytest.raises(ValidationError) as caught:
                ReportParameters.model_validate({"output": output})
            allowed = "input should be a new or a regular file in a folder that exists"
            assert one_line(caught.value) == f"output={output}: {allowed}"


def test_a_file_is_not_written_to_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ValidationError) as caught:
        ReportParameters.model_validate({"output": tmp_path / "a.html"})
    expected = (
        f"output={tmp_path}/a.html: input should be a file in a folder that can be written to"
    )
    assert one_line(caught.value) == expected


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / f"{'a' * 250}.html"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_file_is_written_where_its_link_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("link.html").symlink_to("folder/new.html")
    parameters = ReportParameters.model_validate({"output": "link.html"})
    assert parameters.output == Path("link.html")  # as it was given
    assert written_to(parameters.output) == tmp_path.resolve() / "folder" / "new.html"


def test_a_tilde_stands_for_a_home_unless_a_file_is_named_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/a.png") == Path("/home/me/a.png")
    Path("~no-such-user").touch()
    assert user_path("~no-such-user") == Path("~no-such-user")
    with pytest.raises(UsageError, match="no home folder is known for ~nobody-else$"):
        user_path("~nobody-else/a.png")
    with pytest.raises(ValidationError) as caught:
        ReportParameters.model_validate({"output": "~nobody-else/a.html"})
    expected = "output=~nobody-else/a.html: no home folder is known for ~nobody-else"
    assert one_line(caught.value) == expected


def test_a_file_is_written_whole_or_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    write_whole(path, b"old")

    def fill_the_disk(partial: Path, content: bytes) -> int:
        with partial.open("wb") as file:
            file.write(content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
