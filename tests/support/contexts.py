"""What is known of a run in tests of its job."""

from __future__ import annotations

from uuid import UUID

from ecs_worker.job.configuration import FlowRunContext
from ecs_worker.model import ClaimedRun

CONTEXT = FlowRunContext(
    run=ClaimedRun(UUID(int=1), "run", UUID(int=9), UUID(int=2), UUID(int=3), {}),
    flow_name="flow",
    pool_id=UUID(int=4),
    pool_name="pool",
    worker_name="w1",
    region="eu-west-1",
    server_version="3.8.8",
    python_version="3.12",
)
