"""Events as `POST /events` takes them, of the kinds and shapes that Prefect's own ECS worker and observer send.

Values only: `journal/event_feed.py` sends them, and says what is lost if the process dies.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from ecs_worker import __version__

if TYPE_CHECKING:
    from ecs_worker.model import ClaimedRun, TaskFacts
    from ecs_worker.prefect_api.schemas import WorkPool

_MOST_RELATED = 100  # resources of an event; the server refuses more


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. The run and the task are shared with whoever knows them, so it is small.

    Without `run` it is of the worker's own life; with `task`, of what ECS did, and else of what the worker did.
    """

    name: str
    run: ClaimedRun | None = None
    flow_name: str | None = None  # None: not known
    deployment_name: str | None = None  # None: not known, or there is no deployment
    task: TaskFacts | None = None
    identifier: str = ""  # `infrastructure_pid`; told with the exit code
    exit_code: int | None = None  # of executed runs only
    follows: UUID | None = None
    occurred: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: UUID = field(default_factory=uuid4)


def to_json(event: Event, *, worker: str, pool: WorkPool, server_version: str | None) -> dict[str, Any]:
    """The event as `POST /events` takes it, told by this worker of this pool. `server_version` None: not known."""
    teller = _worker(worker, server_version)
    related = _related(event, pool)
    if event.task is not None:
        related.append({**teller, "prefect.resource.role": "worker"})
    return {
        "id": str(event.id),
        "occurred": event.occurred.isoformat(),
        "event": event.name,
        "resource": _task(event.task) if event.task is not None else teller,
        "related": related,
        "payload": _why_stopped(event.task) if event.task is not None else {},
        "follows": str(event.follows) if event.follows is not None else None,
    }


def _worker(name: str, server_version: str | None) -> dict[str, str]:
    resource = {
        "prefect.resource.id": f"prefect.worker.ecs.{slug(name)}",
        "prefect.resource.name": name,
        "prefect.worker-type": "ecs",
        "ecs-worker.version": __version__,
    }
    return resource | ({"prefect.version": server_version} if server_version else {})


def _task(task: TaskFacts) -> dict[str, str]:
    labels = {
        "prefect.resource.id": f"prefect.ecs.task.{task.task_id}",
        "ecs.taskArn": task.arn,
        "ecs.clusterArn": task.cluster_arn,
        "ecs.taskDefinitionArn": task.definition_arn,
    }
    return {label: value for label, value in labels.items() if value}


def _why_stopped(task: TaskFacts) -> dict[str, str]:
    """In ECS's words. Never the task's overrides: they hold the run's environment."""
    told = {"stopCode": task.stop_code, "stoppedReason": task.stopped_reason}
    return {name: value for name, value in told.items() if value}


def _related(event: Event, pool: WorkPool) -> list[dict[str, str]]:
    """The run and what it belongs to, the run first; of the worker's own life, only the pool."""
    its_pool = _object("work-pool", pool.id, pool.name)
    run = event.run
    if run is None:
        return [its_pool]
    its_run = _object("flow-run", run.run_id, run.name)
    if event.exit_code is not None:
        its_run["prefect.infrastructure.identifier"] = event.identifier
        its_run["prefect.infrastructure.status-code"] = str(event.exit_code)
    related = [its_run, _object("flow", run.flow_id, event.flow_name)]
    if run.deployment_id is not None:
        related.append(_object("deployment", run.deployment_id, event.deployment_name))
    related.append(its_pool)
    room = _MOST_RELATED - len(related) - 1  # for the worker
    tags = sorted(run.tags)[:room]
    return related + [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags]


def _object(kind: str, its_id: UUID, name: str | None) -> dict[str, str]:
    resource = {"prefect.resource.id": f"prefect.{kind}.{its_id}", "prefect.resource.role": kind}
    return resource | ({"prefect.resource.name": name} if name else {})


def slug(name: str) -> str:
    """The worker's name as resource ids have it: what Prefect's `slugify` makes of Latin names."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    without_commas = re.sub(r"(?<=\d),(?=\d)", "", plain)  # 1,000 is 1000
    return re.sub(r"[^a-z0-9]+", "-", without_commas).strip("-") or name
