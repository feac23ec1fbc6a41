from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError, HTTPClientError, ReadTimeoutError

from support.clients import Clients
from support.simulator.aws import AwsSimulator
from support.simulator.faults import Fault, Phase, Point, What, draw, fault, points_of
from support.simulator.helpers import DEFINITION, code_of, error_of, run_task
from support.simulator.service import Limit
from support.simulator.tasks import TaskScript
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def flows(aws: AwsSimulator, ecs: Any) -> Any:
    aws.logs.create_group("flows")
    aws.ecs.scripts.default = TaskScript(running=None)
    await ecs.register_task_definition(**DEFINITION)
    return ecs


@pytest.mark.parametrize(
    ("what", "service", "code", "status"),
    [
        (What.THROTTLE, "ecs", "ThrottlingException", 400),
        (What.THROTTLE, "logs", "ThrottlingException", 400),
        (What.THROTTLE, "ec2", "RequestLimitExceeded", 503),
        (What.THROTTLE, "sts", "Throttling", 400),
        (What.THROTTLE, "sqs", "RequestThrottled", 403),
        (What.DISGUISED_THROTTLE, "ecs", "InvalidParameterException", 400),
        (What.SERVER_ERROR, "ecs", "ServerException", 500),
        (What.SERVER_ERROR, "ec2", "InternalFailure", 500),
    ],
)
async def test_error_answers(
    aws: AwsSimulator, clients: Clients, what: What, service: str, code: str, status: int
) -> None:
    aws.fault(fault(what))
    client = await clients.make(service)
    calls = {
        "ecs": "list_clusters",
        "logs": "describe_log_groups",
        "ec2": "describe_vpcs",
        "sts": "get_caller_identity",
        "sqs": "list_queues",
    }
    answer = await error_of(getattr(client, calls[service])())
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
    if what is What.DISGUISED_THROTTLE:
        assert "Rate exceeded" in answer["Error"]["Message"]
    assert aws.calls[-1].what is what
    assert not aws.calls[-1].effect


@pytest.mark.parametrize("what", [What.SERVER_ERROR, What.LOST_BEFORE, What.HANG_BEFORE, What.THROTTLE])
async def test_faults_before_the_effect(aws: AwsSimulator, flows: Any, what: What) -> None:
    aws.fault(fault(what, action="RunTask", delay=0.01))
    with pytest.raises(Exception, match=r"RunTask|closed|127\.0\.0\.1"):
        await flows.run_task(**run_task())
    assert aws.launched == []
    assert not aws.calls[-1].effect


@pytest.mark.parametrize("what", [What.SERVER_ERROR_AFTER, What.LOST_AFTER, What.HANG_AFTER, What.TRUNCATED])
async def test_faults_after_the_effect(aws: AwsSimulator, flows: Any, what: What) -> None:
    aws.fault(fault(what, action="RunTask", delay=0.01, times=1))
    with pytest.raises(Exception, match=r"RunTask|closed|127\.0\.0\.1|[Pp]ayload"):
        await flows.run_task(**run_task(clientToken="t"))
    assert len(aws.launched) == 1
    again = await flows.run_task(**run_task(clientToken="t"))
    assert again["tasks"][0]["taskArn"] == aws.launched[0].arn
    assert len(aws.launched) == 1


async def test_a_lost_answer_is_a_closed_connection(aws: AwsSimulator, flows: Any) -> None:
    aws.fault(fault(What.LOST_AFTER, action="RunTask"))
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        await flows.run_task(**run_task())
    assert aws.calls[-1].outcome == "dropped"


async def test_a_hanging_call_ends_with_the_clients_patience(aws: AwsSimulator, clients: Clients, flows: Any) -> None:
    assert flows
    aws.fault(fault(What.HANG_AFTER, action="RunTask", times=1))
    impatient = await clients.make("ecs")
    impatient.meta.config.read_timeout = 0.2
    with pytest.raises((ReadTimeoutError, TimeoutError)):
        await asyncio.wait_for(impatient.run_task(**run_task()), 0.5)
    assert len(aws.launched) == 1


async def test_the_sdk_retries_through_faults(aws: AwsSimulator, clients: Clients, flows: Any) -> None:
    assert flows
    aws.fault(fault(What.LOST_AFTER, action="RunTask", nth=(1,)), fault(What.SERVER_ERROR, action="RunTask", nth=(2,)))
    patient = await clients.make("ecs", attempts=3)
    answer = await patient.run_task(**run_task())
    assert [task.arn for task in aws.launched] == [answer["tasks"][0]["taskArn"]]
    outcomes = [(c.occurrence, c.what, c.effect) for c in aws.calls if c.action == "RunTask"]
    assert outcomes == [(1, What.LOST_AFTER, True), (2, What.SERVER_ERROR, False), (3, None, True)]


