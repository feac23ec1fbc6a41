"""The demo's children: the Prefect server and the worker. Each writes to a file and ends with its `async with`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

_POLITE_SECONDS = 30  # the worker's own deadline for a polite end, and a little more


class Child:
    """`python ARGUMENTS…` with this interpreter, in a session of its own: Ctrl-C is for the demo to handle.

    Standard output and error go to `log`. Leaving kills what still runs.
    """

    def __init__(
        self, *arguments: str, log: Path, directory: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._arguments = arguments
        self._log = log
        self._directory = directory
        self._environment = {**os.environ, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                cwd=self._directory,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.returncode if self._process is not None else None

    async def stop(self) -> int:
        """Ask it to end (SIGTERM) and wait for that; its exit code, -9 if it had to be killed."""
        assert self._process is not None, "entered"
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), _POLITE_SECONDS)
            except TimeoutError:
                self._process.kill()
        return await self._process.wait()

    def output(self) -> str:
        """All it has written."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def last_lines(self, number: int = 20) -> str:
        """The end of what it has written."""
        return "\n".join(self.output().splitlines()[-number:])


def prefect_server(directory: Path, port: int, *, with_ui: bool) -> Child:
    """A Prefect server on a loopback port, with an empty database in `directory`. It takes seconds to be ready.

    It is killed in the end: it would take ten seconds to leave politely, and its database is thrown away.
    """
    url = f"http://127.0.0.1:{port}/api"
    return Child(
        *("-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1"),
        *("--port", str(port), "--log-level", "warning"),
        log=directory / "prefect-server.log",
        directory=directory,
        environment={
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{directory / 'prefect.db'}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            "PREFECT_SERVER_UI_ENABLED": str(with_ui).lower(),
            "PREFECT_SERVER_UI_API_URL": url,
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(directory / "ui"),
            "PYTHONWARNINGS": "ignore",
        },
    )


def worker(directory: Path, pool: str) -> Child:
    """The worker, started as a user would."""
    arguments = ("-m", "ecs_worker", "start", "--pool", pool)
    return Child(*arguments, log=directory / "worker.log", directory=directory)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
