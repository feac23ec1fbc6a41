"""Reader: reads many streams of many log groups, so that none waits for what isn't its own.

AWS counts calls by account and Region, and hands out each limit in the order of asking. So whoever asks for little at
a time waits little, however much others want: each group reads in two lanes that have but a few calls under way or
waiting for AWS's limits. In one are the streams that have been read up to the present (settled), in the other those
whose reading begins. A burst of new streams waits in its own lane only; settled ones are read on at their pace, and
other groups', Regions' and accounts' don't notice. A lane that is idle leaves all to the others.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import AwsError, EcsWorkerError
from ecs_worker.lifecycle.journal.sweeps import FEW_STREAMS, STREAMS_PER_CALL, Sweeps
from ecs_worker.lifecycle.journal.tail import MISSING, MOST_DELAY, Pace, Reading
from ecs_worker.verdicts.codes import ACCESS_DENIED, INVALID_PARAMETER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anyio.abc import TaskGroup

    from ecs_worker.aws.logs import Logs
    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.journal.tail import Tail
    from ecs_worker.model import AwsTarget

log = logging.getLogger(__name__)

SHORT_LOOK_BACK = 3_000  # ms that tips look back under load; sweeps find what is later than that
MOST_REMEMBERED = 400_000  # lines in all, some 80 bytes each; beyond it the memory goes back less than `MOST_DELAY`

LONG_PAGE = 1_000  # lines; after a page of so many the next one is asked for at once
TIP_PAGES = 20  # pages of one reading until the others have their turn
SWEEP_PAGES = 6  # likewise; the quota of FilterLogEvents is some five calls a second
# Calls of a group that are under way or wait for AWS's limits; each answer has up to 1 MB. Where both lanes want all
# they can get, these are also their shares.
SETTLED_AT_ONCE = 6
NEW_AT_ONCE = 2


class Group:
    """Reads the streams of one log group: in rounds all settled tips and a part of a sweep; beside them new ones."""

    def __init__(self, aws: Aws, target: AwsTarget, name: str, pace: Pace) -> None:
        self.name = name
        self.tails: list[Tail] = []
        self._aws = aws
        self._target = target
        self._pace = pace
        self._settled_lane = anyio.CapacityLimiter(SETTLED_AT_ONCE)
        self._new_lane = anyio.CapacityLimiter(NEW_AT_ONCE)
        self._in_round = False
        self._beginning: set[Tail] = set()
        self._latest = 0  # the newest ingestion time seen: CloudWatch's clock is at least there
        self._filter = True
        self._light = True  # the last tips took a page each
        self._sweeps = Sweeps(pace)
        self._error = ""

    @property
    def busy(self) -> bool:
        """Something is being read, or waits for it."""
        return self._in_round or bool(self._beginning)

    def start(self, readings: TaskGroup) -> None:
        """Start a round, unless the last one goes on, and the reading of each new stream that nobody reads yet."""
        if not self._in_round:
            self._in_round = True
            readings.start_soon(self._round)
        now = time.monotonic()
        for tail in self.tails:
            if not tail.caught_up and tail.retry_at <= now and tail not in self._beginning:
                self._beginning.add(tail)
                readings.start_soon(self._begin, tail)

    async def _begin(self, tail: Tail) -> None:
        """Read a new stream, up to the present or `TIP_PAGES` further. Page by page it queues up behind the others."""
        try:
            if (logs := await self._logs()) is not None:
                await self._read_one(logs, tail, self._new_lane)
        finally:
            self._beginning.discard(tail)
        if tail.drained:
            self._let_go()

    async def _round(self) -> None:
        """Read the settled tips, and a part of the sweep; let go of the streams that are at their ends."""
        try:
            if (logs := await self._logs()) is not None:
                await self._read_tips(logs)
                await self._sweep(logs)
            self._give_up()
            self._let_go()
        finally:
            self._in_round = False

    def _let_go(self) -> None:
        self.tails = [tail for tail in self.tails if not tail.drained]

    async def _logs(self) -> Logs | None:
        try:
            return await self._aws.logs(self._target)
        except EcsWorkerError as error:
            self._complain(error)
            return None

    # -- tips

    async def _read_tips(self, logs: Logs) -> None:
        settled = [tail for tail in self.tails if tail.caught_up]
        light: list[bool] = []
        async with anyio.create_task_group() as readings:
            if self._filter and len(settled) > FEW_STREAMS:
                for start in range(0, len(settled), STREAMS_PER_CALL):
                    readings.start_soon(self._read_many, logs, settled[start : start + STREAMS_PER_CALL], light)
            else:
                now = time.monotonic()
                for tail in [tail for tail in settled if tail.retry_at <= now]:
                    readings.start_soon(self._read_one, logs, tail, self._settled_lane)
        self._light = all(light)

    async def _read_one(self, logs: Logs, tail: Tail, lane: anyio.CapacityLimiter) -> None:
        try:
            if tail.prepare is not None:
                await tail.prepare(tail)
                tail.prepare = None
            reading = tail.reading()
            for _ in range(TIP_PAGES):
                count = await self._page(logs, reading, lane)
                if reading.done or 0 < count < LONG_PAGE:
                    tail.caught_up = True
                    break
            tail.recovered()
        except EcsWorkerError as error:
            self._failed(tail, error)

    async def _read_many(self, logs: Logs, tails: Sequence[Tail], light: list[bool]) -> None:
        tips = [tail.tip or tail.position for tail in tails]
        back = MOST_DELAY if self._light else SHORT_LOOK_BACK
        start = max(min(tips), max(tips) - back, min(tail.position for tail in tails))
        reading = Reading(tails, filtered=True, start=start)
        for tail in tails:
            tail.start_over(caught_up=True)
        try:
            while not reading.done and reading.pages < TIP_PAGES:
                await self._page(logs, reading, self._settled_lane)
            self._error = ""
        except EcsWorkerError as error:
            self._failed_together(tails, error)
        light.append(reading.pages <= 1)

    async def _page(self, logs: Logs, reading: Reading, lane: anyio.CapacityLimiter) -> int:
        async with lane:
            events = await reading.page(logs)
            if events:
                self._latest = max(self._latest, *(event.ingestion_time for event in events))
                await reading.pass_on(events)
            return len(events)

    # -- sweeps

    async def _sweep(self, logs: Logs) -> None:
        settled = [tail for tail in self.tails if tail.caught_up]
        self._sweeps.plan(settled, self._latest, together=self._filter)
        for _ in range(SWEEP_PAGES):
            if (reading := self._sweeps.current) is None:
                return
            try:
                await self._page(logs, reading, self._settled_lane)
            except EcsWorkerError as error:
                self._sweeps.abandon()
                self._failed_together(tuple(reading.tails.values()), error)
                return
            self._error = ""
            if reading.done:
                self._sweeps.settle()

    # -- trouble

    def _failed(self, tail: Tail, error: EcsWorkerError) -> None:
        code = error.code if isinstance(error, AwsError) else ""
        news = tail.failed(code or str(error))
        if code in {MISSING, INVALID_PARAMETER}:  # tokens live for 24 hours
            tail.start_over(caught_up=False)
        if code != MISSING:
            if news:
                log.warning("Log stream %s of group %s can't be read now: %s", tail.stream, self.name, error)
        elif tail.ended and time.monotonic() >= tail.quiet_since + tail.grace(self._pace):
            tail.drained = True  # awslogs makes the stream before the first line: there is none

    def _failed_together(self, tails: Sequence[Tail], error: EcsWorkerError) -> None:
        code = error.code if isinstance(error, AwsError) else ""
        if code == MISSING:  # one of them was deleted: reading them one by one tells which
            for tail in tails:
                tail.start_over(caught_up=False)
        elif isinstance(error, AwsError) and (code, error.operation) == (ACCESS_DENIED, "FilterLogEvents"):
            self._filter = False
            log.warning(
                "The streams of log group %s are read one by one, since logs:FilterLogEvents is not allowed. Allow it "
                "in the worker's policy to read many at once.",
                self.name,
            )
        else:
            self._complain(error)

    def _complain(self, error: EcsWorkerError) -> None:
        told = error.code if isinstance(error, AwsError) else str(error)
        if told != self._error:
            self._error = told
            log.warning("Log group %s can't be read now: %s", self.name, error)

    def _give_up(self) -> None:
        now = time.monotonic()
        for tail in self.tails:
            trouble = tail.error or self._error
            if tail.ended and trouble and now >= tail.quiet_since + self._pace.give_up:
                tail.drained = True
                log.warning("Log stream %s of group %s may have more lines: %s", tail.stream, self.name, trouble)


class Reader:
    """Reads all tails that are added to it until they are drained."""

    def __init__(self, aws: Aws, pace: Pace | None = None) -> None:
        self._aws = aws
        self._pace = pace or Pace()
        self._groups: dict[tuple[tuple[str, str], str, bool], Group] = {}

    def __iter__(self) -> Iterator[Tail]:
        return (tail for group in self._groups.values() for tail in group.tails)

    def __len__(self) -> int:
        return sum(len(group.tails) for group in self._groups.values())

    def add(self, tail: Tail) -> None:
        """Begin to read it with the next round."""
        key = (tail.target.key, tail.group, tail.last is not None)  # the same stream may be read in both ways
        if key not in self._groups:
            self._groups[key] = Group(self._aws, tail.target, tail.group, self._pace)
        self._groups[key].tails.append(tail)

    def move(self, tail: Tail, target: AwsTarget) -> None:
        """Its credentials have turned over: go on with others, from where the reading has come to."""
        for group in self._groups.values():
            if tail in group.tails:
                group.tails.remove(tail)
        tail.target = target
        tail.start_over(caught_up=False)
        self.add(tail)

    async def run(self) -> None:
        """Read for ever. Groups don't wait for each other: a Region that fails holds nobody up."""
        async with anyio.create_task_group() as readings:
            while True:
                for group in self._groups.values():
                    group.start(readings)
                self._bound()
                await anyio.sleep(self._pace.tip)

    async def once(self) -> None:
        """One round of all groups."""
        async with anyio.create_task_group() as readings:
            for group in self._groups.values():
                group.start(readings)
        self._bound()

    def _bound(self) -> None:
        """Forget empty groups, and the oldest lines when there are too many: what of that time comes later is lost."""
        self._groups = {key: group for key, group in self._groups.items() if group.tails or group.busy}
        kept = sum(tail.kept for tail in self)
        if kept > MOST_REMEMBERED:
            for tail in self:
                tail.close(tail.tip - MOST_DELAY * MOST_REMEMBERED // kept)
