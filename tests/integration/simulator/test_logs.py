from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.simulator.faults import What, fault
from support.simulator.helpers import DEFINITION, code_of, run_task
from support.simulator.tasks import LogScript, TaskScript

if TYPE_CHECKING:
    from support.clients import Clients
    from support.simulator.aws import AwsSimulator

pytestmark = pytest.mark.anyio


@pytest.fixture
async def logs(aws: AwsSimulator, clients: Clients) -> Any:
    """The logs client, with a group and the clock standing."""
    aws.clock.set_speed(0)
    aws.logs.create_group("flows")
    return await clients.make("logs")


async def follow(logs: Any, stream: str, token: str | None = None, pages: int = 100) -> tuple[list[str], str]:
    """Reads forward until the token comes back unchanged; the messages and that token."""
    messages: list[str] = []
    for _ in range(pages):
        more = {"nextToken": token} if token else {}
        page = await logs.get_log_events(
            logGroupName="flows", logStreamName=stream, startFromHead=True, limit=3, **more
        )
        messages += [event["message"] for event in page["events"]]
        if page["nextForwardToken"] == token:
            return messages, str(token)
        token = page["nextForwardToken"]
    raise AssertionError("no end")


async def filtered(logs: Any, **request: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while True:
        page = await logs.filter_log_events(logGroupName="flows", **request)
        events += page["events"]
        if "nextToken" not in page:
            return events
        request["nextToken"] = page["nextToken"]


@pytest.mark.parametrize("tokens", ["timestamp", "arrival"])
async def test_following_by_token_gives_each_line_once(aws: AwsSimulator, logs: Any, tokens: Any) -> None:
    aws.logs.tokens = tokens
    aws.logs.put("flows", "s", *[f"line {n}" for n in range(8)])
    messages, token = await follow(logs, "s")
    assert messages == [f"line {n}" for n in range(8)]
    assert await follow(logs, "s", token) == ([], token)
    aws.advance(1)
    aws.logs.put("flows", "s", "more")
    messages, _ = await follow(logs, "s", token)
    assert messages == ["more"]


@pytest.mark.parametrize(("tokens", "expected"), [("timestamp", []), ("arrival", ["late"])])
async def test_a_late_line_and_the_two_readings_of_tokens(
    aws: AwsSimulator, logs: Any, tokens: Any, expected: list[str]
) -> None:
    aws.logs.tokens = tokens
    aws.logs.put("flows", "s", "late", delay=30)
    aws.advance(1)
    aws.logs.put("flows", "s", "prompt")
    messages, token = await follow(logs, "s")
    assert messages == ["prompt"]
    aws.advance(30)
    messages, _ = await follow(logs, "s", token)
    assert messages == expected
    assert [e["message"] for e in await filtered(logs)] == ["late", "prompt"]


@pytest.mark.parametrize("tokens", ["timestamp", "arrival"])
async def test_an_empty_page_is_not_the_end(aws: AwsSimulator, logs: Any, tokens: Any) -> None:
    aws.logs.tokens = tokens
    aws.logs.put("flows", "s", *[f"line {n}" for n in range(5)])
    aws.fault(fault(What.EMPTY_PAGE, nth=(1, 3)))
    messages, _ = await follow(logs, "s")
    assert messages == [f"line {n}" for n in range(5)]
    aws.director.clear()
    aws.fault(fault(What.EMPTY_PAGE, nth=(1, 3)))
    events = await filtered(logs, limit=2)
    assert [event["message"] for event in events] == [f"line {n}" for n in range(5)]


async def test_the_tail_and_the_way_back(aws: AwsSimulator, logs: Any) -> None:
    aws.logs.put("flows", "s", *[f"line {n}" for n in range(5)])
    tail = await logs.get_log_events(logGroupName="flows", logStreamName="s", limit=2)
    assert [event["message"] for event in tail["events"]] == ["line 3", "line 4"]
    back = await logs.get_log_events(
        logGroupName="flows", logStreamName="s", limit=2, nextToken=tail["nextBackwardToken"]
    )
    assert [event["message"] for event in back["events"]] == ["line 1", "line 2"]


async def test_filtering_merges_streams_by_time_and_pages(aws: AwsSimulator, logs: Any) -> None:
    for n in range(6):
        aws.logs.put("flows", f"s{n % 3}", f"line {n}")
        aws.advance(1)
    aws.logs.put("flows", "other", "not asked for")
    events = await filtered(logs, logStreamNames=["s0", "s1", "s2"], limit=4)
    assert [event["message"] for event in events] == [f"line {n}" for n in range(6)]
    assert [event["logStreamName"] for event in events] == ["s0", "s1", "s2"] * 2
    assert len({event["eventId"] for event in events}) == 6
    later = await filtered(
        logs, logStreamNamePrefix="s", startTime=events[2]["timestamp"], endTime=events[4]["timestamp"]
    )
    assert [event["message"] for event in later] == ["line 2", "line 3"]


async def test_a_page_holds_one_mebibyte(aws: AwsSimulator, logs: Any) -> None:
    aws.logs.put("flows", "s", *["x" * 250_000] * 9)
    page = await logs.filter_log_events(logGroupName="flows", logStreamNames=["s"])
    assert len(page["events"]) == 4
    assert len(await filtered(logs, logStreamNames=["s"])) == 9


async def test_what_is_refused(aws: AwsSimulator, logs: Any) -> None:
    missing = "ResourceNotFoundException"
    assert await code_of(logs.filter_log_events(logGroupName="none")) == missing
    assert await code_of(logs.get_log_events(logGroupName="flows", logStreamName="none")) == missing
    assert await code_of(logs.filter_log_events(logGroupName="flows", logStreamNames=["none"])) == missing
    many = [f"s{n}" for n in range(101)]
    invalid = "InvalidParameterException"
    assert await code_of(logs.filter_log_events(logGroupName="flows", logStreamNames=many)) == invalid
    assert (
        await code_of(logs.filter_log_events(logGroupName="flows", logStreamNames=["a"], logStreamNamePrefix="b"))
        == invalid
    )
    aws.logs.put("flows", "s", "x")
    assert await code_of(logs.get_log_events(logGroupName="flows", logStreamName="s", nextToken="nonsense")) == invalid
    assert await code_of(logs.create_log_group(logGroupName="flows")) == "ResourceAlreadyExistsException"


async def test_groups_and_streams_are_made_described_and_deleted(aws: AwsSimulator, logs: Any) -> None:
    await logs.create_log_group(logGroupName="made")
    await logs.put_retention_policy(logGroupName="made", retentionInDays=1)
    await logs.create_log_stream(logGroupName="made", logStreamName="a")
    await logs.create_log_stream(logGroupName="made", logStreamName="b")
    now = int(aws.clock.now() * 1000)
    await logs.put_log_events(
        logGroupName="made", logStreamName="a", logEvents=[{"timestamp": now, "message": "hello"}]
    )
    groups = await logs.describe_log_groups(logGroupNamePrefix="ma")
    assert [group["logGroupName"] for group in groups["logGroups"]] == ["made"]
    streams = await logs.describe_log_streams(logGroupName="made", orderBy="LastEventTime", descending=True)
    assert [(s["logStreamName"], s.get("lastEventTimestamp")) for s in streams["logStreams"]] == [
        ("a", now),
        ("b", None),
    ]
    await logs.delete_log_stream(logGroupName="made", logStreamName="a")
    assert len((await logs.describe_log_streams(logGroupName="made"))["logStreams"]) == 1
    await logs.delete_log_group(logGroupName="made")
    assert (await logs.describe_log_groups())["logGroups"][0]["logGroupName"] == "flows"


async def test_containers_write_while_they_run(aws: AwsSimulator, logs: Any, ecs: Any) -> None:
    await ecs.register_task_definition(**DEFINITION)
    script = LogScript(lines=("hello",), rate=10, delay=5, jitter=3, stream_delay=2)
    aws.ecs.scripts.default = TaskScript(provisioning=0, pending=0, activating=0, running=20, log=script)
    task = (await ecs.run_task(**run_task()))["tasks"][0]
    name = f"run/prefect/{task['taskArn'].rsplit('/', 1)[1]}"
    aws.advance(1)
    assert (
        await code_of(logs.filter_log_events(logGroupName="flows", logStreamNames=[name]))
        == "ResourceNotFoundException"
    )
    aws.advance(2)
    assert await filtered(logs, logStreamNames=[name]) == []
    seen: dict[str, str] = {}
    arrivals: list[int] = []
    for _ in range(300):
        aws.advance(0.1)
        for event in await filtered(logs, logStreamNames=[name]):
            if event["eventId"] not in seen:
                seen[event["eventId"]] = event["message"]
                arrivals.append(event["timestamp"])
    assert sorted(seen.values()) == sorted(["hello", *[f"{name} line {n}" for n in range(1, 201)]])
    assert arrivals != sorted(arrivals)


async def test_a_stopped_container_writes_no_more(aws: AwsSimulator, logs: Any, ecs: Any) -> None:
    await ecs.register_task_definition(**DEFINITION)
    aws.ecs.scripts.default = TaskScript(running=None, log=LogScript(rate=10))
    task = (await ecs.run_task(**run_task()))["tasks"][0]
    aws.advance(1.3)
    await ecs.stop_task(task=task["taskArn"])
    aws.advance(100)
    assert len(await filtered(logs)) == 10
