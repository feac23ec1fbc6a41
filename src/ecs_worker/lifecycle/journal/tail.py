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

`Sweeps` plan the second way, and `Reader` shares AWS's limits out
among the streams. All this is memory. If the process dies here, `output` says what the next worker knows of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from ecs_worker.aws.logs import LogEvent, Logs
    from ecs_worker.model import AwsTarget

MOST_DELAY = 120_000  # ms: how much later than its time a line may be shown; 5 to 20 s are usual
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
