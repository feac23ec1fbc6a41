"""Budget: in which order calls to the Prefect API go out, and how many a minute.

Prefect Cloud allows an account 250 to 2,000 calls a minute, by its plan, for all its workers and flows together; it
doesn't say how many, but answers 429 above that (Prefect documentation, "Rate limits"). So on Cloud the calls begin at
the lowest plan's rate, which rises while they wait and no 429 comes, and is halved by each that does. Elsewhere there
is no limit until the first 429 with a Retry-After.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Urgency(IntEnum):
    """What goes first, when not all can."""

    BEAT = 0  # heartbeats and leases: who is late with them is taken for dead
    POLL = 1
    RUN = 2  # claims, launches, ends
    TELL = 3  # labels, log lines, events
    ADOPT = 4
    LABEL = 5  # of adopted runs: thousands at once after a restart, and nobody waits for them


URGENCY: ContextVar[Urgency] = ContextVar("urgency", default=Urgency.RUN)
"""That of the calls which the present task makes; `as_urgent` sets it."""

CLOUD_PER_MINUTE = 250.0  # the lowest plan's
LEAST_PER_MINUTE = 60.0
RISE_PER_MINUTE = 480.0  # each minute, while calls wait
BURST_SECONDS = 15.0  # an idle worker saves up the calls of so many seconds
LABELS_PER_SECOND, LABELS_BURST = 8.0, 40.0  # also where no limit is known
RESERVED = 0.25  # of the burst, which TELL and what follows leave to the others
LONGEST_CLOSED = 300.0  # seconds that a Retry-After is obeyed
SHORTEST_WAIT = 0.001  # seconds; sums of floats fall short of a token by less
SAME_REFUSAL = 5.0  # seconds in which several 429 count once
TURN_OF_THE_LAST = 8  # of so many calls that waited, one is of the least urgency: nothing waits for ever


@contextmanager
def as_urgent(urgency: Urgency) -> Iterator[None]:
    """What is called inside, and what is begun there, goes by this urgency; what tells of runs by the lesser one."""
    token = URGENCY.set(max(urgency, URGENCY.get()) if urgency >= Urgency.TELL else urgency)
    try:
        yield
    finally:
        URGENCY.reset(token)


class Budget:
    """Lets `at_once` calls go at a time, and one heartbeat more. `per_minute` None: no limit is known."""

    def __init__(self, at_once: int, per_minute: float | None = None) -> None:
        self._at_once = at_once
        self._rate = per_minute / 60 if per_minute is not None else None
        self._tokens = per_minute / 60 * BURST_SECONDS if per_minute is not None else 0.0
        self._label_tokens = LABELS_BURST
        self._filled_at: float | None = None
        self._closed_until = 0.0
        self._refused_at = -LONGEST_CLOSED
        self._sent: deque[float] = deque()  # when, within the last minute
        self._under_way = 0
        self._granted = 0
        self._waiting: dict[Urgency, deque[asyncio.Future[None]]] = {urgency: deque() for urgency in Urgency}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def per_minute(self) -> float | None:
        """How many calls go out in the long run; None: no limit is known."""
        return self._rate * 60 if self._rate is not None else None

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until a call may be made, in the order of urgency, and make it inside."""
        await self._admitted(URGENCY.get())
        try:
            yield
        finally:
            self._under_way -= 1
            self._admit()

    def refused(self, after: float | None) -> None:
        """The API answered 429, and perhaps for how many seconds it is to be left alone: that holds for all calls.

        Without that, and where no limit is known, it may be a proxy's passing trouble: only the call itself waits.
        """
        if after is None and self._rate is None:
            return
        now = self._now()
        self._fill(now)
        self.closed(after or 0.0)
        if now - self._refused_at < SAME_REFUSAL:
            return
        self._refused_at = now
        seen = len(self._sent) / 60
        self._rate = max(LEAST_PER_MINUTE / 60, (seen if self._rate is None else min(self._rate, seen)) / 2)
        self._tokens = min(self._tokens, 0.0)

    def closed(self, after: float) -> None:
        """The API asked to be left alone for so many seconds."""
        self._closed_until = max(self._closed_until, self._now() + min(after, LONGEST_CLOSED))

    async def _admitted(self, urgency: Urgency) -> None:
        if not any(self._waiting.values()) and self._wait_of(urgency) == 0.0:
            self._grant(urgency)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[urgency].append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._under_way -= 1  # it was admitted at the same moment
            self._admit()
            raise

    def _admit(self) -> None:
        """Let those go who may, the most urgent first, and see to the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (urgency := self._next()) is not None:
            wait = self._wait_of(urgency)
            if wait is None:
                return  # until a call has ended
            if wait > 0:
                self._timer = asyncio.get_running_loop().call_later(wait, self._admit)
                return
            self._grant(urgency)
            self._waiting[urgency].popleft().set_result(None)

    def _next(self) -> Urgency | None:
        for turns in self._waiting.values():
            while turns and turns[0].done():
                turns.popleft()  # it was cancelled
        waiting = [urgency for urgency, turns in self._waiting.items() if turns]
        if not waiting:
            return None
        last = waiting[-1]
        if waiting[0] > Urgency.POLL and self._granted % TURN_OF_THE_LAST == 0 and self._wait_of(last) == 0.0:
            return last
        return waiting[0]

    def _wait_of(self, urgency: Urgency) -> float | None:
        """Seconds until such a call may go; None: until another has ended."""
        now = self._now()
        self._fill(now)
        if self._under_way >= self._at_once + (urgency is Urgency.BEAT):
            return None
        wait = max(self._closed_until - now, 0.0)
        if urgency is Urgency.LABEL:
            wait = max(wait, (1 - self._label_tokens) / LABELS_PER_SECOND)
        if self._rate is not None and urgency is not Urgency.BEAT:
            kept = RESERVED * self._rate * BURST_SECONDS if urgency >= Urgency.TELL else 0.0
            wait = max(wait, (1 + kept - self._tokens) / self._rate)
        return wait if wait > SHORTEST_WAIT else 0.0

    def _grant(self, urgency: Urgency) -> None:
        self._under_way += 1
        self._granted += 1
        self._sent.append(self._now())
        if self._rate is not None:
            self._tokens -= 1
        if urgency is Urgency.LABEL:
            self._label_tokens -= 1

    def _fill(self, now: float) -> None:
        passed = now - (self._filled_at if self._filled_at is not None else now)
        self._filled_at = now
        while self._sent and now - self._sent[0] > 60:  # noqa: PLR2004 - a minute
            self._sent.popleft()
        self._label_tokens = min(LABELS_BURST, self._label_tokens + passed * LABELS_PER_SECOND)
        if self._rate is not None:
            self._tokens = min(self._rate * BURST_SECONDS, self._tokens + passed * self._rate)
            if any(self._waiting.values()) and now > self._closed_until:
                self._rate += passed * RISE_PER_MINUTE / 60 / 60

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
