"""What rendering asks AWS and files: documents, the worker's own network; played by moto and a metadata endpoint."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aiobotocore.session
import anyio
import pytest

from ecs_worker.aws.session import Aws
from ecs_worker.errors import AwsError, JobInvalid, UserError
from ecs_worker.job.attached import Document
from ecs_worker.job.requests import NetworkNeed
from ecs_worker.lifecycle.rendering.files import MOST_BYTES, Documents
from ecs_worker.lifecycle.rendering.sources import WorkerSources
from ecs_worker.model import AwsTarget
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings
from ecs_worker.verdicts.classify import Kind, classify
from support.servers.scripted import Answer, scripted

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

pytestmark = pytest.mark.anyio


def administrator(service: str) -> AbstractAsyncContextManager[Any]:
    """A plain client, for what the worker never does itself."""
    session = aiobotocore.session.get_session()
    client: AbstractAsyncContextManager[Any] = session.create_client(service, region_name="eu-west-1")
    return client


INHERIT = NetworkNeed(None, inherit=True)


@pytest.fixture
async def bucket(aws: Aws) -> str:  # noqa: ARG001 - for its environment
    name = f"bucket-{uuid4().hex[:8]}"
    async with administrator("s3") as s3:
        await s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return name


def named(path: str) -> Document:
    return Document(path, "task_definition_path")


async def put(bucket: str, key: str, content: bytes) -> None:
    async with administrator("s3") as s3:
        await s3.put_object(Bucket=bucket, Key=key, Body=content)


async def test_an_object_is_read_again_only_when_it_has_changed(aws: Aws, bucket: str) -> None:
    await put(bucket, "a/definition.yaml", b"cpu: 512\n")
    s3 = await aws.s3()
    first = await s3.read(bucket, "a/definition.yaml", most=100)
    assert first is not None
    assert first.content == b"cpu: 512\n"
    assert await s3.read(bucket, "a/definition.yaml", most=100, etag=first.etag) is None
    await put(bucket, "a/definition.yaml", b"cpu: 1024\n")
    again = await s3.read(bucket, "a/definition.yaml", most=3, etag=first.etag)
    assert again is not None
    assert again.content == b"cpu"
    with pytest.raises(AwsError) as caught:
        await s3.read(bucket, "absent", most=100)
    assert caught.value.code == "NoSuchKey"


async def test_documents_on_s3(aws: Aws, bucket: str) -> None:
    path = f"s3://{bucket}/definition.yaml"
    await put(bucket, "definition.yaml", b"family: a # a comment\ncontainerDefinitions: [{name: flow}]\n")
    reader = Documents(aws)
    expected = {"family": "a", "containerDefinitions": [{"name": "flow"}]}
    assert await reader.read(named(path)) == expected
    await put(bucket, "definition.yaml", b'{"family": "b"}')
    assert await reader.read(named(path)) == expected, "fresh enough for a burst of runs"
    assert await Documents(aws).read(named(path)) == {"family": "b"}


async def test_a_document_that_has_not_changed_is_kept(aws: Aws, bucket: str) -> None:
    await put(bucket, "k", b"a: 1")
    reader = Documents(aws, fresh=0)
    first = await reader.read(named(f"s3://{bucket}/k"))
    assert await reader.read(named(f"s3://{bucket}/k")) is first
    await put(bucket, "k", b"a: 2")
    assert await reader.read(named(f"s3://{bucket}/k")) == {"a": 2}


@pytest.mark.parametrize(
    ("path", "content", "sentence"),
    [
        ("s3://{bucket}/absent", None, "task_definition_path: the worker can't read s3://{bucket}/absent: GetObject"),
        ("s3://no-such-bucket-here/k", None, "allow the worker s3:GetObject"),
        ("s3://{bucket}", None, "names no object; write s3://bucket/key"),
        ("s3://{bucket}/k", b"a: [hunter2", "is neither YAML nor JSON (line 1, column 12)"),
        ("s3://{bucket}/k", b"\xff\xfe\x00", "is neither YAML nor JSON"),
        ("s3://{bucket}/k", b"a: &a [1, 2]\nb: [" + b"*a, " * 4000 + b"]", "has more than 10000 values, counted with"),
        ("s3://{bucket}/k", b"a: &a [*a]", "says what JSON can't, like a list inside itself; correct it."),
        ("s3://{bucket}/k", b"a: .inf", "says what JSON can't"),
        ("/x\0y", None, r"task_definition_path: '/x\x00y' is no path; correct it."),
        ("s3://{bucket}/k", b"a: " + b"x" * MOST_BYTES, "has more than 1048576 bytes"),
    ],
)
async def test_objects_that_can_t_be_used(
    aws: Aws, bucket: str, path: str, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        await put(bucket, "k", content)
    with pytest.raises(JobInvalid) as caught:
        await Documents(aws).read(named(path.format(bucket=bucket)))
    assert sentence.format(bucket=bucket) in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.usefixtures("keys")
async def test_what_may_pass_is_not_the_user_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    async with scripted(Answer(status=503)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        async with Aws() as aws:
            with pytest.raises(AwsError):
                await Documents(aws).read(named("s3://b/k"))


@pytest.mark.usefixtures("keys")
async def test_an_object_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncpu: ")
        await reader.read()  # nothing more comes until the other side has gone
        writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.sockets[0].getsockname()[:2]))
    async with server, Aws() as aws:
        with anyio.fail_after(15), pytest.raises(AwsError) as caught:  # botocore's own bound is 20 s
            await Documents(aws, timeout=0.2).read(named("s3://b/k"))
        assert classify(caught.value).kind is Kind.AMBIGUOUS


# The worker's own network -------------------------------------------------------------------------------------


def live(aws: Aws) -> WorkerSources:
    return WorkerSources(PrefectClient(PrefectSettings(api_url="http://127.0.0.1:9/api")), aws)


def metadata(**network: Any) -> Answer:
    """As the endpoint answers, for the parts that count."""
    return Answer(body={"DockerId": "d", "Name": "worker", "Networks": [{"NetworkMode": "awsvpc", **network}]})


async def test_the_worker_s_own_network_is_inherited(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    async with administrator("ec2") as ec2:
        (subnet, *_) = (await ec2.describe_subnets())["Subnets"]
        group = await ec2.create_security_group(GroupName=uuid4().hex, Description="worker", VpcId=subnet["VpcId"])
        made = await ec2.create_network_interface(SubnetId=subnet["SubnetId"], Groups=[group["GroupId"]])
    mac = made["NetworkInterface"]["MacAddress"]
    async with scripted(metadata(MACAddress=mac)) as endpoint:
        monkeypatch.setenv("ECS_CONTAINER_METADATA_URI_V4", f"http://{endpoint.address}/v4/task")
        sources = live(aws)
        found = await sources.network(AwsTarget(), INHERIT)
        assert (list(found.subnets), list(found.security_groups), found.public_ip) == (
            [subnet["SubnetId"]],
            [group["GroupId"]],
            False,
        )
        assert await sources.network(AwsTarget(), INHERIT) is found, "kept"
        assert [request.path for request in endpoint.requests] == ["/v4/task"]
        with pytest.raises(UserError, match="can't be used for tasks in us-east-1: the worker's own network is in"):
            await sources.network(AwsTarget(region="us-east-1"), INHERIT)


async def test_a_worker_without_a_network_of_its_own_says_so(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECS_CONTAINER_METADATA_URI_V4", raising=False)
    with pytest.raises(UserError, match="inherit_network needs a worker that runs as an ECS task"):
        await live(aws).network(AwsTarget(), INHERIT)
    cases = [
        (Answer(body={"Networks": [{"NetworkMode": "bridge"}]}), UserError, "the network mode of its task is bridge"),
        (metadata(MACAddress="00:00:00:00:00:99"), UserError, "EC2 knows no network interface 00:00:00:00:00:99"),
        (Answer(status=500), AwsError, "task metadata endpoint"),
        (Answer(text="nothing"), AwsError, "task metadata endpoint"),
        (Answer(text="[]"), AwsError, "can't have come from AWS"),
        (Answer(body={"Networks": [None]}), AwsError, "task metadata endpoint"),
    ]
    for answer, kind, sentence in cases:
        async with scripted(answer) as endpoint:
            monkeypatch.setitem(os.environ, "ECS_CONTAINER_METADATA_URI_V4", f"http://{endpoint.address}/v4/task")
            with pytest.raises(kind) as caught:
                await live(aws).network(AwsTarget(), INHERIT)
            assert sentence in str(caught.value)


@pytest.mark.usefixtures("keys")
async def test_a_public_address_is_inherited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    interface = (
        "<item><subnetId>subnet-7</subnetId><groupSet><item><groupId>sg-7</groupId></item></groupSet>"
        "<association><publicIp>192.0.2.1</publicIp></association></item>"
    )
    answer = f"<R><networkInterfaceSet>{interface}</networkInterfaceSet></R>"
    async with scripted(Answer(text=answer)) as ec2, scripted(metadata(MACAddress="0e:00:00:00:00:01")) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{ec2.address}")
        monkeypatch.setenv("ECS_CONTAINER_METADATA_URI_V4", f"http://{endpoint.address}/v4/task")
        async with Aws() as aws:
            found = await live(aws).network(AwsTarget(), INHERIT)
    assert (list(found.subnets), list(found.security_groups), found.public_ip) == (["subnet-7"], ["sg-7"], True)
    assert b"Filter.1.Name=mac-address" in ec2.requests[0].body


async def test_the_networks_of_vpcs_are_looked_up_once(aws: Aws) -> None:
    sources = live(aws)
    default = await sources.network(AwsTarget(), NetworkNeed(None))
    assert default.subnets
    assert await sources.network(AwsTarget(), NetworkNeed(None)) is default
    assert list((await sources.network(AwsTarget(), NetworkNeed("vpc-absent"))).subnets) == []
