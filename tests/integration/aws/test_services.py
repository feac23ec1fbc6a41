"""ECS, CloudWatch Logs and EC2 through real clients, played by moto."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiobotocore.session
import pytest

from ecs_worker.aws.ecs import task_facts
from ecs_worker.aws.session import Aws
from ecs_worker.errors import AwsError
from ecs_worker.model import ContainerFacts
from ecs_worker.verdicts.classify import Kind, classify
from support.servers.scripted import Answer, scripted

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

pytestmark = pytest.mark.anyio


def administrator(service: str) -> AbstractAsyncContextManager[Any]:
    """A plain client, for what the worker never does itself."""
    client: AbstractAsyncContextManager[Any] = aiobotocore.session.get_session().create_client(
        service, region_name="eu-west-1"
    )
    return client


def definition(family: str) -> dict[str, Any]:
    return {
        "family": family,
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"],
        "cpu": "256",
        "memory": "512",
        "containerDefinitions": [{"name": "prefect", "image": "prefecthq/prefect", "memory": 512}],
        "tags": [{"key": "team", "value": "data"}],
    }


async def test_definitions(aws: Aws) -> None:
    ecs = await aws.ecs()
    first = await ecs.register(definition("etl"), {"ecs-worker:digest": "abc"})
    second = await ecs.register(definition("etl"), {})
    await ecs.register(definition("etl-other"), {})
    assert sorted(await ecs.newest_revisions("etl", 5)) == [first, second]
    assert await ecs.newest_revisions("absent", 5) == []

    found = await ecs.describe_definition(first)
    assert (found.arn, found.family, found.revision, found.status) == (first, "etl", 1, "ACTIVE")
    assert found.tags == {"team": "data", "ecs-worker:digest": "abc"}
    assert found.request["containerDefinitions"][0]["name"] == "prefect"
    assert not {"taskDefinitionArn", "revision", "status", "compatibilities", "registeredAt"} & set(found.request)
    assert "EC2" in found.compatibilities
    again = await ecs.register(found.request, {})
    assert again.endswith("etl:3"), "what is read back can be registered"

    await ecs.deregister(second)
    assert second not in await ecs.newest_revisions("etl", 5)
    with pytest.raises(AwsError) as caught:
        await ecs.describe_definition("nobody-registered-this")
    assert classify(caught.value).kind is Kind.PERMANENT


@pytest.mark.usefixtures("keys")
async def test_a_cluster_that_nobody_named_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    arn = "arn:aws:ecs:eu-west-1:1:task/default/" + "0" * 32
    answer = Answer(body={"tasks": [], "failures": [], "taskArns": [], "task": {"taskArn": arn}})
    async with scripted(answer) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        async with Aws() as aws:
            ecs = await aws.ecs()
            await ecs.describe_tasks("", [arn])
            await ecs.look_up("", [arn])
            await ecs.list_tasks("", started_by="me")
            await ecs.stop_task("", arn, "why")
            assert len(server.requests) == 4
            assert not any(b'"cluster"' in request.body for request in server.requests)
            await ecs.describe_tasks("mine", [arn])
            assert json.loads(server.requests[-1].body)["cluster"] == "mine"


async def test_tasks(aws: Aws) -> None:
    async with administrator("ecs") as admin:
        await admin.create_cluster(clusterName="flows")
    ecs = await aws.ecs()
    ec2 = await aws.ec2()
    vpc = await ec2.default_vpc()
    assert vpc is not None
    subnets = await ec2.subnets(vpc)
    assert len(subnets) >= 2
    await ecs.register(definition("tasks"), {})
    request = {
        "cluster": "flows",
        "taskDefinition": "tasks",
        "launchType": "FARGATE",
        "startedBy": "prefect/a/b",
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": subnets, "securityGroups": []}},
    }
    (task,), failures = await ecs.run_task(request)
    assert failures == []
    assert task.started_by == "prefect/a/b"

    assert await ecs.list_tasks("flows", started_by="prefect/a/b") == [task.arn]
    assert await ecs.list_tasks("flows", started_by="prefect/x/y") == []
    (described,), _ = await ecs.describe_tasks("flows", [task.arn])
    assert described.arn == task.arn
    assert described.container("prefect") is not None
    stopped = await ecs.stop_task("flows", task.arn, "cancelled")
    assert stopped.arn == task.arn


@pytest.mark.usefixtures("keys")
async def test_the_newest_revisions_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(Answer(body={"taskDefinitionArns": ["b:2", "b:1"]})) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        async with Aws() as aws:
            ecs = await aws.ecs()
            assert await ecs.newest_revisions("b", 2) == ["b:2", "b:1"]
    assert json.loads(server.requests[0].body) == {
        "familyPrefix": "b",
        "status": "ACTIVE",
        "sort": "DESC",
        "maxResults": 2,
    }


@pytest.mark.usefixtures("keys")
async def test_every_page_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [
        Answer(body={"taskArns": ["a", "b"], "nextToken": "1"}),
        Answer(body={"taskArns": [], "nextToken": "2"}),
        Answer(body={"taskArns": ["c"]}),
    ]
    async with scripted(*pages) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        async with Aws() as aws:
            ecs = await aws.ecs()
            assert await ecs.list_tasks("flows", started_by="x", desired_status="STOPPED") == ["a", "b", "c"]
    assert b"nextToken" not in server.requests[0].body
    assert b'"nextToken": "2"' in server.requests[2].body
    assert b'"desiredStatus": "STOPPED"' in server.requests[2].body


TASK = {
    "taskArn": "arn:aws:ecs:eu-west-1:1:task/flows/t",
    "clusterArn": "arn:aws:ecs:eu-west-1:1:cluster/flows",
    "taskDefinitionArn": "arn:aws:ecs:eu-west-1:1:task-definition/f:1",
    "lastStatus": "STOPPED",
    "desiredStatus": "STOPPED",
    "startedBy": "prefect/a/b",
    "stopCode": "EssentialContainerExited",
    "stoppedReason": "Essential container in task exited",
    "version": 7,
    "launchType": "FARGATE",
    "availabilityZone": "eu-west-1a",
    "cpu": "256",
    "memory": "512",
    "createdAt": 1767225600.5,
    "startedAt": 1767225601.0,
    "containers": [
        {"name": "prefect", "lastStatus": "STOPPED", "exitCode": 137, "reason": "OutOfMemoryError", "image": "i"},
        {"name": "side-car", "lastStatus": "STOPPED", "healthStatus": "UNKNOWN"},
    ],
}


@pytest.mark.usefixtures("keys")
async def test_all_that_ecs_tells_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"arn": "arn:x", "reason": "MISSING"}
    async with scripted(Answer(body={"tasks": [TASK], "failures": [missing]})) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        async with Aws() as aws:
            ecs = await aws.ecs()
            (task,), (failure,) = await ecs.describe_tasks("flows", ["t", "x"])
            (launched,), _ = await ecs.run_task({"taskDefinition": "f"})
    assert (failure.arn, failure.reason, failure.detail) == ("arn:x", "MISSING", "")
    assert task.version == 7
    assert task.created_at == datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)
    assert task.stopped_at is None
    assert task.containers == (
        ContainerFacts("prefect", 137, "OutOfMemoryError"),
        ContainerFacts("side-car", None, ""),
    )
    assert launched == task, "botocore's own reading and ours give the same"


async def test_events_are_read_like_answers() -> None:
    detail = {**TASK, "createdAt": "2026-01-01T00:00:00.5Z", "startedAt": "2026-01-01T00:00:01Z"}
    assert task_facts(detail) == task_facts(TASK)


async def test_a_log_stream_is_read_to_its_end(aws: Aws) -> None:
    now = int(datetime.now(UTC).timestamp() * 1000)
    async with administrator("logs") as admin:
        await admin.create_log_group(logGroupName="/ecs/prefect")
        for stream in ("p/c/1", "p/c/2"):
            await admin.create_log_stream(logGroupName="/ecs/prefect", logStreamName=stream)
            events = [{"timestamp": now + n, "message": f"{stream} line {n}"} for n in range(5)]
            await admin.put_log_events(logGroupName="/ecs/prefect", logStreamName=stream, logEvents=events)
    logs = await aws.logs()
    lines: list[str] = []
    token: str | None = None
    while True:
        events_read, following = await logs.get_log_events("/ecs/prefect", "p/c/1", token, limit=2)
        lines += [event.message for event in events_read]
        if following == token:
            break
        token = following
    assert lines == [f"p/c/1 line {n}" for n in range(5)]
    last, _ = await logs.get_log_events("/ecs/prefect", "p/c/1", start_from_head=False, limit=2)
    assert [event.message for event in last] == ["p/c/1 line 3", "p/c/1 line 4"]
    assert last[0].timestamp == now + 3


async def test_all_policies_of_a_role_are_read(aws: Aws) -> None:
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ecs:RunTask", "Resource": "*"}]}
    text = json.dumps(document)
    older = text.replace("ecs:RunTask", "ecs:StopTask")
    async with administrator("iam") as admin:
        limit = (await admin.create_policy(PolicyName="limit", PolicyDocument=text))["Policy"]["Arn"]
        await admin.create_role(RoleName="many", AssumeRolePolicyDocument="{}", PermissionsBoundary=limit)
        for number in range(101):  # IAM lists a hundred at a time
            await admin.put_role_policy(RoleName="many", PolicyName=f"inline-{number}", PolicyDocument=text)
        managed = (await admin.create_policy(PolicyName="managed", PolicyDocument=older))["Policy"]["Arn"]
        await admin.create_policy_version(PolicyArn=managed, PolicyDocument=text, SetAsDefault=True)
        await admin.attach_role_policy(RoleName="many", PolicyArn=managed)
    iam = await aws.iam()
    found = await iam.role_policies("many")
    assert found.arn.endswith(":role/many")
    assert set(found.policies) == {"managed", *(f"inline-{number}" for number in range(101))}
    assert all(policy == document for policy in found.policies.values())
    assert found.boundary == ("limit", document)
    with pytest.raises(AwsError) as caught:
        await iam.role_policies("absent")
    assert caught.value.code == "NoSuchEntity"


async def test_several_streams_are_read_at_once(aws: Aws) -> None:
    now = int(datetime.now(UTC).timestamp() * 1000)
    async with administrator("logs") as admin:
        await admin.create_log_group(logGroupName="/ecs/filter")
        for stream in ("a", "b", "c"):
            await admin.create_log_stream(logGroupName="/ecs/filter", logStreamName=stream)
            events = [{"timestamp": now + n, "message": f"{stream}{n}"} for n in range(3)]
            await admin.put_log_events(logGroupName="/ecs/filter", logStreamName=stream, logEvents=events)
    logs = await aws.logs()
    read = []
    token: str | None = None
    while True:
        events_read, token = await logs.filter_log_events("/ecs/filter", ["a", "b"], start_time=now + 1, token=token)
        read += events_read
        if token is None:
            break
    assert {(event.stream, event.message) for event in read} == {("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b2")}
    assert len({event.event_id for event in read}) == 4


async def test_a_stream_or_group_that_is_not_there(aws: Aws) -> None:
    async with administrator("logs") as admin:
        await admin.create_log_group(logGroupName="/ecs/empty")
    logs = await aws.logs()
    for group in ("/ecs/empty", "/ecs/absent"):
        with pytest.raises(AwsError) as caught:
            await logs.get_log_events(group, "p/c/1")
        assert caught.value.code == "ResourceNotFoundException"


async def test_an_unknown_vpc_has_no_subnets(aws: Aws) -> None:
    ec2 = await aws.ec2()
    assert await ec2.subnets("vpc-00000000") == []


@pytest.mark.usefixtures("keys")
async def test_no_default_vpc(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(Answer(text="<DescribeVpcsResponse><vpcSet/></DescribeVpcsResponse>")) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        async with Aws() as aws:
            ec2 = await aws.ec2()
            assert await ec2.default_vpc() is None
    assert b"Filter.1.Name=is-default" in server.requests[0].body
