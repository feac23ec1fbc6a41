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
FARGATE_LAUNCH = "fargate launch"
LOGS_GET = "logs GetLogEvents"
LOGS_FILTER = "logs FilterLogEvents"

# Where Regions differ, the lowest; but of Fargate's launches the larger Regions' rate (others have 5 per second): to
# theirs `penalise` adapts.
RATES = {
    CLUSTER_MODIFY: Rate(100, 40),
    CLUSTER_READ: Rate(100, 20),
    FARGATE_LAUNCH: Rate(20, 20),
    DEFINITION_MODIFY: Rate(20, 1),
    DEFINITION_READ: Rate(50, 20),
    LOGS_GET: Rate(10, 10),
    LOGS_FILTER: Rate(5, 5),
}

ON_FARGATE = "RunTask on Fargate"
"""No operation of its own: Fargate's limit on RunTask comes on top of ECS's (ECS developer guide, "AWS Fargate
throttling quotas")."""

GROUPS = {
    "RunTask": CLUSTER_MODIFY,
    ON_FARGATE: FARGATE_LAUNCH,
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
        self._workers = 1
        self._penalised_at: float | None = None
        self._turn = anyio.Lock(fast_acquire=True)  # in the order of waiting; a free one takes no turn of the loop

    @property
    def per_second(self) -> float:
        """The rate at which calls go out now."""
        return self._rate.per_second / self._workers * self._factor

    def shared_by(self, workers: int) -> None:
        """So many workers draw on the same limit: each has its part, and more while calls wait and AWS allows it."""
        self._fill()
        self._workers = workers

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
        burst = max(1.0, self._rate.burst / self._workers)
        self._tokens = min(burst, self._tokens + passed * self.per_second)
        most = self._workers if self._turn.locked() else max(1.0, min(self._factor, self._workers))
        self._factor = min(most, self._factor + passed / RECOVERY_SECONDS)
        return self._tokens


class Limits:
    """The buckets of all accounts and Regions that this worker calls.

    `share` is the part of each published limit that is taken (0 to 1): by this worker, or by all of its pool together.
    """

    def __init__(self, *, share: float = DEFAULT_SHARE, clock: Clock | None = None) -> None:
        self._share = share
        self.clock = clock or SystemClock()
        self._workers = 1
        self._buckets: dict[tuple[Hashable, str], Bucket] = {}
        self._parts: dict[tuple[Hashable, str, float], Bucket] = {}

    def bucket(self, key: Hashable, operation: str) -> Bucket | None:
        """The bucket that `operation` draws from in the account and Region of `key`; None: not limited here."""
        group = GROUPS.get(operation)
        if group is None:
            return None
        bucket = self._buckets.get((key, group))
        if bucket is None:
            published = RATES[group]
            rate = Rate(max(1.0, published.burst * self._share), published.per_second * self._share)
            bucket = self._buckets[key, group] = Bucket(rate, self.clock)
            bucket.shared_by(self._workers)
        return bucket

    def part(self, key: Hashable, operation: str, share: float) -> Bucket:
        """The bucket with that share (0 to 1) of the published rate of `operation`, which must be in `GROUPS`.

        For a caller that is to keep below the limit by itself. It saves up two seconds' worth of calls, at least one.
        """
        bucket = self._parts.get((key, operation, share))
        if bucket is None:
            per_second = RATES[GROUPS[operation]].per_second * share
            bucket = Bucket(Rate(max(1.0, per_second * _PART_BURST_SECONDS), per_second), self.clock)
            self._parts[key, operation, share] = bucket
            bucket.shared_by(self._workers)
        return bucket

    def shared_by(self, workers: int) -> None:
        """So many workers of the pool live, and each takes its part."""
        if workers == self._workers:
            return
        self._workers = workers
        for bucket in (*self._buckets.values(), *self._parts.values()):
            bucket.shared_by(workers)
