"""The worker as users run it: the command `ecs-worker`, in a process of its own."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import anyio

from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path

    from support.servers.prefect import PrefectServer

QUICK = {
    # Short waits; but a poll costs the Prefect server 30 ms of CPU, and the other looks half of it.
    "ECS_WORKER_QUERY_SECONDS": "1",
    "ECS_WORKER_WATCH_SECONDS": "0.5",
    "ECS_WORKER_CANCEL_SECONDS": "2",
    "ECS_WORKER_CANCEL_GRACE_SECONDS": "3",
    "ECS_WORKER_REPORT_GRACE_SECONDS": "1",
    "ECS_WORKER_HEARTBEAT_SECONDS": "3",
    "ECS_WORKER_ADOPT_SECONDS": "3",
}

_PR_SET_PDEATHSIG = 1  # prctl(2)
_forks = multiprocessing.get_context("forkserver")
# Imports are most of a command's start: they are done once, and each command is a fork that then runs `main`.
_forks.set_forkserver_preload(
    [
        "ecs_worker.cli.app",
        *(f"ecs_worker.cli.commands.{name}" for name in ("deploy", "logs", "pool", "render", "start")),
    ]
    + [f"ecs_worker.cli.{name}" for name in ("deploy", "logs", "pool", "render", "start")]
)


def environment(
    home: Path, *, api_url: str | None = None, aws_url: str | None = None, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What the command sees: nothing of this machine's own Prefect, AWS or worker settings."""
    ours = ("PREFECT", "AWS", "ECS_WORKER")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env = {**clean, "HOME": str(home), "PREFECT_HOME": str(home / ".prefect"), "AWS_EC2_METADATA_DISABLED": "true"}
    if api_url is not None:
        env["PREFECT_API_URL"] = api_url
    if aws_url is not None:
        env |= {
            "AWS_ENDPOINT_URL": aws_url,
            **{name: value for name, value in os.environ.items() if name == "AWS_CA_BUNDLE"},
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "an-example",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    return {**env, **(extra or {})}


class _Process(Protocol):
    """What asyncio's processes and ours have in common."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def send_signal(self, number: int, /) -> None: ...
    async def wait(self) -> int: ...


class _Fork:
    """A process that has the imports behind it, and then is as one that began with the command."""

    def __init__(self, arguments: list[str], env: Mapping[str, str], directory: Path, out: Path, err: Path) -> None:
        files = (str(directory), str(out), str(err))
        self._process: ForkServerProcess = _forks.Process(target=_become, args=(arguments, dict(env), *files))
        self._process.start()
        assert self._process.pid is not None  # it has been started
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        while (code := self.returncode) is None:
            await anyio.wait_readable(self._process.sentinel)
        return code


def _become(arguments: list[str], env: dict[str, str], directory: str, out: str, err: str) -> None:
    """In the new process: become the command `ecs-worker ARGUMENTS…`."""
    if sys.platform == "linux":  # should the tests be killed, nobody else ends their commands
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background are born to ignore it
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["ecs-worker", *arguments]
    from ecs_worker.cli import main  # noqa: PLC0415 - after the environment, as in the command

    main()


async def _begin(arguments: list[str], env: Mapping[str, str], directory: Path, out: Path, err: Path) -> _Process:
    """The command line itself, from the interpreter's start."""
    with out.open("ab") as output, err.open("ab") as errors:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ecs_worker", *arguments),
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=directory,
        )


class WorkerProcess:
    """One process of the command and what it wrote to its log."""

    def __init__(self, process: _Process, log: Path) -> None:
        self._process = process
        self.log = log

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait(self, seconds: float = 40) -> int:
        """The exit code, once it has ended."""
        try:
            async with asyncio.timeout(seconds):
                return await self._process.wait()
        except TimeoutError:
            raise AssertionError(f"It still runs after {seconds} s:\n{self.output}") from None

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it politely (or as told) and return its exit code."""
        if self.running:
            self.send(number)
        return await self.wait()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Harmless when it is."""
        await self.stop(signal.SIGKILL)

    async def wait_for_output(self, text: str, seconds: float = 30) -> None:
        def written() -> bool:
            ended = not self.running  # asked first: what it wrote before its end counts
            if text in self.output:
                return True
            assert not ended, f"The worker ended before it wrote {text!r}:\n{self.output}"
            return False

        await until(written, seconds, every=0.05, told=lambda: f"{text!r} is not written, but:\n{self.output}")


def forked(arguments: list[str], env: Mapping[str, str], *, log: Path, directory: Path) -> WorkerProcess:
    """`ecs-worker ARGUMENTS…`, started at once; who calls ends it."""
    return WorkerProcess(_Fork(arguments, env, directory, log, log), log)


@asynccontextmanager
async def worker(
    directory: Path,
    pool: str,
    *options: str,
    server: PrefectServer | None = None,
    aws_url: str | None = None,
    name: str = "worker",
    env: Mapping[str, str] | None = None,
    whole: bool = False,
) -> AsyncIterator[WorkerProcess]:
    """`ecs-worker start --pool POOL --name NAME OPTIONS…`, killed at the end if it still runs. `whole`: see command."""
    async with command(
        directory,
        ["start", "--pool", pool, "--name", name, *options],
        environment(directory, api_url=server.url if server else None, aws_url=aws_url, extra={**QUICK, **(env or {})}),
        log=directory / f"{name}.log",
        whole=whole,
    ) as process:
        yield process


@asynccontextmanager
async def command(
    directory: Path,
    arguments: list[str],
    env: Mapping[str, str],
    *,
    log: Path,
    errors: Path | None = None,
    whole: bool = False,
) -> AsyncIterator[WorkerProcess]:
    """`ecs-worker ARGUMENTS…`; its output goes to `log`, what it says to standard error to `errors` if that is given.

    `whole`: from the interpreter's start, as a user's; a fork saves most of a second.
    """
    files = (directory, log, errors or log)
    process = await _begin(arguments, env, *files) if whole else _Fork(arguments, env, *files)
    running = WorkerProcess(process, log)
    try:
        yield running
    finally:
        await running.kill()