async def test_conditions_of_rules(aws: AwsSimulator, flows: Any) -> None:
    aws.fault(
        fault(What.THROTTLE, action="Run*", containing="unlucky", nth=(2,)),
        fault(What.ERROR, action="StopTask", code="AccessDeniedException", message="no", status=403, times=1),
    )
    await flows.run_task(**run_task(startedBy="unlucky"))
    await flows.run_task(**run_task(startedBy="lucky"))
    assert await code_of(flows.run_task(**run_task(startedBy="unlucky"))) == "ThrottlingException"
    await flows.run_task(**run_task(startedBy="unlucky"))
    denied = await error_of(flows.stop_task(task="x"))
    assert denied["Error"] == {"Code": "AccessDeniedException", "Message": "no"}
    assert await code_of(flows.stop_task(task="x")) == "InvalidParameterException"
    aws.director.clear()
    assert aws.director.struck() == {"throttle": 1, "error": 1}


async def test_time_windows(aws: AwsSimulator, flows: Any) -> None:
    aws.fault(fault(What.THROTTLE, action="ListClusters", end=0.3), fault(What.THROTTLE, action="ListTasks", start=0.3))
    assert await code_of(flows.list_clusters()) == "ThrottlingException"
    await flows.list_tasks()

    async def turned() -> bool:
        return "ListClusters" in {c.action for c in aws.calls if c.outcome == "200"}

    async def try_both() -> bool:
        await asyncio.gather(flows.list_clusters(), flows.list_tasks(), return_exceptions=True)
        return await turned()

    await until(try_both)
    assert await code_of(flows.list_tasks()) == "ThrottlingException"


async def test_latency_adds_to_what_happens(aws: AwsSimulator, flows: Any) -> None:
    aws.fault(fault(What.LATENCY, delay=0.1), fault(What.LATENCY, delay=0.1), fault(What.THROTTLE))
    before = time.monotonic()
    assert await code_of(flows.list_clusters()) == "ThrottlingException"
    assert time.monotonic() - before >= 0.2


async def test_chance_is_the_seeds_and_not_the_timings() -> None:
    """The n-th call of an action meets the same fate whatever other calls come between."""

    def fates(seed: int, order: str) -> dict[str, list[str | None]]:
        simulator = AwsSimulator(seed=seed)
        simulator.fault(fault(What.THROTTLE, What.LOST_AFTER, probability=0.5))
        found: dict[str, list[str | None]] = {"a": [], "b": []}
        for action in order:
            call = simulator.director.receive(action, caller="me")
            simulator.director._decide(call)  # noqa: SLF001 - the decision alone, without a request
            found[action].append(call.what)
        return found

    assert fates(1, "ab" * 50) == fates(1, "a" * 50 + "b" * 50)
    assert fates(1, "ab" * 50) != fates(2, "ab" * 50)
    struck = [what for what in fates(1, "ab" * 50)["a"] if what]
    assert 10 < len(struck) < 40
    assert set(struck) == {What.THROTTLE, What.LOST_AFTER}
    assert 0 <= draw(1, "x") < 1


async def test_buckets_throttle_and_refill_by_the_clock() -> None:
    limits = {"reads": Limit(3, 0.5, ("ListClusters", "ListTasks"))}
    async with AwsSimulator(limits=limits, speed=0) as aws, AsyncExitStack() as stack:
        ecs = await Clients(aws.url, stack).make("ecs")
        for _ in range(3):
            await ecs.list_clusters()
        assert await code_of(ecs.list_tasks()) == "ThrottlingException"
        await ecs.describe_clusters()  # another bucket, which this table does not have
        aws.advance(2)
        await ecs.list_tasks()
        assert await code_of(ecs.list_tasks()) == "ThrottlingException"


async def test_fargate_counts_tasks_and_capacities_apart() -> None:
    async with AwsSimulator(limits="aws-fargate-small", speed=0) as aws, AsyncExitStack() as stack:
        ecs = await Clients(aws.url, stack).make("ecs")
        await ecs.register_task_definition(**DEFINITION)
        for _ in range(2):
            await ecs.run_task(**run_task(count=10))
        assert await code_of(ecs.run_task(**run_task(count=10))) == "ThrottlingException"
        spot = run_task(count=10, capacityProviderStrategy=[{"capacityProvider": "FARGATE_SPOT", "weight": 1}])
        del spot["launchType"]
        await ecs.run_task(**spot)
        assert len(aws.launched) == 30


async def test_a_call_is_held_before_and_after_its_effect(aws: AwsSimulator, flows: Any) -> None:
    before = aws.pause_at(Point("RunTask", Phase.BEFORE, 2))
    await flows.run_task(**run_task())
    running = asyncio.ensure_future(flows.run_task(**run_task(startedBy="second")))
    call = await before.wait(5)
    assert (call.subject, len(aws.launched), running.done()) == ("second", 1, False)
    await flows.list_tasks()  # others pass
    after = aws.pause_at(Point("StopTask", Phase.AFTER))
    before.resume()
    arn = (await running)["tasks"][0]["taskArn"]
    stopping = asyncio.ensure_future(flows.stop_task(task=arn))
    await after.wait(5)
    assert aws.launched[1].stopping
    assert not stopping.done()
    after.drop()
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        await stopping


