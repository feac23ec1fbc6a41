"""What the simulated services share: errors, the place they stand in, token buckets."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.simulator.clock import Clock


class ServiceError(Exception):
    """An AWS error answer. `members` are the modelled members beside the message."""

    def __init__(self, code: str, message: str, status: int = 400, members: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.members = dict(members or {})


class Ids:
    """Identifiers that look like AWS's and come out the same for the same seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - identifiers and disorder of a simulation, not secrets
        self._serial = itertools.count(1)

    def hex(self, digits: int = 32) -> str:
        return f"{self._random.getrandbits(digits * 4):0{digits}x}"

    def serial(self) -> int:
        return next(self._serial)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability


@dataclass(frozen=True, slots=True)
class Place:
    """An account in a Region."""

    account: str
    region: str

    @property
    def partition(self) -> str:
        if self.region.startswith("cn-"):
            return "aws-cn"
        return "aws-us-gov" if self.region.startswith("us-gov-") else "aws"

    def arn(self, service: str, resource: str) -> str:
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"


@dataclass(frozen=True, slots=True)
class Limit:
    """A token bucket: `burst` tokens, refilled at `rate` a simulated second; one is taken per call (or task)."""

    burst: float
    rate: float
    actions: tuple[str, ...]
    per: str = "call"  # or "task": RunTask takes as many as it is to start


# AWS's published limits per account and Region (ECS API reference "Request throttling", CloudWatch Logs quotas).
AWS_LIMITS: dict[str, Limit] = {
    "cluster resource modify": Limit(100, 40, ("RunTask", "StopTask", "StartTask", "ExecuteCommand")),
    "cluster resource read": Limit(100, 20, ("DescribeTasks", "ListTasks")),
    "task definition modify": Limit(20, 1, ("RegisterTaskDefinition", "DeregisterTaskDefinition")),
    "task definition read": Limit(
        50, 20, ("DescribeTaskDefinition", "ListTaskDefinitions", "ListTaskDefinitionFamilies")
    ),
    "task definition deletion": Limit(5, 1, ("DeleteTaskDefinitions",)),
    "cluster read": Limit(50, 20, ("DescribeClusters", "ListClusters")),
    "tag modify": Limit(20, 10, ("TagResource", "UntagResource")),
    "tag read": Limit(50, 20, ("ListTagsForResource",)),
    "GetLogEvents": Limit(25, 25, ("GetLogEvents",)),
    "FilterLogEvents": Limit(10, 10, ("FilterLogEvents",)),
    "DescribeLogStreams": Limit(25, 25, ("DescribeLogStreams",)),
}
# Fargate's own, in the 16 large Regions and elsewhere. They come on top, when the tasks are to run on Fargate.
FARGATE_LIMITS: dict[str, Limit] = {
    "Fargate calls": Limit(20, 20, ("Fargate RunTask",)),
    "Fargate launches": Limit(100, 20, ("Fargate RunTask",), per="task"),
}
SMALL_REGION_LIMITS: dict[str, Limit] = {
    "Fargate calls": Limit(20, 20, ("Fargate RunTask",)),
    "Fargate launches": Limit(25, 5, ("Fargate RunTask",), per="task"),
}


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since: float


@dataclass(slots=True)
class Buckets:
    """One Place's buckets. Empty `limits`: nothing is throttled."""

    clock: Clock
    limits: dict[str, Limit] = field(default_factory=dict)
    _buckets: dict[tuple[str, str], _Bucket] = field(default_factory=dict)

    def take(self, action: str, tasks: int = 1, capacity: str = "") -> bool:
        """False when a bucket of this action is empty; then nothing is taken from any.

        Buckets of tasks are kept apart by `capacity` (Fargate counts On-Demand and Spot apart).
        """
        now = self.clock.now()
        due: list[tuple[_Bucket, float]] = []
        for name, limit in self.limits.items():
            if action not in limit.actions:
                continue
            key = (name, capacity if limit.per == "task" else "")
            bucket = self._buckets.setdefault(key, _Bucket(limit.burst, now))
            bucket.tokens = min(limit.burst, bucket.tokens + (now - bucket.since) * limit.rate)
            bucket.since = now
            due.append((bucket, tasks if limit.per == "task" else 1))
        if any(bucket.tokens < cost for bucket, cost in due):
            return False
        for bucket, cost in due:
            bucket.tokens -= cost
        return True
