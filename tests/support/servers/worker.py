"""The worker as users run it: the command `ecs-worker`, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from support.servers.prefect import PrefectServer

QUICK = {
    # Nothing here waits for an interval longer than it must.
    "ECS_WORKER_QUERY_SECONDS": "0.5",
    "ECS_WORKER_WATCH_SECONDS": "0.5",
    "ECS_WORKER_CANCEL_SECONDS": "1",
    "ECS_WORKER_CANCEL_GRACE_SECONDS": "3",
    "ECS_WORKER_REPORT_GRACE_SECONDS": "1",
    "ECS_WORKER_HEARTBEAT_SECONDS": "2",
    "ECS_WORKER_ADOPT_SECONDS": "1",
}


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
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "an-example",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    return {**env, **(extra or {})}


class WorkerProcess:
    """One worker process and what it wrote to standard error."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self.log = log

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

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
        async with asyncio.timeout(seconds):
            return await self._process.wait()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it politely (or as told) and return its exit code."""
        if self.running:
            self.send(number)
        return await self.wait()

    async def wait_for_output(self, text: str, seconds: float = 30) -> None:
        async def written() -> bool:
            ended = not self.running  # asked first: what it wrote before its end counts
            if text in self.output:
                return True
            assert not ended, f"The worker ended before it wrote {text!r}:\n{self.output}"
            return False

        await until(written, seconds, told=lambda: f"{text!r} is not written, but:\n{self.output}")


@asynccontextmanager
async def worker(
    directory: Path,
    pool: str,
    *options: str,
    server: PrefectServer | None = None,
    aws_url: str | None = None,
    name: str = "worker",
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[WorkerProcess]:
    """`ecs-worker start --pool POOL --name NAME OPTIONS…`, killed at the end if it still runs."""
    async with command(
        directory,
        ["start", "--pool", pool, "--name", name, *options],
        environment(directory, api_url=server.url if server else None, aws_url=aws_url, extra={**QUICK, **(env or {})}),
        log=directory / f"{name}.log",
    ) as process:
        yield process


@asynccontextmanager
async def command(
    directory: Path, arguments: list[str], env: Mapping[str, str], *, log: Path
) -> AsyncIterator[WorkerProcess]:
    """`ecs-worker ARGUMENTS…`; its standard output and error go to `log`."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ecs_worker", *arguments, env=dict(env), stdout=output, stderr=output, cwd=directory
        )
    running = WorkerProcess(process, log)
    try:
        yield running
    finally:
        if running.running:
            process.kill()
        await process.wait()
