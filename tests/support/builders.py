"""Values that many tests need, with what the test doesn't care about filled in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from ecs_worker.job.context import FlowRunContext
from ecs_worker.model import ClaimedRun

if TYPE_CHECKING:
    from collections.abc import Mapping


def claimed_run(
    run_id: UUID | str | None = None,
    *,
    name: str = "run",
    job_variables: Mapping[str, Any] | None = None,
    **fields: Any,
) -> ClaimedRun:
    """A claimed run of a flow without a deployment; ids are new ones where none are given."""
    ids = {"claim_id": uuid4(), "flow_id": uuid4(), "deployment_id": None}
    known = UUID(run_id) if isinstance(run_id, str) else run_id or uuid4()
    return ClaimedRun(run_id=known, name=name, job_variables=job_variables or {}, **(ids | fields))


ANY_RUN = FlowRunContext(
    run=claimed_run(UUID(int=1), claim_id=UUID(int=9), flow_id=UUID(int=2), deployment_id=UUID(int=3)),
    flow_name="flow",
    pool_id=UUID(int=4),
    pool_name="pool",
    worker_name="w1",
    region="eu-west-1",
    server_version="3.8.8",
    python_version="3.12",
)
"""What is known of a run in tests of its job."""
