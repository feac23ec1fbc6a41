"""The stage of one repetition: a simulated AWS, a Prefect API (canned or real), and the worker that is measured.

AWS and the canned API run in the bench's own process, so that they cost the worker no CPU of its own and can be asked
directly. A real Prefect server runs in a process of its own, as the worker does.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import aiohttp

from benchmarks.counted_calls import Calls
from benchmarks.processes import Measured, measured
from support.servers.canned import CannedApi, serve, shape
from support.servers.prefect import free_port
from support.simulator import AwsSimulator, What, fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from benchmarks.database import Database

Kind = Literal["prefect-aws", "ecs-worker"]
KINDS: tuple[Kind, ...] = ("prefect-aws", "ecs-worker")

POOL = "bench"
QUERY_SECONDS = "2"
"""Between two polls, for both workers: neither is to gain by looking more often."""
TOP = Path(__file__).parents[1]
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PYTHONWARNINGS": "ignore",
}
_AT_ONCE = 8  # requests of the bench's own to a real server
_OWN = {"x-bench": "1"}


def clean_environment() -> dict[str, str]:
    """This machine's variables without anybody's Prefect, AWS or worker settings."""
    ours = ("PREFECT", "AWS", "ECS_WORKER", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | _QUIET


class Canned:
    """The canned API as a stage's API: it has one work pool and one deployment."""

    process = None

    def __init__(self, api: CannedApi) -> None:
        self.api = api
        self.url = api.url

    async def add_runs(self, number: int) -> list[str]:
        """Scheduled runs, due now, that no worker sees before `open`."""
        self.api.pool["is_paused"] = True
        return [self.api.add_run() for _ in range(number)]

    async def open(self) -> None:
        """Let the workers see the runs."""
        self.api.pool["is_paused"] = False

    async def calls(self) -> Calls:
        """The requests it got."""
        return Calls(self.api.calls)

    async def states(self) -> list[str]:
        """The types of all runs' states."""
        return [run["state_type"] for run in self.api.runs.values()]


class Real:
    """A real Prefect server as a stage's API."""

    def __init__(self, process: Measured, url: str, http: aiohttp.ClientSession) -> None:
        self.process = process
        self.url = url
        self._http = http
        self._deployment = ""

    async def set_up(self, template: Mapping[str, Any], job_variables: Mapping[str, Any]) -> None:
        """The pool and the deployment."""
        await self._call("POST", "/work_pools/", {"name": POOL, "type": "ecs", "base_job_template": template})
        flow = await self._call("POST", "/flows/", {"name": "flow"})
        deployment = {
            "name": "deployment",
            "flow_id": flow["id"],
            "work_pool_name": POOL,
            "entrypoint": "flow.py:flow",
            "path": "/opt/flows",
            "job_variables": job_variables,
        }
        self._deployment = (await self._call("POST", "/deployments/", deployment))["id"]

    async def add_runs(self, number: int) -> list[str]:
        """Likewise."""
        await self._call("PATCH", f"/work_pools/{POOL}", {"is_paused": True})
        limiter = asyncio.Semaphore(_AT_ONCE)

        async def add() -> str:
            async with limiter:
                path = f"/deployments/{self._deployment}/create_flow_run"
                return str((await self._call("POST", path, {"state": {"type": "SCHEDULED"}}))["id"])

        return await asyncio.gather(*(add() for _ in range(number)))

    async def open(self) -> None:
        """Let the workers see the runs."""
        await self._call("PATCH", f"/work_pools/{POOL}", {"is_paused": False})

    async def calls(self) -> Calls:
        """The requests it got."""
        async with self._http.get(self.url.removesuffix("/api") + "/calls") as answer:
            found = await answer.json(content_type=None)
        return Calls([(at, shape(method, path, POOL)) for at, method, path in found])

    async def states(self) -> list[str]:
        """The types of all runs' states."""
        found: list[str] = []
        while True:
            page = await self._call(
                "POST", "/flow_runs/filter", {"limit": 200, "offset": len(found), "sort": "ID_DESC"}
            )
            found += [run["state_type"] for run in page]
            if len(page) < 200:  # noqa: PLR2004 - the page asked for
                return found

    async def _call(self, method: str, path: str, body: Any) -> Any:
        for _ in range(20):
            async with self._http.request(method, self.url + path, json=body, headers=_OWN) as answer:
                if answer.status == 503:  # noqa: PLR2004 - SQLite: its database is locked
                    await asyncio.sleep(0.2)
                    continue
                answer.raise_for_status()
                return await answer.json() if answer.status != 204 else None  # noqa: PLR2004 - no content
        raise RuntimeError(f"{method} {path}: 503, again and again")


Api = Canned | Real


