"""Servers that a test starts on loopback, and ends."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tests.end_to_end.conftest import User, wait_until

U = TypeVar("U", bound=User)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def process(
    command: list[str],
    environment: Mapping[str, str],
    log: Path,
    address: str,
    folder: Path | None = None,
) -> Iterator[None]:
    """A server and the processes that it starts in a folder, once it answers, until it is left."""
    with log.open("a") as output:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: answers(address), server, log)
        yield
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def tracking_server(user: U, database: str, *options: str, port: int = 0) -> Iterator[U]:
    """`mlflow server` on a database, and the user who works with it."""
    port = port or free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1", *options),
    ]
    environment = user.environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    address = f"http://127.0.0.1:{port}"
    with process(command, environment, user.folder / "server.log", f"{address}/health"):
        yield replace(user, environment=user.environment | {"MLFLOW_TRACKING_URI": address})
