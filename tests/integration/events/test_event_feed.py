"""Events on real servers: their shapes, their batches, and that their loss disturbs nothing."""

from __future__ import annotations

import json
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from ecs_worker import __version__
from ecs_worker.lifecycle.journal.event_feed import MOST_WAITING, EventFeed
from ecs_worker.model import AwsTarget, ContainerFacts, Phase, Placement, TaskFacts
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.prefect_api.schemas import WorkPool
from ecs_worker.settings import PrefectSettings
from support.builders import PoolView, claimed_run, launch_request, placement, run_in
from support.servers.scripted import Answer, ScriptedServer, scripted
from support.simulator import ChaosProxy
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ecs_worker.lifecycle.run.run import Run
    from support.servers.prefect import Admin, PrefectServer

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC).replace(microsecond=0)
CLUSTER = "arn:aws:ecs:us-east-1:123456789012:cluster/flows"
ARN = "arn:aws:ecs:us-east-1:123456789012:task/flows/0123456789abcdef0123456789abcdef"
DEFINITION = "arn:aws:ecs:us-east-1:123456789012:task-definition/flow:7"
PROVISIONING = TaskFacts(ARN, CLUSTER, DEFINITION, "PROVISIONING", version=1, created_at=NOW - timedelta(seconds=60))
RUNNING = replace(PROVISIONING, last_status="RUNNING", version=4, started_at=NOW - timedelta(seconds=30))
STOPPED = replace(
    RUNNING,
    last_status="STOPPED",
    version=7,
    stopped_at=NOW,
    stop_code="EssentialContainerExited",
    stopped_reason="Essential container in task exited",
    containers=(ContainerFacts("side-car", exit_code=0), ContainerFacts("prefect", exit_code=137)),
)


def held(task: TaskFacts = PROVISIONING, *, names: tuple[str, str] | None = None, **fields: Any) -> Run:
    """A run with that task; `names` are its flow's and its deployment's."""
    flow_name, deployment_name = names or (None, None)
    where = Placement(AwsTarget(), "flows", "prefect", flow_name=flow_name, deployment_name=deployment_name)
    return run_in(Phase.STARTING, claim=claimed_run(**fields), where=where, task=task)


def goes_on(announce: EventFeed, run: Run, *tasks: TaskFacts) -> None:
    for task in tasks:
        if (change := run.seen(task)) is not None:
            announce.changed(run, change.before)


@asynccontextmanager
async def sending(*answers: Answer) -> AsyncIterator[tuple[EventFeed, ScriptedServer]]:
    """An announcer, and the server that takes (or refuses) what it sends."""
    async with scripted(*answers, Answer(204)) as server:
        settings = PrefectSettings(api_url=server.url, client_csrf_support_enabled=False)
        async with PrefectClient(settings) as api:
            yield EventFeed(api, "worker", PoolView()), server


def sent(server: ScriptedServer) -> list[list[dict[str, Any]]]:
    """The batches that came."""
    return [json.loads(request.body) for request in server.requests]


