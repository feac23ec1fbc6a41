"""Sieve: leaves out of a run's logs on the server what Prefect's logger in the container has sent there itself.

Whether it sends what it writes to the console depends on the image's settings, the logger and the level. So it is not
presumed: the first such lines of a deployment are held until they can be looked for in the run's logs, a few seconds
later. If they are there, further lines of that source and level are left out without asking. Asked is again

- about lines without a prefix right after such a line: they may belong to its message (a traceback), or be printed;
- about the last lines of a run that crashed: its container may have died before it sent them.

One answer serves up to a hundred lines, and a worker asks once in two seconds at most. What can't be checked within a
minute is shown: a line too many does less harm than one too few.

All this is memory. If the process dies here, the next worker reads what was held again: it isn't in the run's logs.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from ecs_worker.errors import PrefectError
from ecs_worker.lifecycle.journal.console import Logged, logged
from ecs_worker.lifecycle.journal.run_logs import LOGGER_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from ecs_worker.aws.logs import LogEvent
    from ecs_worker.model import ClaimedRun
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import LogEntry

log = logging.getLogger(__name__)

LOOK_EVERY = 2.0  # seconds
SENT_WITHIN = 5.0  # seconds; Prefect's logger sends every two
GIVE_UP = 60.0  # seconds
AT_ONCE = 100  # lines that are looked for together
LOGS_AT_MOST = 10  # pages that one look may read
SAME_MESSAGE = 50  # ms between two lines of one message: they are written at once
RECENT = 50  # of the lines that were left out unasked: those of a run that crashes are looked for
RECENT_SECONDS = 10
RECHECK = 600.0  # seconds that a source counts as one that isn't sent
MOST_KNOWN = 10_000  # sources; who names loggers by what they work on has ever new ones
CLOCKS = timedelta(seconds=5)  # between the container's clock and CloudWatch's times

_Source = tuple["UUID", str, int]  # deployment (or flow), source, level


@dataclass(slots=True)
class Held:
    """A line that may be in the run's logs already; `logged` None: it may go on with the message before it."""

    line: LogEvent
    logged: Logged | None
    level: int  # to be shown with
    since: float


@dataclass(slots=True, eq=False)
class Strainer:
    """One container's lines. `send` takes those to be shown, with their levels."""

    run: ClaimedRun
    send: Callable[[LogEvent, int], None]
    held: deque[Held] = field(default_factory=deque)
    recent: deque[tuple[LogEvent, Logged]] = field(default_factory=lambda: deque(maxlen=RECENT))
    doubted: bool = False
    message_until: int = 0  # ms: what is written by then may belong to the message before
    level: int = logging.INFO  # of that message
    shown: bool = False  # that message was shown
    head: tuple[LogEvent, Logged] | None = None  # its first line, if that was left out unasked


