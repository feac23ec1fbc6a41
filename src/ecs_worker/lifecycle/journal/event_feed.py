"""EventFeed: tell Prefect, as events, what this worker and its tasks do.

Automations and the event feed live on them, the worker doesn't: what can't be sent is dropped in the end, and if the
process dies here, the last `SECONDS` of them are lost. Events of the kinds and shapes that Prefect's own ECS worker
and observer send; an adopted task's earlier changes are not told again.
"""

from __future__ import annotations

import logging
import re
import time
import unicodedata
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import anyio

from ecs_worker import __version__
from ecs_worker.errors import PrefectError, PrefectRejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecs_worker.lifecycle.rendering.render import PoolView
    from ecs_worker.lifecycle.run.ledger import Held
    from ecs_worker.model import ClaimedRun, TaskFacts
    from ecs_worker.prefect_api.client import PrefectClient

log = logging.getLogger(__name__)

SECONDS = 2.0  # between two batches: tasks change in bursts
PER_REQUEST = 100
MOST_WAITING = 5_000  # events; beyond it the oldest are dropped and counted
MOST_RELATED = 100  # resources of an event; the server refuses more
TIGHT = 300.0  # seconds; `follows` only orders events that are closer than this (Prefect, `TIGHT_TIMING`)
NO_EXIT_CODE = -1  # the container never started, or was lost; Prefect's workers say it so


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event that waits to be sent. The run's facts are shared with the ledger, so it is small."""

    event: str
    run: ClaimedRun | None = None  # None: the worker's own life
    task: TaskFacts | None = None  # None: what the worker did
    identifier: str = ""  # executed runs only: `infrastructure_pid`
    exit_code: int | None = None  # likewise
    follows: UUID | None = None
    occurred: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: UUID = field(default_factory=uuid4)