async def read_events(admin: Admin, number: int, **fields: Any) -> list[dict[str, Any]]:
    """The events that match, in the order in which they occurred, once there are so many."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        since = (NOW - timedelta(hours=1)).isoformat()
        end = (NOW + timedelta(hours=1)).isoformat()
        body = {"filter": {"occurred": {"since": since, "until": end}, "order": "ASC", **fields}, "limit": 50}
        found[:] = (await admin.post("/events/filter", body))["events"]
        return len(found) >= number

    await until(there)
    assert len(found) == number
    return found


def roles(event: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {related["prefect.resource.role"]: related for related in event["related"]}


async def test_the_lives_of_a_worker_and_a_run_as_events(admin3: Admin, api3: PrefectClient) -> None:
    flow_id, deployment_id, pool_id = uuid4(), uuid4(), uuid4()
    pool = PoolView(WorkPool(pool_id, "my-pool", "ecs"))
    announce = EventFeed(api3, "Worker of Ours", pool)
    announce.started()
    names = ("my-flow", "my-deployment")
    run = held(names=names, flow_id=flow_id, deployment_id=deployment_id, tags=("b", "a"))
    announce.launched(run)
    goes_on(announce, run, RUNNING, RUNNING, STOPPED, STOPPED)
    announce.stopped()
    await announce.flush()

    events = await read_events(admin3, 7, any_resource={"id": [f"prefect.work-pool.{pool_id}"]})
    assert [event["event"] for event in events] == [
        "prefect.ecs.task.provisioning",
        "prefect.ecs.task.running",
        "prefect.ecs.task.stopped",
        "prefect.worker.started",
        "prefect.worker.submitted-flow-run",
        "prefect.worker.executed-flow-run",
        "prefect.worker.stopped",
    ]
    provisioning, running, task_stopped, started, submitted, executed, stopped = events
    for event, occurred in (
        (provisioning, PROVISIONING.created_at),
        (running, RUNNING.started_at),
        (task_stopped, NOW),
    ):
        assert datetime.fromisoformat(event["occurred"]) == occurred
        assert event["resource"] == {
            "prefect.resource.id": f"prefect.ecs.task.{STOPPED.task_id}",
            "ecs.taskArn": ARN,
            "ecs.clusterArn": CLUSTER,
            "ecs.taskDefinitionArn": DEFINITION,
        }
        assert roles(event)["worker"]["prefect.resource.id"] == "prefect.worker.ecs.worker-of-ours"
    assert task_stopped["payload"] == {
        "stopCode": "EssentialContainerExited",
        "stoppedReason": "Essential container in task exited",
    }
    worker = {
        "prefect.resource.id": "prefect.worker.ecs.worker-of-ours",
        "prefect.resource.name": "Worker of Ours",
        "prefect.version": "3.8.8",
        "prefect.worker-type": "ecs",
        "ecs-worker.version": __version__,
    }
    flow_run = {
        "prefect.resource.id": f"prefect.flow-run.{run.id}",
        "prefect.resource.role": "flow-run",
        "prefect.resource.name": "run",
    }
    others = [
        {
            "prefect.resource.id": f"prefect.flow.{flow_id}",
            "prefect.resource.role": "flow",
            "prefect.resource.name": "my-flow",
        },
        {
            "prefect.resource.id": f"prefect.deployment.{deployment_id}",
            "prefect.resource.role": "deployment",
            "prefect.resource.name": "my-deployment",
        },
        {
            "prefect.resource.id": f"prefect.work-pool.{pool_id}",
            "prefect.resource.role": "work-pool",
            "prefect.resource.name": "my-pool",
        },
        {"prefect.resource.id": "prefect.tag.a", "prefect.resource.role": "tag"},
        {"prefect.resource.id": "prefect.tag.b", "prefect.resource.role": "tag"},
    ]
    assert all(event["resource"] == worker for event in (started, submitted, executed, stopped))
    assert started["related"] == stopped["related"] == [others[2]]
    assert submitted["related"] == [flow_run, *others]
    told = {"prefect.infrastructure.identifier": str(run.name), "prefect.infrastructure.status-code": "137"}
    assert executed["related"] == [flow_run | told, *others]
    assert executed["follows"] == submitted["id"]
    assert stopped["follows"] == started["id"]
    assert started["follows"] is submitted["follows"] is None


async def test_an_adopted_task_tells_only_what_is_new() -> None:
    async with sending() as (announce, server):
        run = held(TaskFacts(ARN))  # all that the run itself names
        goes_on(announce, run, RUNNING, replace(STOPPED, containers=()))
        await announce.flush()
        ((stopped, executed),) = sent(server)
        assert (stopped["event"], executed["event"]) == ("prefect.ecs.task.stopped", "prefect.worker.executed-flow-run")
        assert roles(executed)["flow-run"]["prefect.infrastructure.status-code"] == "-1"
        assert executed["follows"] is None


async def test_an_end_follows_the_launch_of_its_own_task() -> None:
    async with sending() as (announce, server):
        run = held()
        announce.launched(run)
        goes_on(announce, run, STOPPED)
        again = f"{ARN[:-1]}0"
        run.again()
        run.rendered(launch_request(placement("flows")))
        run.launched_as(replace(PROVISIONING, arn=again))
        announce.launched(run)
        goes_on(announce, run, replace(STOPPED, arn=again))
        await announce.flush()
        (events,) = sent(server)
        submitted = [event["id"] for event in events if event["event"] == "prefect.worker.submitted-flow-run"]
        executed = [event["follows"] for event in events if event["event"] == "prefect.worker.executed-flow-run"]
        assert executed == submitted


async def test_a_run_with_very_many_tags_is_not_refused(prefect3: PrefectServer) -> None:
    async with (
        ChaosProxy(prefect3.url.removesuffix("/api")) as proxy,
        PrefectClient(PrefectSettings(api_url=proxy.api_url)) as api,
    ):
        announce = EventFeed(api, "worker", PoolView())
        run = held(tags=tuple(f"tag-{number}" for number in range(200)), deployment_id=uuid4())
        goes_on(announce, run, RUNNING)
        await announce.flush()
        (post,) = [call for call in proxy.calls if call.action == "POST /events"]
        assert post.outcome == "204"


async def test_events_go_in_batches() -> None:
    async with sending() as (announce, server):
        for _ in range(125):
            announce.launched(held())  # two each
        await announce.flush()
        assert [len(batch) for batch in sent(server)] == [100, 100, 50]


async def test_while_the_api_takes_none_they_wait_and_the_oldest_go(caplog: pytest.LogCaptureFixture) -> None:
    async with sending(Answer(401), Answer(401)) as (announce, server):
        run = held()
        for _ in range(MOST_WAITING):
            announce.launched(run)  # two each
        with caplog.at_level(logging.WARNING):
            await announce.flush()
            await announce.flush()
            assert len(server.requests) == 2
            assert caplog.text.count("Events wait") == 1
            await announce.flush()
        assert sum(len(batch) for batch in sent(server)[2:]) == MOST_WAITING
        assert f"{MOST_WAITING} events were dropped" in caplog.text


async def test_what_the_api_refuses_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async with sending(Answer(422)) as (announce, server):
        for _ in range(2):
            announce.started()
            await announce.flush()
        first, second = sent(server)
        assert first[0]["id"] != second[0]["id"]
    assert "1 events were dropped" in caplog.text


async def test_events_tell_nothing_of_the_job() -> None:
    async with sending() as (announce, server):
        secret = {"env": {"TOKEN": "a-secret-value"}}
        run = held(job_variables=secret)
        announce.launched(run)
        goes_on(announce, run, RUNNING, STOPPED)
        await announce.flush()
        text = server.requests[0].body.decode()
        assert str(run.id) in text
        assert "a-secret-value" not in text
