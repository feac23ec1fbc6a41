"""The Prefect server, the work pool and its queues."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from ecs_worker.doctor.finding import Finding, Group, Line, Untold
from ecs_worker.errors import PrefectUnauthorized
from ecs_worker.job.upgrade import upgraded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ecs_worker.prefect_api.schemas import WorkPool, WorkQueue
    from ecs_worker.prefect_api.transport import ServerTime

OLDEST, NEWEST = (2, 20), (3,)
"""The oldest version of the server, and the newest line of them, with which the worker is tried."""
CHANNEL_SINCE = (3, 7, 2)
_SLOW = timedelta(seconds=5)  # a server's Date may be two seconds old
_WRONG = timedelta(minutes=1)
_PROXIES = "Let proxies in front of the server pass WebSockets on."
_REACH_REMEDY = "Start the server, or correct PREFECT_API_URL: the URL of its API, as this machine reaches it."


@dataclass(frozen=True)
class PrefectFacts:
    """What the API says. `url` is as it may be told.

    `version` None: Prefect Cloud. `wanted`: the pool's name, if one is known; `pool` None: there is none of that name.
    `served`: queues whose runs are asked about; empty: all. `slots`: taken ones of the pool (key "") and of its queues
    that have a limit. `event_stream` and `channel`: why they can't be used; empty: they can.
    """

    url: str
    time: ServerTime | Untold
    version: str | Untold | None = None
    wanted: str | None = None
    pool: WorkPool | Untold | None = None
    queues: list[WorkQueue] | Untold = field(default_factory=list)
    served: frozenset[str] = frozenset()
    slots: Mapping[str, int | Untold] = field(default_factory=dict)
    event_stream: str | Untold = ""
    channel: str | Untold = ""

    @property
    def obstacle(self) -> str:
        """Why nothing can be asked of the API; empty: it can."""
        if isinstance(self.time, Untold):
            return "the Prefect API doesn't answer"
        if isinstance(self.version, Untold):
            return "the Prefect API doesn't do what it is asked"
        return ""

    @property
    def release(self) -> tuple[int, ...]:
        """The server's version as numbers; that of Cloud is beyond all others."""
        if not isinstance(self.version, str):
            return (999,)
        return tuple(int(number) for number in re.findall(r"\d+", self.version)[:3])

    @property
    def pool_obstacle(self) -> str:
        """Why the pool can't be looked at; empty: it can."""
        if self.obstacle:
            return self.obstacle
        if self.wanted is None:
            return "no work pool is named: give --pool"
        if self.pool is None:
            return f"there is no work pool {self.wanted}"
        if isinstance(self.pool, Untold):
            return f"the work pool {self.wanted} can't be read"
        return f"the work pool {self.wanted} is not of type ecs" if self.pool.type != "ecs" else ""


def findings(facts: PrefectFacts) -> Iterator[Finding]:
    """Of all checks of the group."""
    yield reachable(facts)
    for check, judge in _OF_SERVER.items():
        line = Line(Group.PREFECT, check)
        yield line.skipped("the Prefect API doesn't answer") if isinstance(facts.time, Untold) else judge(line, facts)
    yield work_pool(Line(Group.PREFECT, "work pool"), facts)
    for check, judge in _OF_POOL.items():
        line = Line(Group.PREFECT, check)
        yield line.skipped(facts.pool_obstacle) if facts.pool_obstacle else judge(line, facts)


def reachable(facts: PrefectFacts) -> Finding:
    """Whether anybody answers there."""
    line = Line(Group.PREFECT, "reachable")
    if isinstance(facts.time, Untold):
        return line.failed(facts.time.why.rstrip("."), _REACH_REMEDY)
    return line.ok(f"{facts.url} answers")


def authenticated(line: Line, facts: PrefectFacts) -> Finding:
    """Whether it takes our credentials, and is Prefect's API at all."""
    if not isinstance(facts.version, Untold):
        return line.ok("the API takes the credentials, or asks for none")
    if isinstance(facts.version.error, PrefectUnauthorized):
        return line.failed(
            facts.version.why.rstrip("."),
            "Set PREFECT_API_KEY, or PREFECT_API_AUTH_STRING for a server that asks for user:password.",
        )
    return line.failed(facts.version.why.rstrip("."), "Correct PREFECT_API_URL: it ends in /api, on Cloud in …/ID.")


def version(line: Line, facts: PrefectFacts) -> Finding:
    """Whether the worker is made for it."""
    if isinstance(facts.version, Untold):
        return line.skipped(facts.obstacle)
    if facts.version is None:
        return line.ok("Prefect Cloud")
    if facts.release < OLDEST:
        return line.failed(f"Prefect {facts.version} is too old", "Update the server to 3.x; the oldest is 2.20.")
    if facts.release[:1] > NEWEST:
        return line.warning(
            f"Prefect {facts.version} is newer than what the worker is tried with",
            "Update ecs-worker, if there is one.",
        )
    return line.ok(f"Prefect {facts.version}")


