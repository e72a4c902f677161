"""A folder that a command writes: it replaces what the same command left there, and nothing else.

One of its files, the record, is JSON and names the command and all files that it wrote.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_mlflow.errors import UsageError


@dataclass(frozen=True)
class OutputFolder:
    """The outputs of one kind of command."""

    made_by: str  # in the record
    record: str  # a file's name
    names: tuple[str, ...]  # of all files that the command may write, as patterns

    def entries(self, folder: Path) -> dict[str, object]:
        """What the record of the files in ``folder``, which lie there already, says about itself."""
        files = sorted({self.record, *(path.name for path in folder.iterdir())})
        return {"made_by": self.made_by, "files": files}

    def previous(self, folder: Path) -> list[Path]:
        """The files of an earlier command in ``folder``, which the next one replaces.

        Raises:
            UsageError: the folder has a file named like an output that its record does not list, or
                cannot be written to.
        """
        nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not nearest.is_dir() or not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
            raise UsageError(f"output={folder}: {nearest} is not a folder that can be written to")
        listed = self._listed(folder)
        present = [path for name in self.names for path in folder.glob(name)]
        for path in sorted(present):
            if path.name not in listed:
                raise UsageError(
                    f"output={folder}: {path.name} is not an output of {self.made_by}; choose "
                    "another folder, or move it away"
                )
        return present

    def _listed(self, folder: Path) -> Collection[str]:
        """The files that a folder's record lists; none if another program wrote it."""
        try:
            record = json.loads((folder / self.record).read_text(encoding="utf-8"))
            return list(record["files"]) if record["made_by"] == self.made_by else []
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def publish(self, source: Path, folder: Path, previous: Sequence[Path]) -> None:
        """Copy the files of ``source`` into ``folder`` and delete the previous outputs.

        A full disk leaves the previous outputs as they are.

        Raises:
            UsageError: the folder cannot be written to.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".") as staging:
                copies = [Path(shutil.copy(path, staging)) for path in source.iterdir()]
                # The record is the last to go and the first to come: if the process dies here, the
                # next command knows the other files.
                for path in sorted(previous, key=lambda path: path.name == self.record):
                    path.unlink()
                for copy in sorted(copies, key=lambda copy: copy.name != self.record):
                    copy.replace(folder / copy.name)
        except OSError as error:
            raise UsageError(f"output={folder}: {error.strerror}") from error
