"""The parts of a worker, put together as it does, between a simulated AWS and a canned Prefect API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecs_worker.aws.ecs import task_facts
from ecs_worker.lifecycle.run.ledger import Held
from ecs_worker.model import AwsTarget, Phase, Placement
from support.builders import claimed_run
from support.simulator.helpers import run_task

if TYPE_CHECKING:
    from ecs_worker.worker import Worker
    from support.servers.canned import CannedApi
    from support.simulator import AwsSimulator

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
        run = claimed_run(run_id, name=f"run-{run_id[:8]}")
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
