"""Servers that tests share. Whoever needs one first starts it; it ends with the session.

Each test has a work pool, a cluster, or names of its own on them.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.servers.prefect import PrefectServer, new_server
from support.servers.session import once, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.servers.prefect import Line


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
        server.start()
        server.leave()
        return {"home": str(server.home), "port": server.port, "extra": server.extra, "pid": server.pid}

    known = once(directory, name, start)
    server = PrefectServer(line, Path(known["home"]), auth_string, known["extra"], known["port"], known["pid"])
    with server.awake():
        yield server


def shared_aws(directory: Path, name: str, *, step_seconds: float = 0.1) -> str:
    """The URL of the session's embedded AWS of that name."""
    command = [sys.executable, "-m", "ecs_worker.local", f"--step-seconds={step_seconds}", "--retention-seconds=3600"]
    url: str = once(directory, name, lambda: {"url": started(directory, command)})["url"]
    return url
