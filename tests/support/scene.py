"""The parts of a worker, put together as it does, between a simulated AWS and a canned Prefect API."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from ecs_worker.aws.ecs import task_facts
from ecs_worker.lifecycle.run.run import Run
from support.builders import HandClock, claimed_run, launch_request, placement
from support.simulator.helpers import run_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun
    from ecs_worker.settings import WorkerSettings
    from ecs_worker.worker import Parts
    from support.servers.canned import CannedApi
    from support.simulator import AwsSimulator

POOL = "pool"
LATER = 20.0  # seconds, after which every task is due to be looked at


class MakeScene(Protocol):
    """Makes a scene whose worker has these settings, and is in `region`. `beats`: how long ago others beat."""

    async def __call__(
        self, settings: WorkerSettings, *, region: str = "us-east-1", beats: Mapping[str, float] | None = None
    ) -> Scene: ...


class Scene:
    """A worker none of whose loops runs: tests make each look themselves, and move its clock."""

    def __init__(
        self, aws: AwsSimulator, api: CannedApi, parts: Parts, ecs: Any, clock: HandClock, prefect: PrefectClient
    ) -> None:
        self.aws = aws
        self.api = api
        self.parts = parts
        self.ecs = ecs
        self.clock = clock
        self.prefect = prefect

    def claimed(self, state_type: str = "PENDING", **claim: Any) -> Run:
        """A run in that state, as the worker holds it after its claim."""
        run_id = self.api.add_run(state_type)
        run = Run(claimed_run(run_id, name=f"run-{run_id[:8]}", **claim), clock=self.clock)
        self.parts.ledger.take(run)
        return run

    async def launched(
        self,
        state_type: str = "RUNNING",
        *,
        cluster: str = "default",
        facts: dict[str, Any] | None = None,
        **where: Any,
    ) -> Run:
        """A run in that state, with a task, as the worker holds it after the launch. `facts` replace ECS's."""
        run = self.claimed(state_type)
        answer = await self.ecs.run_task(**run_task(cluster=cluster, startedBy=run.claim.started_by))
        run.rendered(launch_request(placement(cluster, **where)))
        run.launched_as(replace(task_facts(answer["tasks"][0]), **(facts or {})))
        run.signing()
        self.document(run)["infrastructure_pid"] = str(run.name)
        return run

    async def watch(self, *, later: float = LATER) -> None:
        """A sweep over all tasks, so many seconds later."""
        self.clock.advance(later)
        async with anyio.create_task_group() as calls:
            await self.parts.watch.sweep(calls)

    async def report(self) -> None:
        """A look at all ends, after their grace."""
        self.clock.advance(60.0)
        async with anyio.create_task_group() as ends:
            await self.parts.report.look(ends)

    async def cancel(self) -> None:
        """A look at what is cancelled."""
        async with anyio.create_task_group() as stops:
            await self.parts.cancel.look(stops)

    async def cancel_deleted(self) -> None:
        """A look for deleted runs."""
        async with anyio.create_task_group() as stops:
            await self.parts.cancel.look_for_deleted(stops)

    async def adopt(self) -> None:
        """A look for orphans."""
        async with anyio.create_task_group() as lanes:
            await self.parts.adopt.look(lanes)

    async def scheduled(self) -> list[FlowRun]:
        """What a poll would give."""
        return await self.prefect.scheduled_runs(POOL)

    def document(self, run: Run) -> dict[str, Any]:
        """The run as the API has it."""
        document: dict[str, Any] = self.api.runs[str(run.id)]
        return document

    def state(self, run: Run) -> dict[str, Any]:
        """What the API says of the run's state."""
        state: dict[str, Any] = self.document(run)["state"]
        return state

    def asked(self, action: str) -> int:
        return sum(call.action == action for call in self.aws.calls)