@dataclass
class Bench:
    """What all repetitions share. `peer` is the peer's `prefect` command, `template` its base job template."""

    directory: Path
    database: Database | None
    peer: Path
    template: dict[str, Any]

    @asynccontextmanager
    async def stage(
        self,
        kind: Kind,
        *,
        real: bool = False,
        limits: str = "off",
        latency: float = 0.02,
        job_variables: Mapping[str, Any] | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Stage]:
        """A fresh stage for that worker. `latency`: seconds that each call to AWS takes. `template`: the peer's."""
        async with AsyncExitStack() as stack:
            aws = await stack.enter_async_context(AwsSimulator(limits=limits))
            if latency:
                aws.fault(fault(What.LATENCY, delay=latency))
            api: Api
            if real:
                api = await self._real(stack, job_variables or {})
            else:
                canned = CannedApi(POOL, template or self.template, job_variables)
                api = Canned(await stack.enter_async_context(serve(canned)))
            yield Stage(self, kind, aws, api)

    async def _real(self, stack: AsyncExitStack, job_variables: Mapping[str, Any]) -> Real:
        assert self.database is not None, "the database is there for whoever asks for a real server"
        port = free_port()
        # fmt: off
        command = [
            sys.executable, "-m", "uvicorn", "--factory", "benchmarks.counted_server:create",
            "--host", "127.0.0.1", "--port", str(port), "--timeout-keep-alive", "5", "--log-level", "warning",
        ]
        # fmt: on
        env = clean_environment() | {
            "PYTHONPATH": str(TOP),
            "PREFECT_HOME": str(self.directory / "server"),
            "PREFECT_API_DATABASE_CONNECTION_URL": await self.database.fresh(),
        }
        process = await stack.enter_async_context(measured(command, env, self.directory / "server.log"))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        api = Real(process, f"http://127.0.0.1:{port}/api", http)

        async def healthy() -> bool:
            process.ensure_alive()
            try:
                async with http.get(api.url + "/health", headers=_OWN) as answer:
                    return answer.status == 200  # noqa: PLR2004 - OK
            except aiohttp.ClientError:
                return False

        await until(healthy, 90, "the Prefect server is healthy")
        await api.set_up(self.template, job_variables)
        return api


class Stage:
    """AWS, Prefect, and the means to start the worker of that kind."""

    def __init__(self, bench: Bench, kind: Kind, aws: AwsSimulator, api: Api) -> None:
        self.kind = kind
        self.aws = aws
        self.api = api
        self._bench = bench

    @property
    def canned(self) -> CannedApi:
        """The canned API, for what only it can do."""
        assert isinstance(self.api, Canned), "asked for on stages without a real server"
        return self.api.api

    @asynccontextmanager
    async def worker(self, *options: str, **variables: str) -> AsyncIterator[Measured]:
        """Start the worker, as a user would."""
        home = self._bench.directory / "home"
        home.mkdir(exist_ok=True)
        env = clean_environment() | {
            "HOME": str(home),
            "PREFECT_HOME": str(home / self.kind),
            "PREFECT_API_URL": self.api.url,
            "AWS_ENDPOINT_URL": self.aws.url,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "an-example",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "PREFECT_WORKER_QUERY_SECONDS": QUERY_SECONDS,
            "ECS_WORKER_QUERY_SECONDS": QUERY_SECONDS,
        }
        if self.kind == "prefect-aws":
            command = [str(self._bench.peer), "worker", "start", "--pool", POOL, "--type", "ecs", "--name", "bench"]
        else:
            env["PYTHONPATH"] = str(TOP / "src")
            command = [sys.executable, "-m", "ecs_worker", "start", "--pool", POOL, "--name", "bench"]
        log = self._bench.directory / f"{self.kind}.log"
        log.unlink(missing_ok=True)
        async with measured([*command, *options], env | variables, log) as worker:
            yield worker

    async def first_poll(self, seconds: float = 60) -> float:
        """When the worker first asked for runs, in monotonic seconds."""

        async def polled() -> bool:
            return bool((await self.api.calls()).polls)

        await until(polled, seconds, "the worker polls")
        return (await self.api.calls()).polls[0]

    def launched(self) -> int:
        """How many tasks ECS has launched."""
        return len(self.aws.launched)

    def lines(self, pattern: str) -> int:
        """How many lines of the worker's log match."""
        log = self._bench.directory / f"{self.kind}.log"
        return len(re.findall(pattern, log.read_text(encoding="utf-8", errors="replace")))


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str, every: float = 0.1) -> float:
    """Wait until it holds; when that was, in monotonic seconds. TimeoutError says `what` didn't come about."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Not within {seconds:.0f} s: {what}.")
        await asyncio.sleep(every)
    return time.monotonic()
