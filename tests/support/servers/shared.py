"""Servers that all processes of a test session use. Whoever needs one first starts it; it ends with the session.

Each test has a work pool, a cluster, or names of its own on them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.servers.prefect import PrefectServer, new_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.servers.prefect import Line

_ALIVE = "alive"  # a FIFO: who reads it sees its end when the session has ended, however it ended
_started: list[object] = []  # a Popen that goes would complain that its process goes on


@contextmanager
def session() -> Iterator[Path]:
    """The directory of a test session; its shared servers end with it."""
    directory = Path(tempfile.mkdtemp(prefix="ecs-worker-tests-"))
    os.mkfifo(directory / _ALIVE)
    alive = os.open(directory / _ALIVE, os.O_RDWR)  # for reading too, as nobody else may be there to read yet
    try:
        yield directory
    finally:
        os.close(alive)
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def shared_prefect(
    directory: Path,
    line: Line,
    name: str,
    *,
    auth_string: str | None = None,
    csrf: bool = False,
    env: dict[str, str] | None = None,
) -> Iterator[PrefectServer]:
    """The Prefect server of that name, of which all ask for the same kind. Nobody may stop it. It sleeps afterwards.

    Each process of the session has one of its own: SQLite lets in one writer at a time, and servers that several
    processes share answer 503 now and then.
    """
    name = f"{name}-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"

    def start() -> dict[str, Any]:
        server = new_server(line, directory, auth_string=auth_string, csrf=csrf, env=env)
        with (directory / _ALIVE).open("rb") as alive:
            server.start(alive)
        _started.append(server)
        return {"home": str(server.home), "port": server.port, "extra": server.extra}

    known = _once(directory, name, start)
    with PrefectServer(line, Path(known["home"]), auth_string, known["extra"], known["port"]).awake() as server:
        yield server


def shared_aws(directory: Path, name: str, *, step_seconds: float = 0.1) -> str:
    """The URL of the session's embedded AWS of that name."""

    def start() -> dict[str, Any]:
        command = [sys.executable, "-m", "ecs_worker.local", f"--step-seconds={step_seconds}"]
        with (directory / _ALIVE).open("rb") as alive:
            process = subprocess.Popen(
                [*command, "--retention-seconds=3600"],
                stdin=alive,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is the tests' to handle
            )
        _started.append(process)
        assert process.stdout is not None  # a pipe was asked for
        url = process.stdout.readline().strip()
        assert url, "The embedded AWS did not start; what it wrote to standard error says why."
        return {"url": url}

    url: str = _once(directory, name, start)["url"]
    return url


def _once(directory: Path, name: str, start: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `start` has given to the first process that asked."""
    record = directory / f"{name}.json"
    with (directory / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait until it serves
        if not record.exists():
            record.write_text(json.dumps(start()))
    known: dict[str, Any] = json.loads(record.read_text())
    return known
