"""Token buckets, in a time of their own."""

from __future__ import annotations

import asyncio
import heapq
import itertools

import anyio
import pytest

from ecs_worker.aws.limits import GROUPS, RATES, RECOVERY_SECONDS, Bucket, Limits, Rate

pytestmark = pytest.mark.anyio


class VirtualClock:
    """A clock that jumps to the next sleeper's time once nobody else has anything to do."""

    def __init__(self) -> None:
        self._now = 100.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let that much time pass, waking sleepers in order."""
        end = self._now + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await _settle()
        self._now = end


async def _settle() -> None:
    """Run everything that can run now: a take hands on over at most a few turns of the loop."""
    for _ in range(20):
        await asyncio.sleep(0)


async def take_for_ever(bucket: Bucket, clock: VirtualClock, times: list[float]) -> None:
    while True:
        await bucket.take()
        times.append(clock.now())


async def run_dry(bucket: Bucket, clock: VirtualClock, seconds: float) -> list[float]:
    """The times at which calls went out while somebody always wanted one."""
    times: list[float] = []
    taking = asyncio.create_task(take_for_ever(bucket, clock, times))
    await clock.advance(seconds)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    return times


async def test_a_burst_then_the_rate() -> None:
    clock = VirtualClock()
    times = await run_dry(Bucket(Rate(10, 4), clock), clock, 5.0)
    assert times[:10] == [100.0] * 10
    assert len(times) == 10 + 4 * 5


async def test_never_more_than_aws_allows() -> None:
    """In every window, at most the burst and what the rate adds."""
    clock = VirtualClock()
    bucket = Bucket(Rate(5, 2), clock)
    times = await run_dry(bucket, clock, 7.3)
    await clock.advance(1.7)
    times += await run_dry(bucket, clock, 4.0)
    for first, last in itertools.combinations(range(len(times)), 2):
        assert last - first + 1 <= 5 + 2 * (times[last] - times[first]) + 1e-6


async def test_first_come_first_served() -> None:
    clock = VirtualClock()
    bucket = Bucket(Rate(1, 1), clock)
    served: list[str] = []

    async def customer(name: str) -> None:
        await bucket.take()
        served.append(name)

    tasks = [asyncio.create_task(customer(name)) for name in "abcde"]
    await clock.advance(10.0)
    await asyncio.gather(*tasks)
    assert served == list("abcde")


async def test_who_gives_up_waiting_takes_no_token() -> None:
    clock = VirtualClock()
    bucket = Bucket(Rate(1, 1), clock)
    await bucket.take()
    first, second = asyncio.create_task(bucket.take()), asyncio.create_task(bucket.take())
    await clock.advance(0.5)
    first.cancel()
    await clock.advance(0.6)
    assert second.done(), "the token that `first` waited for is `second`'s"
    assert first.cancelled()


async def test_a_throttle_empties_the_bucket_and_halves_the_rate() -> None:
    clock = VirtualClock()
    bucket = Bucket(Rate(100, 8), clock)
    bucket.penalise()
    assert bucket.per_second == 4
    times = await run_dry(bucket, clock, 1.0)
    assert 3 <= len(times) <= 5


async def test_throttles_at_the_same_time_count_once() -> None:
    clock = VirtualClock()
    bucket = Bucket(Rate(100, 8), clock)
    for _ in range(50):
        bucket.penalise()
    assert bucket.per_second == 4
    await clock.advance(1.0)
    bucket.penalise()
    assert bucket.per_second < 4


async def test_the_rate_never_falls_to_nothing_and_recovers() -> None:
    clock = VirtualClock()
    bucket = Bucket(Rate(10, 8), clock)
    for _ in range(100):
        bucket.penalise()
        await clock.advance(1.0)
    assert bucket.per_second >= 8 / 32
    await run_dry(bucket, clock, RECOVERY_SECONDS)
    assert bucket.per_second == 8


async def test_groups_share_a_bucket_within_an_account_and_region_only() -> None:
    limits = Limits(clock=VirtualClock())
    here, there = ("", "eu-west-1"), ("", "us-east-1")
    assert limits.bucket(here, "RunTask") is limits.bucket(here, "StopTask")
    assert limits.bucket(here, "RunTask") is not limits.bucket(here, "DescribeTasks")
    assert limits.bucket(here, "RunTask") is not limits.bucket(there, "RunTask")
    assert limits.bucket(here, "DescribeVpcs") is None


async def test_a_share_of_what_aws_allows() -> None:
    for operation, group in GROUPS.items():
        bucket = Limits(share=0.5, clock=VirtualClock()).bucket("", operation)
        assert bucket is not None
        assert bucket.per_second == RATES[group].per_second / 2
        clock = VirtualClock()
        again = Limits(share=0.5, clock=clock).bucket("", operation)
        assert again is not None
        assert len(await run_dry(again, clock, 0.0)) == max(1, int(RATES[group].burst / 2))


async def test_by_default_a_little_less_than_aws_allows() -> None:
    bucket = Limits(clock=VirtualClock()).bucket("", "RunTask")
    assert bucket is not None
    assert 38 <= bucket.per_second < 40


async def test_grants_what_is_there_at_once() -> None:
    clock = VirtualClock()
    bucket = Bucket(Rate(10, 4), clock)
    assert [bucket.grant(7), bucket.grant(7), bucket.grant(7)] == [7, 3, 0]
    await clock.advance(0.5)
    assert [bucket.grant(7), bucket.grant(7)] == [2, 0]
    await clock.advance(60.0)
    assert bucket.grant(100) == 10


async def test_fractions_of_a_call_are_saved_up() -> None:
    clock = VirtualClock()
    bucket = Bucket(Rate(1, 0.1), clock)
    granted = 0
    for _ in range(301):
        granted += bucket.grant(5)
        await clock.advance(0.1)
    assert granted == 1 + 3


async def test_grants_nothing_while_others_wait() -> None:
    clock = VirtualClock()
    bucket = Bucket(Rate(1, 1), clock)
    await bucket.take()
    waiting = [asyncio.create_task(bucket.take()) for _ in range(2)]
    await clock.advance(0.9)
    assert bucket.grant(1) == 0
    await clock.advance(1.2)
    assert all(task.done() for task in waiting), "no token of theirs was given away"
    await clock.advance(1.0)
    assert bucket.grant(1) == 1


async def test_grants_nothing_after_a_throttle() -> None:
    clock = VirtualClock()
    bucket = Bucket(Rate(10, 4), clock)
    bucket.penalise()
    assert bucket.grant(1) == 0
    await clock.advance(1.0)
    assert bucket.grant(10) == 2


@pytest.mark.parametrize(("share", "burst"), [(0.5, 20), (0.1, 4), (0.01, 1)])
async def test_a_part_is_a_bucket_of_its_own(share: float, burst: int) -> None:
    """A share of the sustained rate, with a burst of two seconds: no more than a steady caller needs."""
    clock = VirtualClock()
    limits = Limits(share=0.95, clock=clock)
    part = limits.part("", "DescribeTasks", share)
    assert part.per_second == 20 * share
    assert part.grant(1000) == burst
    await clock.advance(10.0)
    assert part.grant(1000) == burst
    whole = limits.bucket("", "DescribeTasks")
    assert whole is not None
    assert whole.grant(1000) == 95, "a part's calls are not the account's"
    assert limits.part("another account", "DescribeTasks", share).grant(1000) == burst, "each account has one"
    assert limits.part("", "DescribeTasks", share) is part


def shared_by_four(clock: VirtualClock) -> tuple[Limits, Bucket]:
    """Limits that four workers draw on, and the bucket of RunTask, which was there before."""
    limits = Limits(share=1.0, clock=clock)
    bucket = limits.bucket("", "RunTask")
    assert bucket is not None
    limits.shared_by(4)
    return limits, bucket


async def test_workers_of_a_pool_divide_a_limit() -> None:
    clock = VirtualClock()
    limits, bucket = shared_by_four(clock)
    part = limits.part("", "DescribeTasks", 1.0)
    assert (bucket.per_second, part.per_second) == (10, 5)
    assert bucket.grant(1000) == 25
    limits.shared_by(2)
    await clock.advance(1.0)
    assert (bucket.per_second, bucket.grant(1000)) == (20, 20)


async def test_a_part_grows_while_calls_wait_and_aws_allows_it() -> None:
    """Colleagues may need less than their parts."""
    clock = VirtualClock()
    _, bucket = shared_by_four(clock)
    assert bucket.grant(1000) == 25
    async with anyio.create_task_group() as group:

        async def take_many() -> None:
            for _ in range(5000):
                await bucket.take()

        group.start_soon(take_many)
        for _ in range(3000):
            await clock.advance(0.1)
        assert bucket.per_second == pytest.approx(40, rel=0.05)
        bucket.penalise()
        assert bucket.per_second == pytest.approx(20, rel=0.05)
        group.cancel_scope.cancel()
