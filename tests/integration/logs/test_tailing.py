"""Each line once, whatever CloudWatch does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ecs_worker.model import AwsCredentials, AwsTarget
from support.reading import GROUP, Console
from support.simulator.faults import What, fault

if TYPE_CHECKING:
    from support.simulator.aws import AwsSimulator

pytestmark = pytest.mark.anyio

DISORDER = {"rate": 5.0, "delay": 2.0, "jitter": 28.0}  # lines come up to 30 s late, in any order


@pytest.mark.parametrize("number", [1, 5], ids=["one stream", "a group"])
@pytest.mark.parametrize("tokens", ["timestamp", "arrival"])
async def test_late_lines_out_of_order(console: Console, number: int, tokens: str) -> None:
    console.cloud.logs.tokens = tokens  # type: ignore[assignment] # the parameters above are its values
    streams = console.containers(number, **DISORDER)
    tails = [console.follow(stream) for stream in streams]
    await console.read_until(lambda: all(len(console.shown[stream]) >= 200 for stream in streams))
    await console.read_to_the_end(tails)
    console.assert_each_once(streams, at_least=200)


async def test_lines_of_a_stream_come_in_order_and_keep_their_time(console: Console) -> None:
    streams = console.containers(4, rate=20.0, delay=5.0)
    tails = [console.follow(stream) for stream in streams]
    await console.read_until(lambda: all(len(console.shown[stream]) >= 200 for stream in streams))
    await console.read_to_the_end(tails)
    for stream in streams:
        numbers = [int(line.rpartition(" ")[2]) for line in console.lines(stream)]
        assert numbers == list(range(len(numbers)))
        times = [event.timestamp for event in console.shown[stream]]
        assert times == sorted(times)
        assert len(set(times)) == len(times)


async def test_a_group_is_read_together(console: Console) -> None:
    streams = console.containers(40, rate=2.0)
    tails = [console.follow(stream) for stream in streams]
    await console.read_until(lambda: all(tail.caught_up for tail in tails))
    gets = console.calls("GetLogEvents")
    assert gets <= 2 * len(streams)
    before = {stream: len(console.shown[stream]) for stream in streams}
    await console.read_until(lambda: all(len(console.shown[stream]) > before[stream] + 20 for stream in streams))
    assert console.calls("GetLogEvents") == gets


async def test_alike_lines_are_each_shown(console: Console) -> None:
    """The same text several times in a millisecond, some of it late."""
    console.container("alike", lines=("once more",) * 30, jitter=20.0)
    for other in ("other", "another"):
        console.container(other, rate=1.0)
    tails = [console.follow(stream) for stream in ("alike", "other", "another")]
    await console.read_to_the_end(tails)
    assert console.lines("alike") == ["once more"] * 30


@pytest.mark.parametrize("number", [1, 4], ids=["one stream", "a group"])
async def test_throttles_faults_and_empty_pages(console: Console, cloud: AwsSimulator, number: int) -> None:
    for action in ("GetLogEvents", "FilterLogEvents"):
        cloud.fault(
            fault(What.EMPTY_PAGE, action=action, probability=0.3),
            fault(What.THROTTLE, What.SERVER_ERROR, What.LOST_AFTER, action=action, probability=0.1),
        )
    streams = console.containers(number, **DISORDER)
    tails = [console.follow(stream) for stream in streams]
    await console.read_until(lambda: all(len(console.shown[stream]) >= 100 for stream in streams), 40)
    await console.read_to_the_end(tails, 40)
    console.assert_each_once(streams)


async def test_a_group_and_its_streams_appear_later(console: Console, cloud: AwsSimulator) -> None:
    del cloud.logs.groups[GROUP]
    streams = [f"later/{n}" for n in range(4)]
    tails = [console.follow(stream) for stream in streams]
    await console.read_until(lambda: all(tail.error for tail in tails))
    cloud.logs.create_group(GROUP)
    for n, stream in enumerate(streams):
        console.container(stream, rate=5.0, stream_delay=10.0 * n)
    await console.read_until(lambda: all(len(console.shown[stream]) >= 50 for stream in streams))
    await console.read_to_the_end(tails)
    console.assert_each_once(streams)


async def test_one_stream_of_a_group_is_deleted(console: Console, cloud: AwsSimulator) -> None:
    """FilterLogEvents fails for all of them then."""
    streams = console.containers(5, rate=5.0)
    tails = [console.follow(stream) for stream in streams]
    await console.read_until(lambda: all(tail.caught_up for tail in tails) and console.calls("FilterLogEvents") > 3)
    del cloud.logs.groups[GROUP].streams[streams[0]]
    tails[0].end()
    await console.read_until(lambda: tails[0].drained and all(tail.caught_up for tail in tails[1:]))
    await console.read_to_the_end(tails[1:])
    console.assert_each_once(streams[1:])


async def test_the_last_line_may_come_half_a_minute_after_the_stop(console: Console) -> None:
    console.container("slow", lines=("first",), delay=30.0)
    tail = console.follow("slow")
    await console.read_to_the_end([tail])
    assert console.lines("slow") == ["first"]


async def test_a_stream_that_never_was_is_let_go(console: Console) -> None:
    tail = console.follow("never")
    tail.end()
    await console.read_until(lambda: tail.drained)
    assert len(console.reader) == 0


async def test_without_the_permission_for_filter_streams_are_read_one_by_one(
    console: Console, cloud: AwsSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    cloud.fault(fault(What.ERROR, action="FilterLogEvents", code="AccessDeniedException", status=400))
    streams = console.containers(5, **DISORDER)
    tails = [console.follow(stream) for stream in streams]
    await console.read_until(lambda: all(len(console.shown[stream]) >= 100 for stream in streams))
    await console.read_to_the_end(tails)
    console.assert_each_once(streams)
    assert console.calls("FilterLogEvents") == 1
    assert sum("logs:FilterLogEvents" in message for message in caplog.messages) == 1


async def test_only_the_last_lines(console: Console) -> None:
    console.container("long", lines=tuple(f"line {n}" for n in range(900)))
    console.cloud.advance(1)
    console.cloud.logs.put(GROUP, "long", *(f"late {n}" for n in range(3)), delay=15.0)
    tail = console.follow("long", last=500)
    await console.read_to_the_end([tail])
    shown = console.lines("long")
    numbered = [line for line in shown if line.startswith("line ")]
    assert numbered == [f"line {n}" for n in range(900 - len(numbered), 900)]
    assert sorted(set(shown) - set(numbered)) == ["late 0", "late 1", "late 2"]
    assert 500 <= len(shown) <= 503  # the late ones are among the 500, or came after them


async def test_what_was_shown_before_is_not_shown_again(console: Console) -> None:
    """As after a restart, when what an earlier process passed on is known."""
    streams = console.containers(1, **DISORDER)
    tail = console.follow(streams[0])
    await console.read_until(lambda: len(console.shown[streams[0]]) >= 200)
    before = sorted((event.timestamp, event.message) for event in console.shown[streams[0]])
    again = console.follow(streams[0], position=before[0][0])
    again.know(before)
    console.reader._groups.clear()  # noqa: SLF001 - the earlier process is dead
    console.reader.add(again)
    await console.read_to_the_end([again])
    console.assert_each_once(streams)
    assert not tail.drained


async def test_memory_of_lines_follows_the_present(console: Console, cloud: AwsSimulator) -> None:
    streams = console.containers(3, rate=10.0)
    tails = [console.follow(stream) for stream in streams]
    await console.read_until(lambda: all(len(console.shown[stream]) >= 200 for stream in streams))
    cloud.advance(1500)
    await console.read_until(lambda: all(len(console.shown[stream]) >= 15_500 for stream in streams), 40)
    await console.read_until(lambda: all(tail.kept < 8_000 for tail in tails))
    await console.read_to_the_end(tails)
    console.assert_each_once(streams, at_least=15_500)


async def test_a_stream_is_read_on_with_the_credentials_of_today(console: Console) -> None:
    (stream,) = console.containers(1, rate=20.0)
    yesterday, today = (
        AwsTarget(AwsCredentials(access_key_id=key, secret_access_key="s"), "us-east-1") for key in ("OLD", "NEW")
    )
    tail = console.follow(stream)
    console.reader.move(tail, yesterday)
    await console.read_until(lambda: len(console.shown[stream]) >= 40)
    console.cloud.expired.add("OLD")
    await console.read_until(lambda: bool(tail.error) or console.cloud.calls[-1].outcome == "ExpiredTokenException")
    console.reader.move(tail, today)
    seen = len(console.shown[stream])
    await console.read_until(lambda: len(console.shown[stream]) >= seen + 40)
    await console.read_to_the_end([tail])
    console.assert_each_once([stream])
