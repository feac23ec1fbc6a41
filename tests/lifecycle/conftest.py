"""The parts of a worker, put together as it does, between a simulated AWS and a canned Prefect API."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import aioboto3
import pytest

from ecs_worker.aws.ecs import task_facts
from ecs_worker.aws.session import Aws
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.lifecycle.ledger import Held
from ecs_worker.model import AwsTarget, ClaimedRun, Phase, Placement
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings, WorkerSettings
from ecs_worker.worker import Worker
from servers.canned import CannedApi, serve
from simulator import AwsSimulator, TaskScript
from simulator.helpers import DEFINITION, point_at, run_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

POOL = "pool"


class Scene:
    """A worker none of whose loops runs: tests make each look themselves."""

    def __init__(self, aws: AwsSimulator, api: CannedApi, worker: Worker, ecs: Any) -> None:
        self.aws = aws
        self.api = api
        self.worker = worker
        self.ecs = ecs

    async def launched(self, state_type: str = "RUNNING", *, cluster: str = "default", **placement: Any) -> Held:
        """A run in that state, with a task, as the worker holds it after the launch."""
        run_id = self.api.add_run(state_type)
        run = ClaimedRun(UUID(run_id), f"run-{run_id[:8]}", uuid4(), uuid4(), None, {})
        answer = await self.ecs.run_task(**run_task(cluster=cluster, startedBy=run.started_by))
        task = task_facts(answer["tasks"][0])
        held = Held(
            run,
            phase=Phase.STARTING,
            placement=Placement(AwsTarget(region="us-east-1"), cluster, container="prefect", **placement),
            task=task,
            identifier=f"{cluster}::{task.arn}",
            identifier_written=True,
        )
        self.api.runs[run_id]["infrastructure_pid"] = held.identifier
        self.worker.ledger.take(held)
        return held

    async def watch(self, *, later: float = 0.0) -> None:
        """A sweep over all tasks, for those that are missing `later` seconds after the first."""
        for held in self.worker.ledger:
            held.due = 0.0
            if held.missing_since is not None:
                held.missing_since -= later
        await self.worker.watch.once()

    async def report(self) -> None:
        """A look at all ends."""
        for held in self.worker.ledger:
            held.due = 0.0
            held.since -= 60.0  # no grace
        await self.worker._report.once()  # noqa: SLF001 - one of its loops

    def state(self, held: Held) -> dict[str, Any]:
        """What the API says of the run."""
        state: dict[str, Any] = self.api.runs[str(held.run.run_id)]["state"]
        return state

    def asked(self, action: str) -> int:
        return sum(call.action == action for call in self.aws.calls)


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(AwsSimulator())
        point_at(simulator.url, monkeypatch)
        simulator.ecs.scripts.default = TaskScript(running=None)
        simulator.logs.create_group("flows")
        ecs = await stack.enter_async_context(aioboto3.Session().client("ecs"))
        await ecs.register_task_definition(**DEFINITION)
        canned = await stack.enter_async_context(serve(CannedApi(POOL, default_base_job_template())))
        prefect = PrefectSettings(api_url=canned.url)
        worker = Worker(WorkerSettings(pool=POOL, name="worker", events_queue="events"), prefect)
        aws = await stack.enter_async_context(Aws())
        api = await stack.enter_async_context(PrefectClient(prefect, patience_seconds=0))
        worker._assemble(api, aws)  # noqa: SLF001 - all its parts, put together as it does
        yield Scene(simulator, canned, worker, ecs)
