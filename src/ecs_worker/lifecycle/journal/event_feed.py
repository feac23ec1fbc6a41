"""EventFeed: tell Prefect, as events, what this worker and its tasks do.

Automations and the event feed need them; the worker doesn't. What can't be sent is dropped in the end. If the process
dies here, the events of the last `SEND_EVERY` are lost, and those that wait for the Prefect API to come back. The next
worker does not tell an adopted task's earlier changes again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from ecs_worker.errors import PrefectRejected
from ecs_worker.lifecycle.journal.outbox import Outbox
from ecs_worker.lifecycle.loops import every
from ecs_worker.prefect_api.events import Event, to_json

if TYPE_CHECKING:
    from uuid import UUID

    from ecs_worker.lifecycle.rendering.render import PoolView
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.model import ClaimedRun, TaskFacts
    from ecs_worker.prefect_api.client import PrefectClient

log = logging.getLogger(__name__)

SEND_EVERY = 2.0  # seconds: tasks change in bursts
EVENTS_PER_REQUEST = 100
MOST_WAITING = 5_000  # events; beyond it the oldest are dropped and counted
TIGHT = timedelta(minutes=5)  # `follows` only orders events that are closer than this (Prefect, `TIGHT_TIMING`)
NO_EXIT_CODE = -1  # the container never started, or was lost; Prefect's workers say it so


@dataclass(frozen=True, slots=True)
class About:
    """What events tell of a run and its task, as they are now."""

    run: ClaimedRun
    flow_name: str | None
    deployment_name: str | None
    task: TaskFacts | None
    exit_code: int | None  # of the flow's container
    identifier: str  # `infrastructure_pid`

    def event(self, name: str) -> Event:
        """An event about the run."""
        return Event(
            name=name,
            run=self.run,
            flow_name=self.flow_name,
            deployment_name=self.deployment_name,
            identifier=self.identifier,
        )


class EventFeed:
    """Takes events without waiting; `run()` sends them."""

    def __init__(self, api: PrefectClient, worker: str, pool_view: PoolView) -> None:
        self._api = api
        self._worker = worker
        self._pool_view = pool_view
        self._outbox: Outbox[Event] = Outbox("events", self._send, EVENTS_PER_REQUEST)
        self._events = self._outbox.lane(MOST_WAITING)
        self._beginnings: OrderedDict[UUID | None, Event] = OrderedDict()
        """The latest beginnings, by run, oldest first; the worker's own has the key None."""

    # -- what happens

    def started(self) -> None:
        """The worker has begun to take runs."""
        self._begin(None, Event(name="prefect.worker.started"))

    def stopped(self) -> None:
        """The worker takes no more runs."""
        self._end(None, Event(name="prefect.worker.stopped"))

    def launched(self, run: Run) -> None:
        """ECS has taken the run's task."""
        about = _about(run)
        self._begin(about.run.run_id, about.event("prefect.worker.submitted-flow-run"))
        if about.task is not None and about.task.last_status:
            self._add_status(about, about.task)

    def changed(self, run: Run, before: TaskFacts | None) -> None:
        """The task's facts are new; `before` are those known until now."""
        about = _about(run)
        task = about.task
        known = before.last_status if before is not None else ""
        if task is None or task.last_status == known or not (known or task.stopped):
            return
        self._add_status(about, task)
        if task.stopped:
            exit_code = NO_EXIT_CODE if about.exit_code is None else about.exit_code
            executed = about.event("prefect.worker.executed-flow-run")
            self._end(about.run.run_id, replace(executed, exit_code=exit_code))

    def _add_status(self, about: About, task: TaskFacts) -> None:
        moments = {
            "PROVISIONING": task.created_at,
            "RUNNING": task.started_at,
            "STOPPING": task.stopping_at,
            "STOPPED": task.stopped_at,
        }
        event = about.event(f"prefect.ecs.task.{task.last_status.lower()}")
        self._events.add(replace(event, task=task, occurred=moments.get(task.last_status) or event.occurred))

    def _begin(self, run_id: UUID | None, event: Event) -> None:
        """Add an event that a later one of this run (or of the worker) may follow."""
        self._events.add(event)
        self._beginnings.pop(run_id, None)
        self._beginnings[run_id] = event
        while event.occurred - next(iter(self._beginnings.values())).occurred >= TIGHT:
            self._beginnings.popitem(last=False)

    def _end(self, run_id: UUID | None, event: Event) -> None:
        """Add the event that follows the beginning, if that was told by this process and not long ago."""
        begun = self._beginnings.pop(run_id, None)
        if begun is not None and event.occurred - begun.occurred < TIGHT:
            event = replace(event, follows=begun.id)
        self._events.add(event)

    # -- sending

    async def run(self) -> None:
        """Send what waits, every `SEND_EVERY`."""
        await every(SEND_EVERY, self.flush)

    async def flush(self) -> None:
        """Send all that waits. What can't be sent now waits on."""
        await self._outbox.flush()

    async def _send(self, events: list[Event]) -> None:
        pool, version = self._pool_view.pool, self._pool_view.server_version
        documents = [to_json(event, worker=self._worker, pool=pool, server_version=version) for event in events]
        try:
            await self._api.write_events(documents)
        except PrefectRejected as error:
            log.warning("%d events were dropped, since the Prefect API refuses them: %s", len(events), error)


def _about(run: Run) -> About:
    placement, task = run.placement, run.task
    container = task.container(placement.container) if task is not None and placement is not None else None
    return About(
        run=run.claim,
        flow_name=placement.flow_name if placement is not None else None,
        deployment_name=placement.deployment_name if placement is not None else None,
        task=task,
        exit_code=container.exit_code if container is not None else None,
        identifier=str(run.name) if run.name is not None else "",
    )
