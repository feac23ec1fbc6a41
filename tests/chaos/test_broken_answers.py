"""A thousand broken answers to every call to both APIs: each becomes that API's own error, or something usable."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from ecs_worker.aws.limits import Limits
from ecs_worker.aws.session import Aws
from ecs_worker.aws.sqs import Message
from ecs_worker.errors import AwsError, PrefectError
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.prefect_api.schemas import LogEntry, ProposedState, StateType
from ecs_worker.settings import PrefectSettings
from support.simulator.helpers import point_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

ANSWERS = 1_000
RUN = UUID(int=7)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ARN = "arn:aws:ecs:us-east-1:123456789012:task/default/1"

PREFECT: dict[str, Callable[[PrefectClient], Coroutine[Any, Any, Any]]] = {
    "health": lambda api: api.health(),
    "server_version": lambda api: api.server_version(),
    "read_pool": lambda api: api.read_pool("pool"),
    "create_pool": lambda api: api.create_pool("pool", {}),
    "update_pool": lambda api: api.update_pool("pool", description="x"),
    "heartbeat": lambda api: api.heartbeat("pool", "worker", 30),
    "workers": lambda api: api.workers("pool"),
    "queue_names": lambda api: api.queue_names("pool", ["queue"]),
    "newest_workers": lambda api: api.newest_workers("pool"),
    "scheduled_runs": lambda api: api.scheduled_runs("pool"),
    "propose_state": lambda api: api.propose_state(RUN, ProposedState(StateType.PENDING)),
    "read_run": lambda api: api.read_run(RUN),
    "update_run": lambda api: api.update_run(RUN, infrastructure_pid="x"),
    "label_run": lambda api: api.label_run(RUN, {"a": 1}),
    "runs": lambda api: api.runs(ids=[RUN]),
    "run_ids": lambda api: api.run_ids(pool="pool", states=[StateType.PENDING]),
    "count_runs": lambda api: api.count_runs([RUN]),
    "state_history": lambda api: api.state_history(RUN),
    "read_flow": lambda api: api.read_flow(RUN),
    "read_deployment": lambda api: api.read_deployment(RUN),
    "deployment_by_name": lambda api: api.deployment_by_name("flow/name"),
    "read_block_document": lambda api: api.read_block_document(RUN),
    "read_block_document_by_name": lambda api: api.read_block_document_by_name("secret", "name"),
    "read_variable": lambda api: api.read_variable("name"),
    "deployments": lambda api: api.deployments("pool"),
    "write_logs": lambda api: api.write_logs([LogEntry(RUN, 20, "line", NOW)]),
    "newest_logs": lambda api: api.newest_logs(RUN),
    "logs_between": lambda api: api.logs_between(RUN, NOW, NOW, most_pages=2),
    "write_events": lambda api: api.write_events([{"event": "x"}]),
    "renew_lease": lambda api: api.renew_lease(RUN, 30),
}


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


class Impatient:
    """A clock for AWS's request limits: whoever waits has waited."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self._now += seconds


class Oracle:
    """A server that gives one answer, whatever it is asked."""

    def __init__(self) -> None:
        self.body = b""
        self.asked = 0
        self.url = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Oracle]:
        async with AsyncExitStack() as stack:
            app = web.Application(client_max_size=2**20)
            app.router.add_route("*", "/{path:.*}", self._answer)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self

    async def _answer(self, request: web.Request) -> web.Response:
        await request.read()
        self.asked += 1
        kind = "text/xml" if self.body.startswith(b"<") else "application/json"
        return web.Response(body=self.body, content_type=kind)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PREFECT)
def test_prefect_s(name: str) -> None:
    with asyncio.Runner() as runner:
        oracle, stack = Oracle(), AsyncExitStack()

        async def begin() -> PrefectClient:
            await stack.enter_async_context(oracle.serve())
            settings = PrefectSettings(api_url=f"{oracle.url}/api", client_csrf_support_enabled=False)
            return await stack.enter_async_context(PrefectClient(settings, patience_seconds=0))

        api = runner.run(begin())

        @given(bodies)
        @settings(max_examples=ANSWERS, deadline=None, database=None)
        def feed(body: bytes) -> None:
            async def ask() -> None:
                oracle.body = body
                with suppress(PrefectError):  # every other way to fail fails the test
                    await PREFECT[name](api)

            runner.run(ask())

        feed()
        runner.run(stack.aclose())
    assert oracle.asked >= ANSWERS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", AWS)
def test_aws_s(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with asyncio.Runner() as runner:
        oracle, stack = Oracle(), AsyncExitStack()

        async def begin() -> Aws:
            await stack.enter_async_context(oracle.serve())
            point_at(oracle.url, monkeypatch)
            return await stack.enter_async_context(Aws(limits=Limits(clock=Impatient())))

        aws = runner.run(begin())

        @given(bodies)
        @settings(max_examples=ANSWERS, deadline=None, database=None)
        def feed(body: bytes) -> None:
            async def ask() -> None:
                oracle.body = body
                with suppress(AwsError):  # every other way to fail fails the test
                    await AWS[name](aws)

            runner.run(ask())

        feed()
        runner.run(stack.aclose())
    assert oracle.asked >= ANSWERS
