"""Whole workers that listen to a queue: what would take an hour by polling is told within seconds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aioboto3
import pytest

from ecs_worker.local.server import EmbeddedAws
from support.builders import quick_template
from support.paths import EXAMPLES
from support.servers.worker import WorkerProcess, worker
from support.simulator import AwsSimulator, EventFeed, FlowScript, TaskScript
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio

QUEUE = "task-events"
SELDOM = {"ECS_WORKER_WATCH_SECONDS": "3600"}
DIES = TaskScript(provisioning=0.2, pending=0.2, activating=0.2, flow=FlowScript(seconds=0.2, ends_as=None))
TEMPLATE = EXAMPLES / "events-queue.yaml"


@asynccontextmanager
async def listener(
    admin: Admin, directory: Path, pool: str, aws_url: str, *, name: str = "worker", **env: str
) -> AsyncIterator[WorkerProcess]:
    """A worker that listens to QUEUE and hardly polls."""
    options = ("--events-queue", QUEUE)
    given = {**SELDOM, **env}
    async with worker(directory, pool, *options, server=admin.server, aws_url=aws_url, name=name, env=given) as process:
        await process.wait_for_output("takes flow runs")
        yield process


async def make_pool(admin: Admin) -> str:
    return await admin.create_pool(base_job_template=quick_template())


async def test_ends_are_told_within_seconds_and_all_is_announced(admin3: Admin, tmp_path: Path) -> None:
    pool = await make_pool(admin3)
    async with AwsSimulator() as aws:
        aws.ecs.scripts.default = DIES
        aws.feed_events(QUEUE, EventFeed(duplicates=0.3, disorder=0.3))
        async with listener(admin3, tmp_path, pool, aws.url) as process:
            deployment = await admin3.create_deployment(pool)
            run_ids = await admin3.create_runs(deployment, 5)
            for run_id in run_ids:
                run = await admin3.wait_for_state(run_id, "CRASHED", seconds=20)
                assert "Essential container" in run["state"]["message"]
            assert await process.stop() == 0
        assert not [call for call in aws.calls if call.action == "DescribeTasks" and "app/" in call.caller]

    told: Counter[str] = Counter()
    wanted = Counter(
        {
            "prefect.worker.started": 1,
            "prefect.worker.submitted-flow-run": 5,
            "prefect.ecs.task.provisioning": 5,
            "prefect.ecs.task.stopped": 5,
            "prefect.worker.executed-flow-run": 5,
            "prefect.worker.stopped": 1,
        }
    )

    async def all_there() -> bool:
        told.clear()
        told.update(event["event"] for event in await events_of(admin3, pool))
        return wanted <= told

    await until(all_there, told=lambda: f"the server has only {told}")
    assert all(told[name] == number for name, number in wanted.items())


async def events_of(admin: Admin, pool: str) -> list[dict[str, Any]]:
    pool_id = (await admin.get(f"/work_pools/{pool}"))["id"]
    ours = {
        "event": {"prefix": ["prefect.worker.", "prefect.ecs."]},
        "any_resource": {"id": [f"prefect.work-pool.{pool_id}"]},
    }
    body = {"filter": ours, "limit": 50}  # the server's own limit
    events: list[dict[str, Any]] = (await admin.post("/events/filter", body))["events"]
    return events


async def test_two_workers_on_one_queue_each_hear_of_their_own(admin3: Admin, tmp_path: Path) -> None:
    """A colleague's message comes late, never to nobody."""
    async with AwsSimulator() as aws:
        aws.ecs.scripts.default = DIES
        aws.sqs.create_queue(QUEUE, 1.0)
        aws.feed_events(QUEUE)
        pools = [await make_pool(admin3) for _ in range(2)]
        async with (
            listener(admin3, tmp_path, pools[0], aws.url, name="first"),
            listener(admin3, tmp_path, pools[1], aws.url, name="second"),
        ):
            run_ids = [
                run_id for pool in pools for run_id in await admin3.create_runs(await admin3.create_deployment(pool), 3)
            ]
            for run_id in run_ids:
                await admin3.wait_for_state(run_id, "CRASHED", seconds=40)


async def test_without_its_queue_and_with_lost_events_polling_carries_on(admin3: Admin, tmp_path: Path) -> None:
    pool = await make_pool(admin3)
    async with AwsSimulator() as aws:
        aws.ecs.scripts.default = DIES
        async with listener(admin3, tmp_path, pool, aws.url, ECS_WORKER_WATCH_SECONDS="0.5") as process:
            deployment = await admin3.create_deployment(pool)
            await process.wait_for_output("can't be read from queue")
            await admin3.wait_for_state(await admin3.create_run(deployment), "CRASHED", seconds=20)
            aws.feed_events(QUEUE, EventFeed(losses=0.7))
            await process.wait_for_output("are read from queue", 20)
            for run_id in await admin3.create_runs(deployment, 3):
                await admin3.wait_for_state(run_id, "CRASHED", seconds=20)


async def test_the_examples_stack_feeds_the_queue(admin3: Admin, tmp_path: Path) -> None:
    """EventBridge, rule and queue as users deploy them; a container that dies is told by its event."""
    pool = await make_pool(admin3)
    session = aioboto3.Session(aws_access_key_id="any", aws_secret_access_key="any", region_name="us-east-1")
    async with EmbeddedAws() as aws:
        async with session.client("cloudformation", endpoint_url=aws.url) as stacks:
            await stacks.create_stack(
                StackName="ecs-worker-events",
                TemplateBody=TEMPLATE.read_text(encoding="utf-8"),
                Parameters=[{"ParameterKey": "QueueName", "ParameterValue": QUEUE}],
            )
            (stack,) = (await stacks.describe_stacks(StackName="ecs-worker-events"))["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        async with listener(admin3, tmp_path, pool, aws.url):
            variables = {"command": "sh -c 'exit 7'", "execution_role_arn": "arn:aws:iam::123456789012:role/execution"}
            deployment = await admin3.create_deployment(pool, job_variables=variables)
            began = time.monotonic()
            run = await admin3.wait_for_state(await admin3.create_run(deployment), "CRASHED", seconds=30)
            assert "7" in run["state"]["message"]
            assert time.monotonic() - began < 20
        async with session.client("sqs", endpoint_url=aws.url) as sqs:
            url = (await sqs.get_queue_url(QueueName=QUEUE))["QueueUrl"]
            left = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
            assert left["Attributes"]["ApproximateNumberOfMessages"] == "0"
            assert left["Attributes"]["MessageRetentionPeriod"] == "300"


def lint(template: Path) -> str:
    """What cfn-lint finds."""
    command = [str(Path(sys.executable).parent / "cfn-lint"), "--", str(template)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout


def test_the_stack_is_what_cloudformation_knows(tmp_path: Path) -> None:
    assert lint(TEMPLATE) == ""
    broken = tmp_path / "broken.yaml"
    broken.write_text(TEMPLATE.read_text(encoding="utf-8").replace("VisibilityTimeout", "VisibleTimeout"))
    assert "VisibleTimeout" in lint(broken), "a slip would be noticed"
