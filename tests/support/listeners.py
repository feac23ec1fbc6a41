"""A simulated AWS with its queue, and the parts of a worker that listen to it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from ecs_worker.aws.ecs import task_facts
from ecs_worker.aws.session import Aws
from ecs_worker.model import AwsTarget, Phase, Placement
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings, WorkerSettings
from ecs_worker.worker import build
from support.builders import run_in
from support.simulator.helpers import DEFINITION, run_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AsyncExitStack

    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.model import ClaimedRun
    from ecs_worker.worker import Parts
    from support.simulator import AwsSimulator, EventFeed

QUEUE = "task-events"
LAUNCHED_IN: dict[str, Any] = {key: value for key, value in DEFINITION.items() if key != "executionRoleArn"} | {
    "containerDefinitions": [{"name": "prefect", "image": "prefecthq/prefect:3"}]
}


class Listening:
    """The part of a worker that hears events: real, but that nobody polls tasks or tells ends."""

    def __init__(self, parts: Parts) -> None:
        assert parts.listener is not None
        self.ledger = parts.ledger
        self.listener = parts.listener

    def hold(self, claim: ClaimedRun, task: dict[str, Any] | None = None) -> Run:
        """A run of this worker's, launched as that task of RunTask's answer (None: not answered yet)."""
        phase, facts = (Phase.STARTING, task_facts(task)) if task else (Phase.LAUNCHING, None)
        run = run_in(phase, claim=claim, where=Placement(AwsTarget(), "", "prefect"), task=facts)
        self.ledger.take(run)
        return run


class Scene:
    """The simulated AWS, clients of the test's own, and listeners."""

    def __init__(self, simulator: AwsSimulator, ecs: Any, sqs: Any, stack: AsyncExitStack) -> None:
        self.simulator = simulator
        self.ecs = ecs
        self.sqs = sqs
        self._stack = stack

    async def open(self, feed: EventFeed | None = None, *, visibility: float = 1.0) -> None:
        """Make the queue, and let events come."""
        self.simulator.sqs.create_queue(QUEUE, visibility)
        self.simulator.feed_events(QUEUE, feed)
        await self.ecs.register_task_definition(**LAUNCHED_IN)

    async def launch(self, run: ClaimedRun) -> dict[str, Any]:
        answer = await self.ecs.run_task(**run_task(startedBy=run.started_by))
        task: dict[str, Any] = answer["tasks"][0]
        return task

    async def listener(self, queue: str = QUEUE) -> Listening:
        prefect = PrefectSettings(api_url="http://127.0.0.1:9/api")  # nothing here asks it
        settings = WorkerSettings(pool="pool", events_queue=queue)
        aws = await self._stack.enter_async_context(Aws())
        api = await self._stack.enter_async_context(PrefectClient(prefect))
        return Listening(build(settings, prefect, api, aws, stopping=anyio.Event()))

    async def send(self, body: str) -> None:
        url = (await self.sqs.get_queue_url(QueueName=QUEUE))["QueueUrl"]
        await self.sqs.send_message(QueueUrl=url, MessageBody=body)

    @property
    def queued(self) -> int:
        return sum(self.simulator.sqs.queues[QUEUE].counts())

    def asked(self, action: str) -> int:
        return sum(call.action == action for call in self.simulator.calls)


@asynccontextmanager
async def listening(*listeners: Listening) -> AsyncIterator[None]:
    """These listen meanwhile."""
    async with anyio.create_task_group() as group:
        for listener in listeners:
            group.start_soon(listener.listener.run)
        yield
        group.cancel_scope.cancel()
