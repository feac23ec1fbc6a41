"""Every call of the worker's client of the Prefect API, each with something to ask."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ecs_worker.prefect_api.schemas import LogEntry, ProposedState, StateType

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ecs_worker.prefect_api.client import PrefectClient

RUN = UUID(int=7)
NOW = datetime(2026, 1, 1, tzinfo=UTC)

PREFECT_CALLS: dict[str, Callable[[PrefectClient], Coroutine[Any, Any, Any]]] = {
    "health": lambda api: api.health(),
    "server_version": lambda api: api.server_version(),
    "read_pool": lambda api: api.read_pool("pool"),
    "create_pool": lambda api: api.create_pool("pool", {}),
    "update_pool": lambda api: api.update_pool("pool", description="x"),
    "heartbeat": lambda api: api.heartbeat("pool", "worker", 30),
    "workers": lambda api: api.workers("pool"),
    "queue_names": lambda api: api.queue_names("pool", ["queue"]),
    "newest_workers": lambda api: api.newest_workers("pool"),
    "scheduled_runs": lambda api: api.scheduled_runs("pool"),
    "propose_state": lambda api: api.propose_state(RUN, ProposedState(StateType.PENDING)),
    "read_run": lambda api: api.read_run(RUN),
    "update_run": lambda api: api.update_run(RUN, infrastructure_pid="x"),
    "label_run": lambda api: api.label_run(RUN, {"a": 1}),
    "runs": lambda api: api.runs(ids=[RUN]),
    "run_ids": lambda api: api.run_ids(pool="pool", states=[StateType.PENDING]),
    "count_runs": lambda api: api.count_runs([RUN]),
    "state_history": lambda api: api.state_history(RUN),
    "read_flow": lambda api: api.read_flow(RUN),
    "read_deployment": lambda api: api.read_deployment(RUN),
    "deployment_by_name": lambda api: api.deployment_by_name("flow/name"),
    "read_block_document": lambda api: api.read_block_document(RUN),
    "read_block_document_by_name": lambda api: api.read_block_document_by_name("secret", "name"),
    "read_variable": lambda api: api.read_variable("name"),
    "deployments": lambda api: api.deployments("pool"),
    "write_logs": lambda api: api.write_logs([LogEntry(RUN, 20, "line", NOW)]),
    "newest_logs": lambda api: api.newest_logs(RUN),
    "logs_between": lambda api: api.logs_between(RUN, NOW, NOW, most_pages=2),
    "write_events": lambda api: api.write_events([{"event": "x"}]),
    "renew_lease": lambda api: api.renew_lease(RUN, 30),
}
