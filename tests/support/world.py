"""One test's own corner of the shared servers: a work pool, a cluster of the same name, and what runs there."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aioboto3

from support.builders import quick_template
from support.paths import CONTAINER, TESTS
from support.servers.worker import WorkerProcess, worker
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from support.servers.prefect import Admin, PrefectServer

AUTH_STRING = "administrator:correct-horse-battery"
ROLE = "arn:aws:iam::123456789012:role/my-task-execution-role"
FLOWS = TESTS / "e2e" / "flows"


@asynccontextmanager
async def ecs_client(url: str) -> AsyncIterator[Any]:
    """A client of the tests' own, told from workers' by its user agent."""
    session = aioboto3.Session(aws_access_key_id="any", aws_secret_access_key="any", region_name="us-east-1")
    async with session.client("ecs", endpoint_url=url) as client:
        yield client


def steps(*steps: str) -> str:
    """The job variable `command` for a container that does these steps (see servers/container.py)."""
    return shlex.join([sys.executable, "-I", str(CONTAINER), *steps])


class World:
    """`pool` names the work pool and the cluster. `admin` is the server's, `ecs` a client of the embedded AWS."""

    def __init__(self, admin: Admin, aws_url: str, ecs: Any, directory: Path) -> None:
        self.admin = admin
        self.aws_url = aws_url
        self.ecs = ecs
        self.directory = directory
        self.pool = ""

    async def open(self, **pool: Any) -> None:
        self.pool = await self.admin.create_pool(**{"base_job_template": quick_template(), **pool})
        await self.ecs.create_cluster(clusterName=self.pool)

    @property
    def server(self) -> PrefectServer:
        return self.admin.server

    def worker(
        self,
        *options: str,
        name: str = "worker",
        api_url: str | None = None,
        aws_url: str | None = None,
        env: dict[str, str] | None = None,
        whole: bool = False,
    ) -> AbstractAsyncContextManager[WorkerProcess]:
        """`ecs-worker start` for this pool and cluster, quick, killed at the end. `whole`: see servers/worker.py."""
        return worker(
            self.directory,
            self.pool,
            "--cluster",
            self.pool,
            *options,
            server=self.server,
            aws_url=aws_url or self.aws_url,
            name=name,
            env=(env or {}) | ({"PREFECT_API_URL": api_url} if api_url else {}),
            whole=whole,
        )

    async def subnets(self) -> list[str]:
        """Those of the default VPC."""
        session = aioboto3.Session(aws_access_key_id="any", aws_secret_access_key="any", region_name="us-east-1")
        async with session.client("ec2", endpoint_url=self.aws_url) as ec2:
            return [subnet["SubnetId"] for subnet in (await ec2.describe_subnets())["Subnets"]]

    # -- what is to run

    def gate(self) -> Path:
        """A file that is not there: containers with the step `wait=GATE` go on once the test touches it."""
        return self.directory / f"gate-{uuid4().hex[:8]}"

    async def deploy(self, *command: str, **fields: Any) -> str:
        """A deployment whose container does these steps; `job_variables` are added. Its id."""
        variables = {"command": steps(*command)} if command else {}
        variables |= fields.pop("job_variables", {})
        fields["infra_overrides" if self.server.line == "2" else "job_variables"] = variables
        return await self.admin.create_deployment(self.pool, **fields)

    async def run(self, *command: str, **job_variables: Any) -> str:
        """A run, due now, of a deployment of its own; its id."""
        (run_id,) = await self.admin.create_runs(await self.deploy(*command, job_variables=job_variables), 1)
        return run_id

    async def pause(self) -> None:
        """Pause the work pool: the server then gives its workers no runs."""
        await self.admin.call("PATCH", f"/work_pools/{self.pool}", json={"is_paused": True})

    async def resume(self) -> None:
        await self.admin.call("PATCH", f"/work_pools/{self.pool}", json={"is_paused": False})

    # -- what runs

    async def tasks(self, cluster: str | None = None) -> list[dict[str, Any]]:
        """All tasks of the cluster that are no service's, running and stopped, oldest first."""
        arns: list[str] = []
        for status in ("RUNNING", "STOPPED"):
            pages = self.ecs.get_paginator("list_tasks").paginate(cluster=cluster or self.pool, desiredStatus=status)
            async for page in pages:
                arns += page["taskArns"]
        found: dict[str, dict[str, Any]] = {}  # one that stopped between the two lists is in both
        for start in range(0, len(arns), 100):
            answer = await self.ecs.describe_tasks(
                cluster=cluster or self.pool, tasks=arns[start : start + 100], include=["TAGS"]
            )
            found |= {task["taskArn"]: task for task in answer["tasks"] if not task["group"].startswith("service:")}
        return sorted(found.values(), key=lambda task: task["createdAt"])

    async def tasks_of(self, run_id: str) -> list[dict[str, Any]]:
        return [task for task in await self.tasks() if run_of(task) == run_id]

    async def task_of(self, run_id: str) -> dict[str, Any]:
        """The run's task, of which there is exactly one."""
        (task,) = await self.tasks_of(run_id)
        return task

    async def launches(self) -> Counter[str]:
        """How many tasks each run got."""
        return Counter(map(run_of, await self.tasks()))

    async def wait_for_task(self, run_id: str, *statuses: str, number: int = 1, seconds: float = 30) -> dict[str, Any]:
        """The run's newest task, once it is the `number`th and has one of the statuses (any, if none is given)."""
        seen: list[dict[str, Any]] = []

        async def reached() -> bool:
            seen[:] = await self.tasks_of(run_id)
            return len(seen) >= number and (not statuses or seen[-1]["lastStatus"] in statuses)

        await until(reached, seconds, told=lambda: f"not {statuses} but {[task['lastStatus'] for task in seen]}")
        return seen[-1]

    async def all_are(self, run_ids: Sequence[str], kind: str, seconds: float = 60) -> None:
        """Wait until all these runs are of that state type."""
        for run_id in run_ids:
            await self.admin.wait_for_state(run_id, kind, seconds=seconds)


def run_of(task: dict[str, Any]) -> str:
    """The flow run that the task's container was told to execute."""
    overrides = task["overrides"]["containerOverrides"]
    variables = {item["name"]: item["value"] for override in overrides for item in override.get("environment", [])}
    return str(variables["PREFECT__FLOW_RUN_ID"])


def most_at_once(tasks: Sequence[dict[str, Any]]) -> int:
    """How many of the tasks existed at the same time, at the most."""
    changes = [(task["createdAt"], 1) for task in tasks] + [(task["stoppedAt"], -1) for task in tasks]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most