class Sieve:
    """Knows what containers send themselves."""

    def __init__(self, api: PrefectClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._sent: set[_Source] = set()
        self._not_sent: dict[_Source, float] = {}  # until when that counts
        self._waiting: dict[Strainer, None] = {}  # in the order in which they are looked at

    def __len__(self) -> int:
        return sum(len(strainer.held) for strainer in self._waiting)

    def take(self, strainer: Strainer, lines: Sequence[LogEvent]) -> None:
        """Show, hold or leave out new lines, which are in their order."""
        for line in lines:
            own = logged(line.message)
            if own is not None:
                self._take_logged(strainer, line, own)
            elif line.timestamp > strainer.message_until:
                strainer.send(line, logging.INFO)
            else:
                strainer.message_until = line.timestamp + SAME_MESSAGE
                if strainer.shown:
                    strainer.send(line, strainer.level)
                else:
                    self._hold_head(strainer)
                    self._hold(strainer, line, None, strainer.level)

    def doubt(self, strainer: Strainer) -> None:
        """The container may have died before it sent its last lines: look for them, and for those to come."""
        strainer.doubted, strainer.head = True, None
        for line, own in strainer.recent:
            self._hold(strainer, line, own, own.level)
        strainer.recent.clear()

    async def look(self) -> None:
        """Look for the lines of that run which has waited longest, if one has waited long enough."""
        now = self._clock()
        self._release(now)
        due = next((each for each in self._waiting if now - each.held[0].since >= SENT_WITHIN), None)
        if due is None:
            return
        some = list(islice(due.held, AT_ONCE))
        some += takewhile(
            lambda held: held.logged is None, islice(due.held, AT_ONCE, None)
        )  # they need the line before
        try:
            there = await self._there(due.run.run_id, some)
        except PrefectError as error:
            log.debug("Whether lines are in the logs of %s already is not known: %s", due.run.name, error)
        else:
            rest = [held.line for held in due.held][len(some) :]
            due.held.clear()
            self._settle(due, some, there)
            self.take(due, rest)  # much of it needs no look any more
        del self._waiting[due]
        if due.held:
            self._waiting[due] = None  # after the others

    def _take_logged(self, strainer: Strainer, line: LogEvent, own: Logged) -> None:
        source = _source(strainer, own)
        strainer.shown = self._not_sent.get(source, -1.0) > self._clock()
        strainer.message_until, strainer.level, strainer.head = line.timestamp + SAME_MESSAGE, own.level, None
        if strainer.shown:
            strainer.send(line, own.level)
        elif source not in self._sent or strainer.doubted:
            self._hold(strainer, line, own, own.level)
        else:
            strainer.head = (line, own)
            strainer.recent.append(strainer.head)
            while line.timestamp - strainer.recent[0][0].timestamp > RECENT_SECONDS * 1000:
                strainer.recent.popleft()

    def _hold_head(self, strainer: Strainer) -> None:
        """The message goes on: whether the rest is of it can only be told with its first line."""
        if strainer.head is not None:
            self._hold(strainer, *strainer.head, strainer.level)
            if strainer.recent and strainer.recent[-1] is strainer.head:
                strainer.recent.pop()
            strainer.head = None

    def _hold(self, strainer: Strainer, line: LogEvent, own: Logged | None, level: int) -> None:
        strainer.held.append(Held(line, own, level, self._clock()))
        self._waiting.setdefault(strainer)

    async def _there(self, run_id: UUID, some: Sequence[Held]) -> list[LogEntry]:
        """What the run's logs have of that time, but for what this worker has put there."""
        times = [held.line.timestamp for held in some]
        first, last = (datetime.fromtimestamp(each / 1000, UTC) for each in (min(times), max(times)))
        found = await self._api.logs_between(run_id, first - CLOCKS, last + CLOCKS, most_pages=LOGS_AT_MOST)
        return [entry for entry in found if not entry.name.startswith(LOGGER_PREFIX)]

    def _settle(self, strainer: Strainer, some: Sequence[Held], there: Sequence[LogEntry]) -> None:
        """Show what is not there, and learn from it."""
        by_text: dict[str, list[LogEntry]] = {}
        for entry in there:
            by_text.setdefault(_first_line(entry.message), []).append(entry)
        rest: list[str] | None = None  # lines of the message that goes on, if it is there
        for held in some:
            own, text = held.logged, held.line.message.rstrip()
            if own is None:
                if rest is not None and text in rest:
                    rest.remove(text)
                else:
                    strainer.send(held.line, held.level if rest is None else logging.INFO)
                continue
            same = next((each for each in by_text.get(own.text, ()) if own.is_at(_milliseconds(each))), None)
            rest = None if same is None else [line.rstrip() for line in same.message.splitlines()[1:]]
            source = _source(strainer, own)
            if same is not None:
                by_text[own.text].remove(same)
                self._sent.add(source)
                self._not_sent.pop(source, None)
            else:
                strainer.send(held.line, held.level)
                if not strainer.doubted and source not in self._sent:
                    self._not_sent[source] = self._clock() + RECHECK

        if len(self._sent) + len(self._not_sent) > MOST_KNOWN:
            self._sent.clear()
            self._not_sent.clear()

    def _release(self, now: float) -> None:
        """Show what has waited for too long."""
        for strainer in tuple(self._waiting):
            while strainer.held and now - strainer.held[0].since >= GIVE_UP:
                held = strainer.held.popleft()
                strainer.send(held.line, held.level)
            if not strainer.held:
                del self._waiting[strainer]


def _source(strainer: Strainer, own: Logged) -> _Source:
    return (strainer.run.deployment_id or strainer.run.flow_id, own.source, own.level)


def _first_line(message: str) -> str:
    return message.partition("\n")[0].rstrip()


def _milliseconds(entry: LogEntry) -> int:
    return int(entry.timestamp.timestamp() * 1000)
