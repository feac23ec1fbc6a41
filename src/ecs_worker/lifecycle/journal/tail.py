"""Tail: read CloudWatch log streams while they are written, each line once.

CloudWatch shows lines late and out of order, and its forward tokens may pass by what comes late. So every stream is
read in two ways at once:

- at its tip, every two seconds: what is new. One or two streams of a group each by GetLogEvents and its token; more
  of them together, up to 100, by FilterLogEvents, which has the smaller quota but needs one call only.
- by sweeps, from its `position` on: what came late. While there is little to read, a sweep reads up to the present.
  Under load it reads each stretch of time once more when it is `MOST_DELAY` old, and no more lines are due there.

A line is recognised by its time and text and, among lines alike, by its number: in both ways of reading, and in what
was passed on before a restart. That memory goes back to `position` only. The position stays `MOST_DELAY` behind
CloudWatch's own clock (ingestion times), whatever our clock says.

A stream's first reading is by GetLogEvents: it shows whether the stream exists (FilterLogEvents fails if one of its
streams doesn't), and it has the larger quota for long stretches.

All this is memory. If the process dies here, `output` says what the next worker knows of it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

from ecs_worker.errors import AwsError, EcsWorkerError
from ecs_worker.verdicts.codes import ACCESS_DENIED, INVALID_PARAMETER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from ecs_worker.aws.logs import LogEvent, Logs
    from ecs_worker.aws.session import Aws
    from ecs_worker.model import AwsTarget

log = logging.getLogger(__name__)

MOST_DELAY = 120_000  # ms: how much later than its time a line may be shown; 5 to 20 s are usual
SHORT_LOOK_BACK = 3_000  # ms that tips look back under load; sweeps find what is later than that
MOST_REMEMBERED = 400_000  # lines in all, some 80 bytes each; beyond it the memory goes back less than `MOST_DELAY`

STREAMS_PER_CALL = 100  # FilterLogEvents takes no more
FEW_STREAMS = 2  # of a group; so few are read one by one
LONG_PAGE = 1_000  # lines; after a page of so many the next one is asked for at once
TIP_PAGES = 20  # pages of one reading until the others have their turn
SWEEP_PAGES = 6  # likewise; the quota of FilterLogEvents is some five calls a second
ANSWERS_AT_ONCE = 8  # answers of up to 1 MB held at the same time
LINES_AT_ONCE = 500  # lines passed on without a pause: some milliseconds
LONGEST_RETRY_WAIT = 15.0  # seconds between two attempts to read a stream that can't be read

MISSING = "ResourceNotFoundException"


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to read, and when a stream of a stopped task is at its end. Seconds.

    Its end: after the stop, or the last line, nothing has come for twice the longest delay that the stream's lines
    had, at least `quiet` and at most `patience`; `unseen` if it never had a line, so that its delay is not known.
    """

    tip: float = 2.0
    sweep: float = 10.0
    quiet: float = 15.0
    unseen: float = 35.0
    patience: float = 60.0
    give_up: float = 300.0  # after which a stopped task's stream that can't be read is left alone