def clock(line: Line, facts: PrefectFacts) -> Finding:
    """Whether the server's clock and ours agree."""
    time = facts.time
    if isinstance(time, Untold) or time.told is None:
        return line.warning(
            "the server doesn't tell its time", "Compare the clocks by hand, if runs start at odd times."
        )
    off = max(time.told - time.answered, time.asked - time.told, timedelta())
    seconds = f"{off.total_seconds():.0f} s"
    if off <= _SLOW:
        return line.ok("the server's clock and ours agree")
    told = f"this machine's clock and the server's differ by {seconds}"
    remedy = "Let NTP set both clocks: runs start early or late by as much, and AWS refuses requests from 5 minutes on."
    return line.failed(told, remedy) if off >= _WRONG else line.warning(told, remedy)


def event_stream(line: Line, facts: PrefectFacts) -> Finding:
    """Whether cancellations come at once."""
    if isinstance(facts.version, Untold):
        return line.skipped(facts.obstacle)
    if isinstance(facts.event_stream, Untold):
        return line.untold(facts.event_stream)
    if not facts.event_stream:
        return line.ok("cancellations come at once")
    told = f"can't be used ({facts.event_stream}): cancellations are found by polling, some seconds later"
    return line.warning(told, "Update the server to 3.x, if that is too slow." if facts.release < NEWEST else _PROXIES)


def work_pool(line: Line, facts: PrefectFacts) -> Finding:
    """Whether it is there, and ours."""
    if facts.obstacle or facts.wanted is None:
        return line.skipped(facts.pool_obstacle)
    name, pool = facts.wanted, facts.pool
    if isinstance(pool, Untold):
        return line.failed(f"{name} can't be read: {pool.why.rstrip('.')}", "Look at the server's log.")
    if pool is None:
        return line.failed(
            f"there is none called {name}", f"Correct the name, or make it: `ecs-worker pool create {name}`."
        )
    if pool.type != "ecs":
        return line.failed(f"{name} is of type {pool.type!r}, not 'ecs'", "Name a work pool of type 'ecs'.")
    return line.ok(f"{name}, of type ecs")


def template(line: Line, facts: PrefectFacts) -> Finding:
    """Whether the pool knows all job variables."""
    pool = _pool(facts)
    if pool.base_job_template and upgraded(pool.base_job_template).template == pool.base_job_template:
        return line.ok("is current")
    lacks = "lacks what is new in this version" if pool.base_job_template else "is empty"
    return line.warning(lacks, f"Bring it up to date: `ecs-worker pool update {pool.name}`; your own edits stay.")


def paused(line: Line, facts: PrefectFacts) -> Finding:
    """Whether runs wait because somebody wants them to."""
    pool = _pool(facts)
    if pool.is_paused:
        return line.failed(
            f"the work pool {pool.name} is paused: all its runs wait", f"`prefect work-pool resume {pool.name}`."
        )
    if isinstance(facts.queues, Untold):
        return line.untold(facts.queues)
    names = [queue.name for queue in facts.queues if queue.is_paused]
    if not names:
        return line.ok("neither the pool nor a queue is")
    told = f"runs of these work queues wait: {', '.join(names)}"
    remedy = f"`prefect work-queue resume {names[0]} --pool {pool.name}`."
    return line.failed(told, remedy) if facts.served & set(names) else line.warning(told, remedy)


def limits(line: Line, facts: PrefectFacts) -> Finding:
    """Whether there is room for another run."""
    pool = _pool(facts)
    if isinstance(facts.queues, Untold):
        return line.untold(facts.queues)
    known = [("the work pool", "", pool.concurrency_limit)]
    known += [(f"the work queue {queue.name}", queue.name, queue.concurrency_limit) for queue in facts.queues]
    limited = [(words, facts.slots.get(key, 0), limit) for words, key, limit in known if limit is not None]
    for words, taken, limit in limited:
        raising = f"raise the concurrency limit of {words}"
        if limit == 0:
            return line.failed(f"that of {words} is 0: none of its runs ever starts", f"{raising.capitalize()}.")
        if isinstance(taken, Untold):
            return line.untold(taken)
        if taken >= limit:
            told = f"that of {words} is reached ({taken} of {limit}): its runs wait until others end"
            return line.warning(told, f"Wait, or {raising}; Pending runs whose worker died hold slots, too.")
    return line.ok("; ".join(f"{taken} of {limit} of {words}" for words, taken, limit in limited) or "there is none")


def channel(line: Line, facts: PrefectFacts) -> Finding:
    """Whether changes of the pool come at once."""
    if isinstance(facts.channel, Untold):
        return line.untold(facts.channel)
    if not facts.channel:
        return line.ok("changes of the pool come at once")
    told = f"can't be used ({facts.channel}): heartbeats and changes of the pool use other calls"
    return line.warning(told, "Update the server to 3.7.2 or later." if facts.release < CHANNEL_SINCE else _PROXIES)


_OF_SERVER: dict[str, Callable[[Line, PrefectFacts], Finding]] = {
    "authenticated": authenticated,
    "version": version,
    "clock": clock,
    "event stream": event_stream,
}
_OF_POOL: dict[str, Callable[[Line, PrefectFacts], Finding]] = {
    "base job template": template,
    "paused": paused,
    "concurrency limits": limits,
    "worker channel": channel,
}


def _pool(facts: PrefectFacts) -> WorkPool:
    assert facts.pool is not None, "pool_obstacle comes first"
    assert not isinstance(facts.pool, Untold), "likewise"
    return facts.pool
