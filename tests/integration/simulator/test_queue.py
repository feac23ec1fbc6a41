from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.simulator.helpers import DEFINITION, code_of, run_task
from support.simulator.shapes import output_problems
from support.simulator.sqs import EventFeed
from support.simulator.tasks import TaskScript
from support.waiting import until

if TYPE_CHECKING:
    from support.clients import Clients
    from support.simulator.aws import AwsSimulator

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sqs(aws: AwsSimulator, clients: Clients) -> Any:
    aws.clock.set_speed(0)
    return await clients.make("sqs")


async def all_events(sqs: Any, url: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while True:
        answer = await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
        if "Messages" not in answer:
            return events
        events += [json.loads(message["Body"]) for message in answer["Messages"]]


async def test_a_message_comes_back_until_it_is_deleted(aws: AwsSimulator, sqs: Any) -> None:
    url = (await sqs.create_queue(QueueName="q", Attributes={"VisibilityTimeout": "20"}))["QueueUrl"]
    assert (await sqs.get_queue_url(QueueName="q"))["QueueUrl"] == url
    await sqs.send_message(QueueUrl=url, MessageBody="hello")
    first = (await sqs.receive_message(QueueUrl=url, AttributeNames=["All"]))["Messages"][0]
    assert (first["Body"], first["Attributes"]["ApproximateReceiveCount"]) == ("hello", "1")
    assert "Messages" not in await sqs.receive_message(QueueUrl=url)
    attributes = (await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]))["Attributes"]
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "1"
    aws.advance(20)
    again = (await sqs.receive_message(QueueUrl=url, AttributeNames=["All"]))["Messages"][0]
    assert again["Attributes"]["ApproximateReceiveCount"] == "2"
    await sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=again["ReceiptHandle"], VisibilityTimeout=0)
    third = (await sqs.receive_message(QueueUrl=url))["Messages"][0]
    await sqs.delete_message(QueueUrl=url, ReceiptHandle=third["ReceiptHandle"])
    aws.advance(100)
    assert "Messages" not in await sqs.receive_message(QueueUrl=url)
    assert aws.sqs.queues["q"].deleted == 1


async def test_batches_name_what_failed(aws: AwsSimulator, sqs: Any) -> None:
    queue = aws.sqs.create_queue("q")
    for n in range(2):
        queue.send(f"{n}")
    url = (await sqs.get_queue_url(QueueName="q"))["QueueUrl"]
    first, second = (await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10))["Messages"]
    entries = [{"Id": "a", "ReceiptHandle": first["ReceiptHandle"]}, {"Id": "b", "ReceiptHandle": "nonsense"}]
    answer = await sqs.delete_message_batch(QueueUrl=url, Entries=entries)
    assert [done["Id"] for done in answer["Successful"]] == ["a"]
    assert [failed["Id"] for failed in answer["Failed"]] == ["b"]
    entries = [{"Id": "c", "ReceiptHandle": second["ReceiptHandle"], "VisibilityTimeout": 0}]
    await sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)
    assert len((await sqs.receive_message(QueueUrl=url))["Messages"]) == 1
    await sqs.purge_queue(QueueUrl=url)
    assert queue.counts() == (0, 0)
    await sqs.delete_queue(QueueUrl=url)
    assert await code_of(sqs.receive_message(QueueUrl=url)) == "AWS.SimpleQueueService.NonExistentQueue"


async def test_a_long_poll_ends_with_the_first_message(aws: AwsSimulator, sqs: Any) -> None:
    queue = aws.sqs.create_queue("q")
    url = (await sqs.get_queue_url(QueueName="q"))["QueueUrl"]
    before = time.monotonic()
    polling = asyncio.ensure_future(sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20))

    async def arrived() -> bool:
        return aws.calls[-1].action == "ReceiveMessage"

    await until(arrived)
    queue.send("hello")
    assert (await polling)["Messages"][0]["Body"] == "hello"
    assert "Messages" not in await sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1)
    assert 1 <= time.monotonic() - before < 15


