"""Values that many tests need, with what the test doesn't care about filled in."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from ecs_worker.job.context import FlowRunContext
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.lifecycle.journal.event_feed import EventFeed
from ecs_worker.lifecycle.journal.journal import Journal
from ecs_worker.lifecycle.journal.output import ContainerOutput
from ecs_worker.lifecycle.journal.run_logs import RunLogs
from ecs_worker.lifecycle.journal.sieve import Sieve
from ecs_worker.lifecycle.run.run import Run
from ecs_worker.model import AwsTarget, ClaimedRun, LaunchRequest, Phase, Placement, TaskFacts, TaskName
from ecs_worker.prefect_api.schemas import WorkPool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.journal.tail import Pace
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.prefect_api.client import PrefectClient


def quick_template() -> dict[str, Any]:
    """Our base job template, the schema of its variables without types and descriptions.

    Prefect's server checks the schema, and against it, at each pool, deployment and run: 0.1 s of CPU each time with
    the whole one, and half of all that these tests cost. What the server makes of the whole one is tried in
    integration/cli and integration/language.
    """
    template = default_base_job_template()
    properties = {
        name: {"default": schema["default"]} if "default" in schema else {}
        for name, schema in template["variables"]["properties"].items()
    }
    return template | {"variables": {"type": "object", "properties": properties}}


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


def task_arn(cluster: str = "default", task_id: str | None = None) -> str:
    """A task's ARN, a new one without `task_id`."""
    return f"arn:aws:ecs:us-east-1:123456789012:task/{cluster}/{task_id or uuid4().hex}"


def placement(cluster: str = "default", **fields: Any) -> Placement:
    """Where a task runs."""
    known: dict[str, Any] = {"target": AwsTarget(region="us-east-1"), "cluster": cluster, "container": "prefect"}
    return Placement(**(known | fields))


def launch_request(where: Placement | None = None, **fields: Any) -> LaunchRequest:
    """A request that reuses a definition."""
    known: dict[str, Any] = {"placement": where or placement(), "definition": "flow", "run_task": {}}
    return LaunchRequest(**(known | fields))


def run_in(
    phase: Phase,
    *,
    claim: ClaimedRun | None = None,
    where: Placement | None = None,
    task: TaskFacts | None = None,
    signed: bool = True,
    adopted: bool = False,
    held_until: datetime | None = None,
    clock: Callable[[], float] = time.monotonic,
    **request: Any,
) -> Run:
    """A run that has come to this phase the way that every run takes. `task`: as RunTask tells it."""
    run = Run(claim or claimed_run(), clock=clock)
    if phase is Phase.ABANDONED:
        run.abandoned("It could not be launched.")
    if phase in {Phase.CLAIMED, Phase.ABANDONED}:
        return run
    run.rendered(launch_request(where, **request))
    if phase is Phase.LAUNCHING:
        return run
    known = task or TaskFacts(task_arn())
    if adopted:
        run.adopted_as(known, TaskName((where or placement()).cluster, known.arn) if signed else None, held_until)
    else:
        run.launched_as(known)
        if signed:
            run.signing()
    if phase is not Phase.STARTING:
        running = replace(known, last_status="RUNNING", started_at=known.started_at or datetime.now(UTC))
        run.seen(running)
        if phase is Phase.STOPPED:
            run.seen(replace(running, last_status="STOPPED"))
    return run


class PoolView:
    """What a heartbeat would know."""

    def __init__(self, pool: WorkPool | None = None, version: str | None = "3.8.8") -> None:
        self.pool = pool or WorkPool(uuid4(), "pool", "ecs")
        self.server_version = version
        self.worker_id: UUID | None = None


def journal_of(api: PrefectClient, aws: Aws, ledger: Ledger, pace: Pace | None = None) -> Journal:
    """A journal whose loops don't run."""
    run_logs = RunLogs(api)
    return Journal(
        run_logs,
        EventFeed(api, "worker", PoolView()),
        ContainerOutput(aws, run_logs, Sieve(api), ledger, pace),
        "worker",
    )


class HandClock:
    """A clock that goes only when it is told to. Seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


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
