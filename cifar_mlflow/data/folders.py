"""Find images in a folder with a folder for each class, and read them."""

import hashlib
import os
from collections import Counter
from functools import partial
from pathlib import Path

from cifar_mlflow.console import Lines
from cifar_mlflow.data.collection import (
    PART_NAMES,
    TRAIN,
    Collection,
    Picture,
    check_classes,
    file_stamp,
)
from cifar_mlflow.data.images import (
    Skipped,
    files_below,
    has_suffix,
    on_all_cores,
    open_file,
    read_square,
    reason,
    skip,
)
from cifar_mlflow.errors import DataError
from cifar_mlflow.formatting import counted, printable

EXPECTED = (
    "each a folder of images, with or without the folders train, validation and test above them; or the "
    "files of CIFAR-10"
)


def find(path: Path) -> Collection:
    """List the images of a folder, without reading them.

    It has a folder for each class, or folders called train, validation (val, valid) and test that have
    them. A class has all images in its folder and below it, except hidden files.

    Raises:
        DataError: it has another layout, a class without an image, or it cannot be listed.
    """
    try:
        return _find(path)
    except OSError as error:
        raise DataError(
            f"{printable(str(error.filename or path))}: cannot be read ({error.strerror})"
        ) from error


def _find(path: Path) -> Collection:
    parents = _parts(path)
    places = {
        (part, name): folder
        for part, parent in parents.items()
        for name, folder in _folders(parent).items()
    }
    folder_names = sorted({name for _, name in places})
    classes = check_classes(path, folder_names, EXPECTED)
    files: list[str] = []
    labels: list[int] = []
    parts: list[int] = []
    others: Counter[str] = Counter()
    for (part, name), folder in sorted(places.items()):
        before = len(files)
        for file in files_below(folder, _refuse):
            if has_suffix(file):
                files.append(file)
            else:
                others[os.path.splitext(file)[1].lower() or "none"] += 1
        found = len(files) - before
        if not found:
            raise DataError(f"{printable(str(folder))}: no image in this class's folder")
        labels += [folder_names.index(name)] * found
        parts += [part] * found
    outside = sum(_images_in(folder) for folder in {path, *parents.values()})
    return Collection(
        path=path,
        classes=classes,
        names=files,
        labels=labels,
        parts=parts,
        given=frozenset(parts),
        stamp="\n".join(f"{file} {file_stamp(file)}" for file in files),
        lines=_ignored(others, outside),
        read=lambda size: on_all_cores(partial(_read, size), files),
    )


def _refuse(error: OSError) -> None:
    raise error  # without that folder the data would be other data


def _folders(parent: Path) -> dict[str, Path]:
    """The folders in a folder by name, without hidden ones."""
    with os.scandir(parent) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return {name: parent / name for name in names if not name.startswith(".")}


def _images_in(folder: Path) -> int:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file()]
    return sum(has_suffix(name) and not name.startswith(".") for name in names)


def _parts(path: Path) -> dict[int, Path]:
    """The folders that have the classes' folders, by part; where there are no parts all images train."""
    found = _folders(path)
    # A folder without folders in it is a class, even if it is called "train" (beside "bus" and "ship").
    if not any(name.lower() in PART_NAMES and _folders(found[name]) for name in found):
        return {TRAIN: path}
    parts: dict[int, Path] = {}
    for name, folder in sorted(found.items()):
        part = PART_NAMES.get(name.lower())
        if part is None or part in parts:
            why = "is not a part" if part is None else "is a part that another folder has too"
            raise DataError(
                f"{printable(str(folder))}: {why}; allowed are train, validation (or val, valid) and test"
            )
        parts[part] = folder
    if TRAIN not in parts:
        raise DataError(
            f"{path}: the folder train is missing beside {printable(', '.join(sorted(found)))}"
        )
    return parts


def _ignored(others: Counter[str], outside: int) -> Lines:
    """What was found and is not used."""
    texts = []
    if others:
        suffixes = ", ".join(sorted(others))
        texts.append(f"{counted(others.total(), 'file')} without an image's suffix ({suffixes})")
    if outside:
        texts.append(f"{counted(outside, 'image')} outside the classes' folders")
    return [("Ignored", printable(text)) for text in texts]


def _read(size: int, file: str) -> Picture | Skipped:
    try:
        with open_file(file) as opened:
            content = hashlib.file_digest(opened, "sha256").digest()
            opened.seek(0)
            return Picture.of(read_square(opened), size, content)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001, damaged bytes can raise anything
        return skip(file, reason(error))