@dataclass(slots=True, eq=False)
class Tail:
    """One stream, and where its reading has come to. Times of lines are milliseconds since 1970, as CloudWatch's.

    `sink` takes new lines, in their order. `position`: what is older was passed on, or isn't wanted. `last`: begin with
    at most that many of the newest lines. `prepare` is awaited before the first reading, and again if it fails.
    """

    target: AwsTarget
    group: str
    stream: str
    sink: Callable[[Sequence[LogEvent]], None]
    position: int = 0
    last: int | None = None
    prepare: Callable[[Tail], Awaitable[None]] | None = None
    ended: bool = False
    drained: bool = False
    quiet_since: float = field(default_factory=time.monotonic)
    caught_up: bool = False
    tip: int = 0
    delay: float | None = None
    kept: int = 0
    error: str = ""
    retry_at: float = 0.0
    _wait: float = 0.0
    _reading: Reading | None = None
    _seen: dict[int, set[int]] = field(default_factory=dict)

    def end(self) -> None:
        """Its container has stopped: no more lines will be written."""
        if not self.ended:
            self.ended = True
            self.quiet_since = time.monotonic()

    def grace(self, pace: Pace) -> float:
        """How long it must be quiet to be at its end."""
        return pace.unseen if self.delay is None else min(max(pace.quiet, 2 * self.delay), pace.patience)

    def know(self, lines: Iterable[tuple[int, str]]) -> None:
        """These lines, in order of their times, were passed on before."""
        numbers: dict[tuple[int, str], int] = {}
        for timestamp, message in lines:
            number = numbers[timestamp, message] = numbers.get((timestamp, message), 0) + 1
            self.remember(timestamp, message, number)

    def remember(self, timestamp: int, message: str, number: int) -> bool:
        """Whether the line (the `number`th of its time and text) is new; from now on it isn't."""
        keys = self._seen.setdefault(timestamp // 1000, set())
        before = len(keys)
        keys.add(hash((timestamp, message, number)))  # 64 bits: that two lines share one is as good as impossible
        new = len(keys) - before
        self.kept += new
        return bool(new)

    def close(self, until: int) -> None:
        """Nothing older than `until` will be looked at any more."""
        if until > self.position:
            self.position = until
            for second in [second for second in self._seen if second < until // 1000]:
                self.kept -= len(self._seen.pop(second))

    def deliver(self, lines: Sequence[LogEvent]) -> None:
        """Pass new lines on."""
        self.quiet_since = time.monotonic()
        self.tip = max(self.tip, lines[-1].timestamp)
        self.delay = max(self.delay or 0.0, max(line.ingestion_time - line.timestamp for line in lines) / 1000)
        self.sink(lines)

    def reading(self) -> Reading:
        """The reading by its own token, which goes on and on."""
        if self._reading is None:
            self._reading = Reading([self], filtered=False)
        return self._reading

    def start_over(self, *, caught_up: bool) -> None:
        """The token isn't good any more, or not needed."""
        self._reading = None
        self.caught_up = caught_up

    def failed(self, error: str) -> bool:
        """Wait before the next attempt, longer each time; whether this is a new kind of trouble."""
        news = error != self.error
        self.error = error
        self._wait = min(self._wait * 2 or 1.0, LONGEST_RETRY_WAIT)
        self.retry_at = time.monotonic() + self._wait
        return news

    def recovered(self) -> None:
        """It could be read."""
        self.error = ""
        self._wait = self.retry_at = 0.0


class Reading:
    """One way through a stretch of time, page after page by token: of one stream, or `filtered` of several.

    `done`: the last page showed the end, for now. `latest`: the newest ingestion time that was known when it began.
    """

    def __init__(
        self,
        tails: Sequence[Tail],
        *,
        filtered: bool,
        start: int | None = None,
        end: int | None = None,
        latest: int = 0,
    ) -> None:
        self.tails = {tail.stream: tail for tail in tails}
        self.began = time.monotonic()
        self.end = end
        self.latest = latest
        self.filtered = filtered
        self.done = False
        self.pages = 0
        self._start = min(tail.position for tail in tails) if start is None else start
        self._token: str | None = None
        self._alike: dict[str, tuple[int, dict[str, int], set[str]]] = {}

    async def page(self, logs: Logs) -> list[LogEvent]:
        """The next page. Raises AwsError."""
        group = next(iter(self.tails.values())).group
        token: str | None
        if self.filtered:
            events, token = await logs.filter_log_events(
                group, list(self.tails), start_time=self._start or None, end_time=self.end, token=self._token
            )
            self.done = token is None
        else:
            ((stream, tail),) = self.tails.items()
            last = tail.last if self._token is None else None
            events, token = await logs.get_log_events(
                group,
                stream,
                self._token,
                start_time=None if last else self._start or None,
                end_time=self.end,
                start_from_head=not last,
                limit=last,
            )
            self.done = token == self._token
            if last:
                tail.last = None
            if last and len(events) == last:
                tail.close(events[0].timestamp + 1)  # later readings don't go behind these
                tail.deliver(events)
                tail.know((event.timestamp, event.message) for event in events)
                events = []
        self._token = token
        self.pages += 1
        return events

    async def pass_on(self, events: Sequence[LogEvent]) -> None:
        """Give each tail those of its lines that are new."""
        only = next(iter(self.tails)) if not self.filtered else ""
        for start in range(0, len(events), LINES_AT_ONCE):
            fresh: dict[str, list[LogEvent]] = {}
            for event in events[start : start + LINES_AT_ONCE]:
                stream = only or event.stream
                if self._is_new(self.tails[stream], stream, event):
                    fresh.setdefault(stream, []).append(event)
            for stream, lines in fresh.items():
                self.tails[stream].deliver(lines)
            await checkpoint()

    def _is_new(self, tail: Tail, stream: str, event: LogEvent) -> bool:
        timestamp, message = event.timestamp, event.message.replace("\x00", "")  # as Prefect keeps it
        if timestamp < tail.position:
            return False
        alike = self._alike.get(stream)
        if alike is None or alike[0] != timestamp:
            alike = self._alike[stream] = (timestamp, {}, set())
        _, numbers, ids = alike
        if event.event_id:
            if event.event_id in ids:  # FilterLogEvents may repeat an event
                return False
            ids.add(event.event_id)
        number = numbers[message] = numbers.get(message, 0) + 1
        return tail.remember(timestamp, message, number)


class Sweeps:
    """The second way of reading a group's streams: which stretches of time are due, and what is known after each.

    `Group` does the reading. A stretch that isn't read to its end is planned again.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._planned: deque[Reading] = deque()
        self._regular: list[Reading] = []  # of the latest regular sweep, read or not
        self._regular_at = 0.0
        self._cheap = True  # the latest regular sweep took hardly more pages than it had to

    @property
    def current(self) -> Reading | None:
        """What is to be read now."""
        return self._planned[0] if self._planned else None

    def plan(self, tails: Sequence[Tail], latest: int, *, together: bool) -> None:
        """When all that was planned is read: plan what is due of these streams.

        `latest` is the newest ingestion time known. `together`: many streams may be read with one call.
        """
        if self._planned:
            return
        now = time.monotonic()
        at_end = [t for t in tails if t.ended and now >= t.quiet_since + t.grace(self._pace)]
        self._planned.extend(_readings(at_end, latest, None, together=together))
        if now >= self._regular_at:
            if self._regular:
                self._cheap = sum(reading.pages for reading in self._regular) <= 2 * len(self._regular)
            self._regular_at = now + self._pace.sweep
            end = None if self._cheap else latest - MOST_DELAY
            self._regular = _readings(set(tails).difference(at_end), latest, end, together=together)
            self._planned.extend(self._regular)

    def settle(self) -> None:
        """The current stretch is read to its end: it is complete, except for its last `MOST_DELAY`."""
        reading = self._planned.popleft()
        for tail in reading.tails.values():
            tail.close(reading.latest - MOST_DELAY)
            whole = reading.end is None and tail.caught_up
            if whole and tail.ended and reading.began >= tail.quiet_since + tail.grace(self._pace):
                tail.drained = True

    def abandon(self) -> None:
        """The current stretch can't be read: plan anew."""
        self._planned.clear()


def _readings(tails: Iterable[Tail], latest: int, end: int | None, *, together: bool) -> list[Reading]:
    """Readings of these streams up to `end`, with those together that have come equally far."""
    tails = sorted((t for t in tails if end is None or t.position < end), key=lambda tail: tail.position)
    filtered = together and len(tails) > FEW_STREAMS
    size = STREAMS_PER_CALL if filtered else 1
    return [
        Reading(tails[start : start + size], filtered=filtered, end=end, latest=latest)
        for start in range(0, len(tails), size)
    ]


class Group:
    """Reads the streams of one log group: in each round all their tips, and a part of a sweep."""

    def __init__(self, aws: Aws, target: AwsTarget, name: str, pace: Pace, limiter: anyio.CapacityLimiter) -> None:
        self.name = name
        self.tails: list[Tail] = []
        self.busy = False
        self._aws = aws
        self._target = target
        self._pace = pace
        self._limiter = limiter
        self._latest = 0  # the newest ingestion time seen: CloudWatch's clock is at least there
        self._filter = True
        self._light = True  # the last tips took a page each
        self._sweeps = Sweeps(pace)
        self._error = ""

    async def once(self) -> None:
        """Read the tips, and a part of the sweep; let go of the streams that are at their ends."""
        try:
            logs = await self._aws.logs(self._target)
        except EcsWorkerError as error:
            self._complain(error)
        else:
            await self._read_tips(logs)
            await self._sweep(logs)
        self._give_up()
        self.tails = [tail for tail in self.tails if not tail.drained]

    # -- tips

    async def _read_tips(self, logs: Logs) -> None:
        now = time.monotonic()
        settled = [tail for tail in self.tails if tail.caught_up]
        together = settled if self._filter and len(settled) > FEW_STREAMS else []
        one_by_one = [t for t in self.tails if t.retry_at <= now and not (together and t.caught_up)]
        light: list[bool] = []
        async with anyio.create_task_group() as readings:
            for tail in one_by_one:
                readings.start_soon(self._read_one, logs, tail)
            for start in range(0, len(together), STREAMS_PER_CALL):
                readings.start_soon(self._read_many, logs, together[start : start + STREAMS_PER_CALL], light)
        self._light = all(light)

    async def _read_one(self, logs: Logs, tail: Tail) -> None:
        try:
            if tail.prepare is not None:
                await tail.prepare(tail)
                tail.prepare = None
            reading = tail.reading()
            for _ in range(TIP_PAGES):
                count = await self._page(logs, reading)
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
                await self._page(logs, reading)
            self._error = ""
        except EcsWorkerError as error:
            self._failed_together(tails, error)
        light.append(reading.pages <= 1)

    async def _page(self, logs: Logs, reading: Reading) -> int:
        async with self._limiter:
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
                await self._page(logs, reading)
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
        self._limiter = anyio.CapacityLimiter(ANSWERS_AT_ONCE)

    def __iter__(self) -> Iterator[Tail]:
        return (tail for group in self._groups.values() for tail in group.tails)

    def __len__(self) -> int:
        return sum(len(group.tails) for group in self._groups.values())

    def add(self, tail: Tail) -> None:
        """Begin to read it with the next round."""
        key = (tail.target.key, tail.group, tail.last is not None)  # the same stream may be read in both ways
        if key not in self._groups:
            self._groups[key] = Group(self._aws, tail.target, tail.group, self._pace, self._limiter)
        self._groups[key].tails.append(tail)

    async def run(self) -> None:
        """Read for ever. Groups don't wait for each other: a Region that fails holds nobody up."""
        async with anyio.create_task_group() as rounds:
            while True:
                for group in self._groups.values():
                    if not group.busy:
                        rounds.start_soon(self._round, group)
                self._bound()
                await anyio.sleep(self._pace.tip)

    async def once(self) -> None:
        """One round of all groups."""
        async with anyio.create_task_group() as rounds:
            for group in self._groups.values():
                rounds.start_soon(self._round, group)
        self._bound()

    async def _round(self, group: Group) -> None:
        group.busy = True
        try:
            await group.once()
        finally:
            group.busy = False

    def _bound(self) -> None:
        """Forget empty groups, and the oldest lines when there are too many: what of that time comes later is lost."""
        self._groups = {key: group for key, group in self._groups.items() if group.tails or group.busy}
        kept = sum(tail.kept for tail in self)
        if kept > MOST_REMEMBERED:
            for tail in self:
                tail.close(tail.tip - MOST_DELAY * MOST_REMEMBERED // kept)