class EventFeed:
    """Takes events without waiting; `run()` sends them.

    `names` are those of flows and deployments, by id, as far as they have been read.
    """

    def __init__(self, api: PrefectClient, worker: str, surroundings: PoolView, names: Mapping[UUID, str]) -> None:
        self._api = api
        self._worker = worker
        self._surroundings = surroundings
        self._names = names
        self._waiting: deque[Announcement] = deque()
        self._dropped = 0
        self._failing = False
        self._sending = anyio.Lock()
        self._started: Announcement | None = None

    # -- what happens

    def started(self) -> None:
        """The worker has begun to take runs."""
        self._started = self._add(Announcement("prefect.worker.started"))

    def stopped(self) -> None:
        """The worker takes no more runs."""
        now = datetime.now(UTC)
        before = self._started
        tight = before is not None and (now - before.occurred).total_seconds() < TIGHT
        self._add(Announcement("prefect.worker.stopped", follows=before.id if before and tight else None, occurred=now))

    def launched(self, held: Held) -> None:
        """ECS has taken the run's task."""
        held.submitted = self._add(Announcement("prefect.worker.submitted-flow-run", held.run)).id
        if held.task is not None and held.task.last_status:
            self._status(held.run, held.task)

    def changed(self, held: Held, before: TaskFacts | None) -> None:
        """The task's facts are new; `before` are those known until now."""
        task = held.task
        known = before.last_status if before is not None else ""
        if task is None or task.last_status == known or not (known or task.stopped):
            return
        self._status(held.run, task)
        if task.stopped:
            container = task.container(held.placement.container) if held.placement is not None else None
            code = container.exit_code if container is not None else None
            tight = time.monotonic() - held.claimed_at < TIGHT
            self._add(
                Announcement(
                    "prefect.worker.executed-flow-run",
                    held.run,
                    identifier=held.identifier,
                    exit_code=NO_EXIT_CODE if code is None else code,
                    follows=held.submitted if tight else None,
                )
            )

    def _status(self, run: ClaimedRun, task: TaskFacts) -> None:
        moments = {
            "PROVISIONING": task.created_at,
            "RUNNING": task.started_at,
            "STOPPING": task.stopping_at,
            "STOPPED": task.stopped_at,
        }
        occurred = moments.get(task.last_status) or datetime.now(UTC)
        self._add(Announcement(f"prefect.ecs.task.{task.last_status.lower()}", run, task, occurred=occurred))

    def _add(self, announcement: Announcement) -> Announcement:
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(announcement)
        return announcement

    # -- sending

    async def run(self) -> None:
        """Send what waits, every `SECONDS`."""
        while True:
            await anyio.sleep(SECONDS)
            await self.once()

    async def once(self) -> None:
        """Send all that waits. What can't be sent now waits on."""
        async with self._sending:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), PER_REQUEST))]
                try:
                    await self._api.write_events([self._document(announcement) for announcement in batch])
                except PrefectRejected as error:
                    log.warning("%d events were dropped, since the Prefect API refuses them: %s", len(batch), error)
                except PrefectError as error:
                    self._waiting.extendleft(reversed(batch))
                    if not self._failing:
                        log.warning("Events wait, since the Prefect API does not take them: %s", error)
                    self._failing = True
                    return
            self._failing = False
            if self._dropped:
                log.warning("%d events were dropped: the Prefect API took none for too long.", self._dropped)
                self._dropped = 0

    # -- shapes

    def _document(self, announcement: Announcement) -> dict[str, Any]:
        """The event as `POST /events` takes it."""
        run, task = announcement.run, announcement.task
        worker = self._worker_resource()
        related = self._related(run) if run is not None else [self._pool()]
        if task is not None:
            related.append({**worker, "prefect.resource.role": "worker"})
        if announcement.exit_code is not None:
            related[0]["prefect.infrastructure.identifier"] = announcement.identifier
            related[0]["prefect.infrastructure.status-code"] = str(announcement.exit_code)
        return {
            "id": str(announcement.id),
            "occurred": announcement.occurred.isoformat(),
            "event": announcement.event,
            "resource": _task_resource(task) if task is not None else worker,
            "related": related,
            "payload": _payload(task) if task is not None else {},
            "follows": str(announcement.follows) if announcement.follows is not None else None,
        }

    def _worker_resource(self) -> dict[str, str]:
        resource = {
            "prefect.resource.id": f"prefect.worker.ecs.{slug(self._worker)}",
            "prefect.resource.name": self._worker,
            "prefect.worker-type": "ecs",
            "ecs-worker.version": __version__,
        }
        version = self._surroundings.server_version
        return resource | ({"prefect.version": version} if version else {})

    def _related(self, run: ClaimedRun) -> list[dict[str, str]]:
        related = [
            _related("flow-run", run.run_id, run.name),
            _related("flow", run.flow_id, self._names.get(run.flow_id)),
        ]
        if run.deployment_id is not None:
            related.append(_related("deployment", run.deployment_id, self._names.get(run.deployment_id)))
        related.append(self._pool())
        room = MOST_RELATED - len(related) - 1  # for the worker
        related += [
            {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}
            for tag in sorted(run.tags)[:room]
        ]
        return related

    def _pool(self) -> dict[str, str]:
        pool = self._surroundings.pool
        return _related("work-pool", pool.id, pool.name)


def _related(kind: str, its_id: UUID, name: str | None) -> dict[str, str]:
    resource = {"prefect.resource.id": f"prefect.{kind}.{its_id}", "prefect.resource.role": kind}
    return resource | ({"prefect.resource.name": name} if name else {})


def _task_resource(task: TaskFacts) -> dict[str, str]:
    labels = {
        "prefect.resource.id": f"prefect.ecs.task.{task.task_id}",
        "ecs.taskArn": task.arn,
        "ecs.clusterArn": task.cluster_arn,
        "ecs.taskDefinitionArn": task.definition_arn,
    }
    return {label: value for label, value in labels.items() if value}


def _payload(task: TaskFacts) -> dict[str, str]:
    """Why the task stopped, in ECS's words. Never its overrides: they hold the run's environment."""
    told = {"stopCode": task.stop_code, "stoppedReason": task.stopped_reason}
    return {name: value for name, value in told.items() if value}


def slug(name: str) -> str:
    """The worker's name as resource ids have it: what Prefect's `slugify` makes of Latin names."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    without_commas = re.sub(r"(?<=\d),(?=\d)", "", plain)  # 1,000 is 1000
    return re.sub(r"[^a-z0-9]+", "-", without_commas).strip("-") or name
