"""Serving the embedded AWS: in the foreground (`serve`), or as a child process (`EmbeddedAws`).

moto is imported only when serving starts, so that without the `demo` extra this module can still say what is missing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ecs_worker.errors import EcsWorkerError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

_READY_SECONDS = 60  # moto's import and first use, on a slow machine
_END_SECONDS = 15  # containers have 2 s of these


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How the embedded AWS behaves. Times are in seconds.

    `step_seconds`: how long a task stays in each status before RUNNING and after its end.
    `retention_seconds`: how long a stopped task can still be described (ECS: at least an hour).
    `calls_file`: a file to which each AWS call is appended as a JSON line.
    """

    step_seconds: float = 0.1
    retention_seconds: float = 3600
    calls_file: Path | None = None


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    on_ready: Callable[[str], None] = lambda _url: None,
    allow_remote: bool = False,
    settings: LocalSettings | None = None,
    until_stdin_closes: bool = False,
) -> None:
    """Serve the embedded AWS until SIGTERM or SIGINT; then end every container it started.

    `port` 0 takes a free one. `on_ready` gets the URL once requests are answered. With `until_stdin_closes` the end of
    standard input ends it too, so that it doesn't outlive a parent that was killed. Blocks; must run in the main
    thread. Raises UserError if moto isn't installed, if the address can't be bound, or if it isn't a loopback one
    (unless `allow_remote`: anybody who can reach the port can run commands on this machine).
    """
    if not allow_remote and not _is_loopback(host):
        raise UserError(
            f"{host} can be reached from other machines, and anybody who reaches the embedded AWS can run commands on"
            " this one. Serve 127.0.0.1, or allow remote access explicitly."
        )
    asyncio.run(_serve(host, port, on_ready, settings or LocalSettings(), until_stdin_closes=until_stdin_closes))


def _is_loopback(host: str) -> bool:
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise UserError(f"The address {host!r} can't be served: {error.strerror}.") from None
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)


async def _serve(
    host: str, port: int, on_ready: Callable[[str], None], settings: LocalSettings, *, until_stdin_closes: bool
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if until_stdin_closes:
        loop.add_reader(sys.stdin, lambda: None if os.read(sys.stdin.fileno(), 4096) else ended.set())
    try:
        from ecs_worker.local.app import serving  # noqa: PLC0415 - moto is an extra, and takes a second to import
    except ImportError as error:
        raise UserError(f"The embedded AWS needs moto ({error.name} is missing): install ecs-worker[demo].") from None
    aws = serving(
        host,
        port,
        step=settings.step_seconds,
        retention=settings.retention_seconds,
        calls_file=settings.calls_file,
    )
    async with aws as url:
        on_ready(url)
        await ended.wait()
        if until_stdin_closes:
            loop.remove_reader(sys.stdin)


class EmbeddedAws:
    """The embedded AWS as a child process on a free port, for the time of an `async with`.

    `url` is its endpoint. Entering raises EcsWorkerError if it doesn't start; leaving ends it and its containers.
    It also ends when this process dies.
    """

    def __init__(self, settings: LocalSettings | None = None, *, environment: dict[str, str] | None = None) -> None:
        self._settings = settings or LocalSettings()
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        settings = self._settings
        arguments = [f"--step-seconds={settings.step_seconds}", f"--retention-seconds={settings.retention_seconds}"]
        if settings.calls_file:
            arguments.append(f"--calls-file={settings.calls_file}")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ecs_worker.local",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        assert self._process.stdout is not None  # a pipe was asked for
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), _READY_SECONDS)
        except BaseException:
            await self._end()
            raise
        self.url = line.decode().strip()
        if not self.url:
            await self._end()
            raise EcsWorkerError("The embedded AWS did not start; what it wrote to standard error says why.")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _END_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()
