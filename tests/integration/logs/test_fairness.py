"""A burst of new streams delays no others.

Time is told by the calls for the new streams: AWS's limit on them is the burst's own clock, however slow the machine.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ecs_worker.aws.limits import DEFAULT_SHARE, LOGS_GET, RATES
from ecs_worker.lifecycle.journal.tail import Tail
from ecs_worker.model import AwsTarget
from support.reading import GROUP, Console
from support.simulator.faults import What, fault
from support.simulator.tasks import LogScript

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecs_worker.aws.logs import LogEvent
    from support.simulator.aws import AwsSimulator

pytestmark = pytest.mark.anyio

NEW = 400
PER_SECOND = RATES[LOGS_GET].per_second * DEFAULT_SHARE
AT_MOST = 5.0  # seconds that a settled stream of the burst's own group may be late
PACE = 2.0  # seconds between two looks at a settled stream
ELSEWHERE = "elsewhere"


class Burst:
    """Settled streams here and there, and many new ones that come at once."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.settled: list[Tail] = []
        self.new: list[Tail] = []
        self.began = 0

    async def settle(self, number: int, group: str = GROUP, region: str = "us-east-1") -> list[str]:
        """Streams that have been read up to the present."""
        names = [f"settled/{region}/{group}/{n}" for n in range(number)]
        tails = [self.follow(name, group, region) for name in names]
        await self.console.read_until(lambda: all(tail.caught_up for tail in tails))
        self.settled += tails
        return names

    def come(self) -> None:
        self.new = [self.follow(f"new/{n}", GROUP, "us-east-1") for n in range(NEW)]
        self.began = len(self.console.cloud.calls)

    def follow(self, name: str, group: str, region: str) -> Tail:
        cloud = self.console.cloud
        logs = cloud.site(region).logs
        logs.create_group(group)
        logs.open_stream(group, name, LogScript(lines=("first",), rate=0.5), cloud.clock.now())
        tail = Tail(AwsTarget(region=region), group, name, _shown)
        self.console.reader.add(tail)
        return tail

    def longest_wait(self, stream: str) -> int:
        """The most calls for new streams between two reads of the stream, since the burst."""
        calls = self.console.cloud.calls[self.began :]
        reads = [at for at, call in enumerate(calls) if call.subject == stream]
        news = [call.subject.startswith("new/") for call in calls]
        return max(sum(news[a:b]) for a, b in pairwise([0, *reads, len(calls)]))


def _shown(_: Sequence[LogEvent]) -> None:
    """Which lines there are doesn't matter here."""


@pytest.fixture
def burst(console: Console) -> Burst:
    return Burst(console)


async def test_new_streams_delay_settled_ones_hardly_and_those_of_other_groups_and_regions_not_at_all(
    burst: Burst,
) -> None:
    same = await burst.settle(10)
    other_group = await burst.settle(2, ELSEWHERE)  # one by one, from the same limit as the new ones
    other_region = await burst.settle(3, region="eu-west-1")
    burst.come()
    await burst.console.read_until(lambda: all(tail.caught_up for tail in burst.new), 60)
    assert burst.console.calls("GetLogEvents") > NEW
    assert (
        burst.longest_wait(same[0]) <= (PACE + AT_MOST) * PER_SECOND
    )  # calls for many streams bear the first one's name
    for stream in [*other_group, other_region[0]]:
        assert burst.longest_wait(stream) <= 2 * PACE * PER_SECOND  # their own pace, and no round left out


async def test_new_streams_of_other_groups_and_regions_begin_at_once(burst: Burst) -> None:
    await burst.settle(3)
    burst.come()
    reader = burst.console.reader
    await burst.console.read_until(lambda: any(tail.caught_up for tail in burst.new))
    late = [burst.follow("late", ELSEWHERE, "us-east-1"), burst.follow("late", GROUP, "eu-west-1")]
    await burst.console.read_until(lambda: all(tail.caught_up for tail in late))
    assert len(reader) == NEW + 5
    assert sum(tail.caught_up for tail in burst.new) < NEW / 2


async def test_without_the_permission_for_filter_settled_streams_keep_their_share(
    burst: Burst, cloud: AwsSimulator
) -> None:
    """They need the same calls as the new ones then."""
    cloud.fault(fault(What.ERROR, action="FilterLogEvents", code="AccessDeniedException", status=400))
    same = await burst.settle(10)
    burst.come()
    await burst.console.read_until(lambda: sum(tail.caught_up for tail in burst.new) >= 40)
    for stream in same:
        assert burst.longest_wait(stream) <= (PACE + AT_MOST) * PER_SECOND


async def test_a_target_that_hangs_holds_up_no_other(burst: Burst, cloud: AwsSimulator) -> None:
    """More of its calls hang than are ever under way at the same time."""
    near = await burst.settle(3)
    hung = [burst.follow(f"hung/{n}", ELSEWHERE, "eu-west-1") for n in range(20)]
    cloud.fault(fault(What.HANG_BEFORE, containing="hung/"))
    seen = len(cloud.calls)
    await burst.console.read_until(lambda: sum(call.subject == near[0] for call in cloud.calls[seen:]) > 5)
    assert 0 < sum(call.subject.startswith("hung/") for call in cloud.calls) < len(hung)
    assert not any(tail.caught_up for tail in hung)
