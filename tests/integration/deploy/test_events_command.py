"""`ecs-worker deploy events`: a queue of its own for a worker that runs elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support import stacks
from support.command_line import Ended, ecs_worker
from support.embedded import Aws, fresh
from support.servers.worker import environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio
CLUSTER = "arn:aws:ecs:us-east-1:123456789012:cluster/default"


async def events(home: Path, aws: Aws, *options: str) -> Ended:
    return await ecs_worker(home, "deploy", "events", *options, env=environment(home, aws_url=aws.url), whole=True)


async def pattern_of(aws: Aws, stack: str) -> dict[str, list[str]]:
    (rule,) = (await aws.events.list_rules(NamePrefix=stack))["Rules"]
    detail: dict[str, list[str]] = json.loads(rule["EventPattern"])["detail"]
    return detail


async def test_a_queue_is_made_changed_and_named(aws: Aws, tmp_path: Path) -> None:
    pool = fresh("pool")
    name = f"ecs-worker-events-{pool}"
    shown = await events(tmp_path, aws, "--pool", pool, "--cluster", "default", "--dry-run")
    assert shown.code == 0, shown
    assert {line.strip() for line in shown.out.splitlines()} >= {
        "+ AWS::SQS::Queue Queue",
        "+ AWS::Events::Rule Rule",
        "+ AWS::SQS::QueuePolicy QueuePolicy",
    }
    with pytest.raises(aws.cloudformation.exceptions.ClientError, match="does not exist"):
        await aws.cloudformation.describe_stacks(StackName=name)

    made = await events(tmp_path, aws, "--pool", pool, "--cluster", "default", "--yes")
    assert made.code == 0, made
    (stack,) = (await aws.cloudformation.describe_stacks(StackName=name))["Stacks"]
    queue = stacks.outputs(stack)["EventsQueueName"]
    assert f"--events-queue {queue}`" in made.out
    assert (await aws.sqs.get_queue_url(QueueName=queue))["QueueUrl"]
    assert (await pattern_of(aws, name))["clusterArn"] == [CLUSTER]

    again = await events(tmp_path, aws, "--pool", pool, "--yes")
    assert (again.code, "already up to date" in again.out, queue in again.out) == (0, True, True), again
    assert (await pattern_of(aws, name))["clusterArn"] == [CLUSTER], "what is not given stays"
    # It is no deployed worker.
    listed = await ecs_worker(tmp_path, "deploy", "list", env=environment(tmp_path, aws_url=aws.url), whole=True)
    assert (listed.code, name in listed.out) == (0, False), listed
    env = environment(tmp_path, aws_url=aws.url)
    deleted = await ecs_worker(tmp_path, "deploy", "delete", name, "--yes", env=env, whole=True)
    assert (deleted.code, deleted.out) == (2, "")
    assert f"To remove it: aws cloudformation delete-stack --stack-name {name}" in deleted.err
    await aws.cloudformation.delete_stack(StackName=name)


async def test_what_can_not_be_is_told_in_a_sentence(aws: Aws, tmp_path: Path) -> None:
    pool = fresh("pool")
    nowhere = await events(tmp_path, aws, "--pool", pool, "--cluster", "nowhere", "--yes")
    assert (nowhere.code, nowhere.out) == (2, "")
    assert "--cluster is 'nowhere', but there is no such active cluster in us-east-1" in nowhere.err
    nobody = await events(tmp_path, aws, "--cluster", "default")
    assert (nobody.code, "--pool is missing" in nobody.err) == (2, True)
    await stacks.create(
        aws, pool, await stacks.least_parameters(aws, pool, "http://127.0.0.1:9/api") | {"DesiredCount": "0"}
    )
    taken = await events(tmp_path, aws, "--pool", pool, "--stack-name", pool, "--yes")
    assert (taken.code, taken.out) == (2, "")
    assert "is no queue that `ecs-worker deploy events` has made: give another --stack-name." in taken.err
    await aws.cloudformation.delete_stack(StackName=pool)