async def test_task_events_are_what_eventbridge_sends(aws: AwsSimulator, sqs: Any, ecs: Any) -> None:
    aws.feed_events("events")
    aws.logs.create_group("flows")
    aws.ecs.scripts.default = TaskScript(running=5, exit_code=2)
    await ecs.register_task_definition(**DEFINITION)
    task = (await ecs.run_task(**run_task(startedBy="me", tags=[{"key": "a", "value": "b"}])))["tasks"][0]
    aws.advance(60)
    url = (await sqs.get_queue_url(QueueName="events"))["QueueUrl"]
    events = await all_events(sqs, url)
    details = [event["detail"] for event in events]
    assert [d["lastStatus"] for d in details] == ["PROVISIONING", "PENDING", "ACTIVATING", "RUNNING", "STOPPED"]
    assert [d["version"] for d in details] == [1, 2, 3, 4, 5]
    last = events[-1]
    assert (last["source"], last["detail-type"]) == ("aws.ecs", "ECS Task State Change")
    assert last["resources"] == [task["taskArn"]]
    assert last["detail"]["startedBy"] == "me"
    assert last["detail"]["containers"][0]["exitCode"] == 2
    assert last["detail"]["stoppedAt"].endswith("Z")
    assert "tags" not in last["detail"]
    assert output_problems("ecs", "DescribeTasks", {"tasks": [_numbered(last["detail"])]}) == []


def _numbered(detail: dict[str, Any]) -> dict[str, Any]:
    """Events write times as text and add updatedAt; the rest is a task's."""
    return {k: 0 if k.endswith("At") else v for k, v in detail.items() if k != "updatedAt"}


async def test_events_may_be_doubled_late_disordered_or_lost(aws: AwsSimulator, sqs: Any, ecs: Any) -> None:
    aws.logs.create_group("flows")
    await ecs.register_task_definition(**DEFINITION)
    aws.feed_events("events", EventFeed(duplicates=0.5, losses=0.2, delay=10, disorder=50))
    for _ in range(20):
        await ecs.run_task(**run_task())
    aws.advance(5)
    url = (await sqs.get_queue_url(QueueName="events"))["QueueUrl"]
    assert await all_events(sqs, url) == []
    aws.advance(100)
    events = await all_events(sqs, url)
    seen = [(event["detail"]["taskArn"], event["detail"]["version"]) for event in events]
    assert len(set(seen)) < len(seen)  # doubled
    assert len(set(seen)) < 100  # lost: each task has five statuses
    orders = [[v for a, v in seen if a == task.arn] for task in aws.launched]
    assert any(versions != sorted(versions) for versions in orders)


async def test_the_default_network_and_identity(aws: AwsSimulator, clients: Clients) -> None:
    ec2, sts = await clients.make("ec2"), await clients.make("sts")
    vpcs = (await ec2.describe_vpcs(Filters=[{"Name": "isDefault", "Values": ["true"]}]))["Vpcs"]
    assert [(vpc["VpcId"], vpc["IsDefault"]) for vpc in vpcs] == [("vpc-0default", True)]
    subnets = await ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": ["vpc-0default"]}])
    assert [subnet["SubnetId"] for subnet in subnets["Subnets"]] == ["subnet-0a", "subnet-0b", "subnet-0c"]
    zone = [{"Name": "availability-zone", "Values": ["us-east-1b"]}]
    assert len((await ec2.describe_subnets(Filters=zone))["Subnets"]) == 1
    assert await code_of(ec2.describe_subnets(SubnetIds=["subnet-nope"])) == "InvalidSubnetID.NotFound"
    assert len((await ec2.describe_security_groups(GroupIds=["sg-0default"]))["SecurityGroups"]) == 1
    aws.ec2.vpcs.clear()
    assert (await ec2.describe_vpcs())["Vpcs"] == []
    assert (await sts.get_caller_identity())["Account"] == "123456789012"
    role = await sts.assume_role(RoleArn="arn:aws:iam::999999999999:role/other", RoleSessionName="me")
    other = await clients.make("sts", key=role["Credentials"]["AccessKeyId"])
    assert (await other.get_caller_identity())["Account"] == "999999999999"
    assert (
        await code_of(sts.assume_role(RoleArn="arn:aws:iam::1:role/other", RoleSessionName="me")) == "ValidationError"
    )
