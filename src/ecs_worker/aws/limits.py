"""Token buckets that keep this worker below AWS's request limits.

AWS throttles by group of actions, per account and Region (Amazon ECS API reference, "Request throttling for
the Amazon ECS API"; CloudWatch Logs, "CloudWatch Logs quotas").
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio

if TYPE_CHECKING:
    from collections.abc import Hashable

# What a part of a limit saves up: this many seconds' worth of calls.
_PART_BURST_SECONDS = 2.0
# The rest is for others that use the same account, and for clocks that differ.
DEFAULT_SHARE = 0.95
# AWS's own bucket refills slowly, and for everybody in the account: after a throttle our rate recovers in this time.
RECOVERY_SECONDS = 60.0
# Calls that are under way together are throttled together: throttles within this time count once.
_SAME_THROTTLE_SECONDS = 1.0
_LEAST_FACTOR = 1 / 32
_ROUNDING = 1e-9  # tokens; sums of floats fall short of 1 by less


class Clock(Protocol):
    """Where the time comes from: tests have a clock that they move themselves."""

    def now(self) -> float:
        """Seconds, on a clock that never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return when that much time has passed on this clock."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait, while everybody else goes on."""
        await anyio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit: `burst` calls at once, and `per_second` in the long run."""

    burst: float
    per_second: float


CLUSTER_MODIFY = "ecs cluster resource modify"
CLUSTER_READ = "ecs cluster resource read"
DEFINITION_MODIFY = "ecs task definition modify"
DEFINITION_READ = "ecs task definition read"
LOGS_GET = "logs GetLogEvents"
LOGS_FILTER = "logs FilterLogEvents"

# Where Regions differ, the lowest. Fargate's own limit on launches (5 to 20 per second, by Region and capacity)
# is left out: it only holds for some tasks, and `penalise` adapts to it.
RATES = {
    CLUSTER_MODIFY: Rate(100, 40),
    CLUSTER_READ: Rate(100, 20),
    DEFINITION_MODIFY: Rate(20, 1),
    DEFINITION_READ: Rate(50, 20),
    LOGS_GET: Rate(10, 10),
    LOGS_FILTER: Rate(5, 5),
}

GROUPS = {
    "RunTask": CLUSTER_MODIFY,
    "StopTask": CLUSTER_MODIFY,
    "DescribeTasks": CLUSTER_READ,
    "ListTasks": CLUSTER_READ,
    "RegisterTaskDefinition": DEFINITION_MODIFY,
    "DeregisterTaskDefinition": DEFINITION_MODIFY,
    "DescribeTaskDefinition": DEFINITION_READ,
    "ListTaskDefinitions": DEFINITION_READ,
    "GetLogEvents": LOGS_GET,
    "FilterLogEvents": LOGS_FILTER,
}


class Bucket:
    """Calls per time. Whoever comes first is served first; a cancelled waiter takes no token."""

    def __init__(self, rate: Rate, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._tokens = rate.burst
        self._filled_at = clock.now()
        self._factor = 1.0
        self._penalised_at: float | None = None
        self._turn = anyio.Lock(fast_acquire=True)  # in the order of waiting; a free one takes no turn of the loop

    @property
    def per_second(self) -> float:
        """The rate at which calls go out now."""
        return self._rate.per_second * self._factor

    async def take(self) -> None:
        """Return when one call may be made."""
        async with self._turn:
            while (missing := 1 - self._fill()) > _ROUNDING:
                await self._clock.sleep(missing / self.per_second)
            self._tokens -= 1

    def grant(self, wanted: int) -> int:
        """How many of the wanted calls may be made now; their tokens are taken. None while others wait in `take`."""
        if self._turn.locked():
            return 0
        granted = min(wanted, int(self._fill() + _ROUNDING))
        self._tokens -= granted
        return granted

    def penalise(self) -> None:
        """AWS throttled, so AWS's bucket is empty, whoever emptied it. Go on at half the rate, and recover slowly."""
        now = self._clock.now()
        self._fill()
        self._tokens = min(self._tokens, 0.0)
        if self._penalised_at is None or now - self._penalised_at >= _SAME_THROTTLE_SECONDS:
            self._factor = max(self._factor / 2, _LEAST_FACTOR)
            self._penalised_at = now

    def _fill(self) -> float:
        now = self._clock.now()
        passed = max(now - self._filled_at, 0.0)
        self._filled_at = now
        self._tokens = min(self._rate.burst, self._tokens + passed * self.per_second)
        self._factor = min(1.0, self._factor + passed / RECOVERY_SECONDS)
        return self._tokens


class Limits:
    """The buckets of all accounts and Regions that this worker calls.

    `share` is the part of each published limit that this worker takes for itself (0 to 1).
    """

    def __init__(self, *, share: float = DEFAULT_SHARE, clock: Clock | None = None) -> None:
        self._share = share
        self._clock = clock or SystemClock()
        self._buckets: dict[tuple[Hashable, str], Bucket] = {}

    def bucket(self, key: Hashable, operation: str) -> Bucket | None:
        """The bucket that `operation` draws from in the account and Region of `key`; None: not limited here."""
        group = GROUPS.get(operation)
        if group is None:
            return None
        bucket = self._buckets.get((key, group))
        if bucket is None:
            published = RATES[group]
            rate = Rate(max(1.0, published.burst * self._share), published.per_second * self._share)
            bucket = self._buckets[key, group] = Bucket(rate, self._clock)
        return bucket

    def part(self, operation: str, share: float) -> Bucket:
        """A new bucket with that share (0 to 1) of the published rate of `operation`, which must be in `GROUPS`.

        For a caller that is to keep below the limit by itself. It saves up two seconds' worth of calls, at least one.
        """
        per_second = RATES[GROUPS[operation]].per_second * share
        return Bucket(Rate(max(1.0, per_second * _PART_BURST_SECONDS), per_second), self._clock)