async def test_a_dropped_call_never_happens(aws: AwsSimulator, flows: Any) -> None:
    pause = aws.pause_at(Point("RunTask", Phase.BEFORE))
    running = asyncio.ensure_future(flows.run_task(**run_task()))
    await pause.wait(5)
    pause.drop()
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        await running
    assert aws.launched == []
    await flows.run_task(**run_task())
    assert len(aws.launched) == 1


async def test_a_held_call_happens_although_its_sender_is_gone(aws: AwsSimulator, flows: Any) -> None:
    pause = aws.pause_at(Point("RunTask", Phase.BEFORE))
    running = asyncio.ensure_future(flows.run_task(**run_task()))
    await pause.wait(5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    pause.resume()

    async def launched() -> bool:
        return len(aws.launched) == 1

    await until(launched)


async def test_a_freeze_holds_everything(aws: AwsSimulator, flows: Any) -> None:
    pause = aws.pause_at(Point("RunTask", Phase.AFTER), freeze=True)
    running = asyncio.ensure_future(flows.run_task(**run_task()))
    await pause.wait(5)
    listing = asyncio.ensure_future(flows.list_tasks())

    async def arrived() -> bool:
        return aws.calls[-1].action == "ListTasks"

    await until(arrived)
    assert aws.calls[-1].outcome == ""
    pause.resume()
    aws.director.thaw()
    assert (await listing)["taskArns"] == [(await running)["tasks"][0]["taskArn"]]


async def test_waiting_for_a_call_that_never_comes_ends(aws: AwsSimulator) -> None:
    with pytest.raises(TimeoutError):
        await aws.pause_at(Point("RunTask", Phase.BEFORE)).wait(0.05)


async def test_the_record_gives_every_point(aws: AwsSimulator, flows: Any) -> None:
    await flows.run_task(**run_task())
    await flows.list_tasks()
    await flows.run_task(**run_task())
    assert [(c.index, c.action, c.outcome) for c in aws.calls] == [
        (0, "RegisterTaskDefinition", "200"),
        (1, "RunTask", "200"),
        (2, "ListTasks", "200"),
        (3, "RunTask", "200"),
    ]
    points = [str(point) for point in points_of(aws.calls, "*Botocore*")]
    assert points[2:4] == ["before RunTask #1", "after RunTask #1"]
    assert points[-1] == "after RunTask #2"
    assert points_of(aws.calls, "somebody else") == []


async def test_closing_ends_what_hangs_and_what_is_held() -> None:
    async with AwsSimulator() as aws:
        aws.fault(Fault(what=(What.HANG_BEFORE,), action="ListTasks"))
        aws.pause_at(Point("ListClusters", Phase.BEFORE))
        hanging = [aws.director.receive(action, caller="me") for action in ("ListTasks", "ListClusters")]
        waiting = [asyncio.ensure_future(aws.director.before(call)) for call in hanging]
        await asyncio.sleep(0)
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert [type(result).__name__ for result in results] == ["ConnectionDropped", "ConnectionDropped"]


async def test_a_fault_can_be_one_place_s(aws: AwsSimulator, clients: Clients) -> None:
    rule = fault(What.ERROR, place="*/eu-west-1")
    aws.fault(rule)
    sick, well = await clients.make("ecs", region="eu-west-1"), await clients.make("ecs")
    assert await code_of(sick.list_clusters()) == "ClientException"
    assert (await well.list_clusters())["clusterArns"]
    aws.director.remove(rule)
    assert (await sick.list_clusters())["clusterArns"]


@pytest.mark.parametrize(
    ("service", "call", "code"),
    [
        ("ecs", "list_clusters", "ExpiredTokenException"),
        ("sts", "get_caller_identity", "ExpiredToken"),
        ("ec2", "describe_vpcs", "RequestExpired"),
    ],
)
async def test_expired_credentials_are_refused(
    aws: AwsSimulator, clients: Clients, service: str, call: str, code: str
) -> None:
    client = await clients.make(service)
    await getattr(client, call)()
    aws.expired.add("AKIATEST")
    assert await code_of(getattr(client, call)()) == code


async def test_a_full_cluster_takes_tasks_again_when_one_has_stopped(aws: AwsSimulator, flows: Any) -> None:
    aws.ecs.clusters["default"].most_tasks = 1
    (task,) = (await flows.run_task(**run_task()))["tasks"]
    refused = await flows.run_task(**run_task(clientToken="two"))
    assert [failure["reason"] for failure in refused["failures"]] == ["RESOURCE:MEMORY"]
    await flows.stop_task(task=task["taskArn"])
    assert (await flows.run_task(**run_task(clientToken="two")))["failures"]  # ECS keeps what it said to a token
    assert (await flows.run_task(**run_task(clientToken="three")))["tasks"]
