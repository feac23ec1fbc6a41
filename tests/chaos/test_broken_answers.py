"""A thousand broken answers to every call to both APIs: each becomes that API's own error, or something usable."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecs_worker.aws.limits import Limits
from ecs_worker.aws.session import Aws
from ecs_worker.aws.sqs import Message
from ecs_worker.errors import AwsError, PrefectError
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings
from support.clocks import HandTime
from support.prefect_calls import PREFECT_CALLS
from support.servers.scripted import Answer, scripted
from support.simulator.helpers import point_at

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from support.servers.scripted import ScriptedServer

C = TypeVar("C")
ANSWERS = 1_000
ARN = "arn:aws:ecs:us-east-1:123456789012:task/default/1"


def aws_call(service: str, call: str, *arguments: Any, **named: Any) -> Callable[[Aws], Coroutine[Any, Any, Any]]:
    async def ask(aws: Aws) -> None:
        await getattr(await getattr(aws, service)(), call)(*arguments, **named)

    return ask


AWS = {
    "RunTask": aws_call("ecs", "run_task", {"taskDefinition": "family"}),
    "DescribeTasks": aws_call("ecs", "describe_tasks", "default", [ARN]),
    "DescribeTasks, for its overrides": aws_call("ecs", "container_given", "default", ARN, "NAME"),
    "DescribeTasks, in halves": aws_call("ecs", "look_up", "default", [ARN]),
    "ListTasks": aws_call("ecs", "list_tasks", "default"),
    "StopTask": aws_call("ecs", "stop_task", "default", ARN, "why"),
    "RegisterTaskDefinition": aws_call("ecs", "register", {"family": "f", "containerDefinitions": []}, {}),
    "DeregisterTaskDefinition": aws_call("ecs", "deregister", "family:1"),
    "DescribeTaskDefinition": aws_call("ecs", "describe_definition", "family:1"),
    "ListTaskDefinitions": aws_call("ecs", "newest_revisions", "family", 3),
    "GetLogEvents": aws_call("logs", "get_log_events", "group", "stream"),
    "FilterLogEvents": aws_call("logs", "filter_log_events", "group", ["stream"]),
    "DescribeVpcs": aws_call("ec2", "default_vpc"),
    "DescribeSubnets": aws_call("ec2", "subnets", "vpc-1"),
    "DescribeNetworkInterfaces": aws_call("ec2", "interface", "0e:00:00:00:00:01"),
    "GetRole": aws_call("iam", "role_policies", "role"),
    "GetCallerIdentity": Aws.account,
    "GetQueueUrl": aws_call("sqs", "queue_url", "queue"),
    "ReceiveMessage": aws_call("sqs", "receive", "http://127.0.0.1/queue", 0),
    "DeleteMessageBatch": aws_call("sqs", "delete", "http://127.0.0.1/queue", [Message("{}", "receipt")]),
    "ChangeMessageVisibilityBatch": aws_call("sqs", "give_back", "http://127.0.0.1/queue", [Message("{}", "receipt")]),
    "GetObject": aws_call("s3", "read", "bucket", "key", most=1_000),
}
# The names that answers have, so that nonsense gets past the first look.
NAMES = (
    *("id", "name", "state", "type", "results", "token", "expiration", "value", "data", "work_queue_name", "items"),
    *("tasks", "taskArn", "taskArns", "task", "containers", "failures", "overrides", "containerOverrides", "createdAt"),
    *("taskDefinition", "taskDefinitionArn", "taskDefinitionArns", "family", "revision", "tags", "environment"),
    *("nextToken", "NextToken", "events", "message", "timestamp", "Messages", "Body", "QueueUrl"),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(NAMES), values, max_size=4)
bodies = (
    st.binary(max_size=60)
    | values.map(lambda value: json.dumps(value).encode())
    | objects.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(NAMES), st.lists(objects, max_size=2)).map(lambda v: json.dumps(v).encode())
    | objects.map(lambda value: json.dumps(value).encode()[:-3])
    | st.lists(st.sampled_from(NAMES), max_size=4).map(lambda tags: "".join(f"<{tag}>" for tag in tags).encode())
)


def feed(
    open_client: Callable[[str], AbstractAsyncContextManager[C]],
    call: Callable[[C], Coroutine[Any, Any, Any]],
    error: type[Exception],
) -> None:
    """Every body is the whole answer to the call, which may fail with that error; any other fails the test."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def begin() -> tuple[ScriptedServer, C]:
            server = await stack.enter_async_context(scripted(Answer()))
            return server, await stack.enter_async_context(open_client(f"http://{server.address}"))

        async def ask(body: bytes) -> None:
            kind = "text/xml" if body.startswith(b"<") else "application/json"
            server.answers = [Answer(content=body, headers={"Content-Type": kind})]
            with suppress(error):
                await call(client)

        server, client = runner.run(begin())

        @given(bodies)
        @settings(max_examples=ANSWERS, deadline=None, database=None)
        def feed_one(body: bytes) -> None:
            runner.run(ask(body))

        feed_one()
        runner.run(stack.aclose())
    assert len(server.requests) >= ANSWERS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PREFECT_CALLS)
def test_prefect_s(name: str) -> None:
    def client(url: str) -> PrefectClient:
        prefect = PrefectSettings(api_url=f"{url}/api", client_csrf_support_enabled=False)
        return PrefectClient(prefect, patience_seconds=0)

    feed(client, PREFECT_CALLS[name], PrefectError)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", AWS)
def test_aws_s(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def client(url: str) -> Aws:
        point_at(url, monkeypatch)
        return Aws(limits=Limits(clock=HandTime()))

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    feed(client, AWS[name], AwsError)
