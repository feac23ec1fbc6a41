"""One corner of bad weather: a work pool on the shared Prefect server, with a chaos proxy and an AWS of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from support.builders import quick_template
from support.servers.prefect import Admin
from support.servers.worker import WorkerProcess, environment, forked
from support.simulator import AwsSimulator, ChaosProxy
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from types import TracebackType

    from support.servers.prefect import PrefectServer
    from support.simulator.fleet import Task

WORKERS = "*ecs-worker*"  # the proxy's callers that are under test; containers call too
CLAIM = "POST /flow_runs/{id}/set_state PENDING"  # the proxy's name of it
QUICK = {
    "ECS_WORKER_QUERY_SECONDS": "1.5",
    "ECS_WORKER_WATCH_SECONDS": "0.5",
    "ECS_WORKER_CANCEL_SECONDS": "1",
    "ECS_WORKER_CANCEL_GRACE_SECONDS": "2",
    "ECS_WORKER_REPORT_GRACE_SECONDS": "0.5",
    "ECS_WORKER_HEARTBEAT_SECONDS": "1",
    "ECS_WORKER_ADOPT_SECONDS": "1",
}


class Arena:
    """`async with Arena(server, directory) as arena:`. Workers, containers and AWS end with it."""

    def __init__(self, server: PrefectServer, directory: Path, *, seed: int = 0, **aws: Any) -> None:
        self.aws = AwsSimulator(seed=seed, **aws)
        self.proxy = ChaosProxy(server.url.removesuffix("/api"), seed=seed)
        self.calm = ChaosProxy(server.url.removesuffix("/api"), seed=seed)
        """A second way to the same server: for workers that are to be told apart, or spared."""
        self.admin = Admin(server)
        self.pool = ""
        self.deployment = ""
        self._directory = directory
        self._stack = AsyncExitStack()
        self._workers: list[tuple[str, WorkerProcess]] = []

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for server in (self.aws, self.proxy, self.calm, self.admin):
                await stack.enter_async_context(server)
            self.pool = await self.admin.create_pool(base_job_template=quick_template())
            self.deployment = await self.deploy()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, worker in self._workers:
            await worker.kill()
        await self._stack.aclose()

    # -- what there is to do

    async def deploy(self, **job_variables: Any) -> str:
        return await self.admin.create_deployment(self.pool, job_variables=job_variables)

    async def run(self, **fields: Any) -> str:
        if not fields:
            return (await self.runs(1))[0]
        return await self.admin.create_run(self.deployment, idempotency_key=str(uuid4()), **fields)

    async def runs(self, number: int) -> list[str]:
        """So many, one after the other: SQLite's server refuses most of those that are made at once."""
        return await self.admin.create_bare_runs(self.deployment, number)

    async def run_with(self, **job_variables: Any) -> str:
        return await self.run(job_variables=job_variables)

    # -- workers

    def worker(self, name: str, *options: str, by: ChaosProxy | None = None, **env: str) -> WorkerProcess:
        """Start a worker of that name, which reaches Prefect `by` that proxy; `env` are variables.

        The simulator sees it as the caller `*app/NAME*`.
        """
        arguments = ["start", "--pool", self.pool, "--name", name, *options]
        variables = environment(
            self._directory,
            api_url=(by or self.proxy).api_url,
            aws_url=self.aws.url,
            extra={**QUICK, "AWS_SDK_UA_APP_ID": name, **env},
        )
        log = self._directory / f"{self.pool}-{name}.log"
        started = forked(arguments, variables, log=log, directory=self._directory)
        self._workers.append((name, started))
        return started

    def outputs(self) -> str:
        return "\n".join(f"-- {name}\n{worker.output}" for name, worker in self._workers)

    # -- what came of it

    def tasks_of(self, run_id: str) -> list[Task]:
        return [task for task in self.aws.launched if task.flow_run_id == run_id]

    def effective(self, run_id: str) -> list[str]:
        """The tasks that really ran the run's flow: the server let them."""
        return self.aws.ecs.fleet.flow_runs.get(run_id, [])

    async def task_of(self, run_id: str, *, number: int = 1, seconds: float = 20) -> Task:
        """The run's task, once there are so many."""

        async def launched() -> bool:
            return len(self.tasks_of(run_id)) >= number

        await self.until(launched, seconds)
        return self.tasks_of(run_id)[number - 1]

    async def until(self, condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
        await until(condition, seconds, every=0.1, told=lambda: f"\n{self.outputs()}")

    async def ends(self, run_id: str, *types: str, seconds: float = 30) -> dict[str, Any]:
        """The run, once it is final: of one of these types."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        try:
            run = await self.admin.wait_for_state(run_id, *final, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.outputs()}") from None
        assert run["state_type"] in types, f"{run['state']}\n{self.outputs()}"
        return run
