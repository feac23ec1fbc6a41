"""The feed: log lines for the runs' own logs, gathered and sent to the server in batches.

Lines wait in memory for a moment. If the process dies here, at most the last `SECONDS` of the worker's own words are
lost; containers' lines are read again from CloudWatch, and the states of runs never travel this way.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import PrefectError
from ecs_worker.prefect_api.schemas import LogEntry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from ecs_worker.model import ClaimedRun
    from ecs_worker.prefect_api.client import PrefectClient

log = logging.getLogger(__name__)

SECONDS = 2.0  # between two batches, as Prefect's own clients do
BATCH_BYTES = 1_000_000  # Prefect takes 4,000,000; smaller ones keep the server answering others
LINE_BYTES = 900_000  # of JSON; Prefect takes 1,000,000
WAITING_BYTES = 20_000_000  # of JSON; beyond it containers' oldest lines stay on CloudWatch
WORDS_BYTES = 5_000_000  # likewise of the worker's own words, which are kept nowhere else
ENTRY_BYTES = 250  # of JSON around a message
NEWEST_PAGES = 25  # of an earlier worker's lines that are read again
OUTPUT = "ecs."  # containers' lines have loggers of this prefix and the container's name


@dataclass(frozen=True, slots=True)
class Waiting:
    """A line on its way. `size` in bytes of JSON; `where` else it can be read."""

    entry: LogEntry
    size: int
    where: str = ""


@dataclass(slots=True)
class Skipped:
    """How many lines of a container were left out in one go, and the time of the last."""

    until: datetime
    number: int = 0


class Queue:
    """Lines that wait, at most `most` bytes of them: the oldest make room."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: deque[Waiting] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: Waiting) -> list[Waiting]:
        """Put it at the end; what had to go for it."""
        self._lines.append(line)
        self._bytes += line.size
        gone = []
        while self._bytes > self._most:
            gone.append(self._pop())
        return gone

    def put_back(self, lines: list[Waiting]) -> None:
        """These were taken, and could not be sent."""
        self._lines.extendleft(reversed(lines))
        self._bytes += sum(line.size for line in lines)

    def take(self, most: int) -> list[Waiting]:
        """The oldest, together at most so many bytes, but one at least."""
        taken: list[Waiting] = []
        while self._lines and (not taken or self._lines[0].size <= most):
            taken.append(self._pop())
            most -= taken[-1].size
        return taken

    def _pop(self) -> Waiting:
        line = self._lines.popleft()
        self._bytes -= line.size
        return line


class RunLogs:
    """Takes lines without waiting; `run()` sends them."""

    def __init__(self, api: PrefectClient) -> None:
        self._api = api
        self._words = Queue(WORDS_BYTES)
        self._output = Queue(WAITING_BYTES)
        self._skipped: dict[tuple[UUID, str, str], Skipped] = {}
        self._dropped = 0
        self._sending = anyio.Lock()

    def __len__(self) -> int:
        return len(self._words) + len(self._output)

    def tell(self, run: ClaimedRun, message: str, *, level: int = logging.INFO) -> None:
        """A line of the worker's about a run: into the worker's own log and the run's logs on the server."""
        log.log(level, "%s: %s", run.name, message, extra={"flow_run_id": run.run_id, "flow_run_name": run.name})
        self.add(run.run_id, message, level=level)

    def add(self, run_id: UUID, message: str, *, level: int, timestamp: datetime | None = None) -> None:
        """A line of the worker's for the run's logs on the server only."""
        entry = LogEntry(run_id, level, message, timestamp or datetime.now(UTC))
        for line in _waiting(entry):
            self._dropped += len(self._words.add(line))

    def add_output(self, run_id: UUID, container: str, message: str, timestamp: datetime, where: str) -> None:
        """A line that a container wrote, for the run's logs; it can also be read `where`."""
        entry = LogEntry(run_id, logging.INFO, message, timestamp, OUTPUT + container)
        for line in _waiting(entry, where):
            for gone in self._output.add(line):
                self._skip(gone)

    def _skip(self, line: Waiting) -> None:
        skipped = self._skipped.setdefault(
            (line.entry.flow_run_id, line.entry.name, line.where), Skipped(line.entry.timestamp)
        )
        skipped.number += 1
        skipped.until = max(skipped.until, line.entry.timestamp)

    async def newest(self, run_id: UUID, container: str, back: float) -> tuple[list[tuple[int, str]], bool]:
        """A container's newest lines in the run's logs, those of the last `back` seconds before the very last.

        In milliseconds since 1970, oldest first; and whether that is all of that time. Raises PrefectError.
        """
        found: list[tuple[int, str]] = []
        read = 0
        for _ in range(NEWEST_PAGES):
            page = await self._api.newest_logs(run_id, offset=read)
            read += len(page)
            found += [(_milliseconds(e.timestamp), e.message) for e in page if e.name == OUTPUT + container]
            if not page or (found and found[-1][0] < found[0][0] - back * 1000):
                return found[::-1], True
        return found[::-1], False

    async def run(self) -> None:
        """Send what waits, every `SECONDS`."""
        while True:
            await anyio.sleep(SECONDS)
            await self.once()

    async def once(self) -> None:
        """Send all that waits. What can't be sent now waits on."""
        async with self._sending:
            while len(self):
                words = self._words.take(BATCH_BYTES)
                room = BATCH_BYTES - sum(line.size for line in words)
                lines = self._output.take(room) if room > 0 else []
                if not await self._send(words + lines):
                    self._words.put_back(words)
                    self._output.put_back(lines)
                    return
                self._tell_skipped()

    async def _send(self, batch: list[Waiting]) -> bool:
        try:
            refused = await self._api.write_logs([line.entry for line in batch])
        except PrefectError as error:
            log.warning("Log lines wait, since the Prefect API does not take them: %s", error)
            return False
        if refused:
            log.warning("The Prefect API refused %d log lines, which are left out.", refused)
        return True

    def _tell_skipped(self) -> None:
        """The Prefect API takes lines again: say what is missing, where it is missing."""
        for (run_id, logger, where), skipped in self._skipped.items():
            message = (
                f"{skipped.number} lines of container {logger.removeprefix(OUTPUT)} up to here are left out, since the "
                f"Prefect API took none for too long. They are on CloudWatch, in {where}."
            )
            self.add(run_id, message, level=logging.WARNING, timestamp=skipped.until)
        self._skipped.clear()
        if self._dropped:
            log.warning("%d log lines were dropped: the Prefect API took none for too long.", self._dropped)
            self._dropped = 0


def _waiting(entry: LogEntry, where: str = "") -> Iterator[Waiting]:
    """The line, in parts that Prefect takes."""
    size = len(json.dumps(entry.message))
    if size <= LINE_BYTES:
        yield Waiting(entry, size + ENTRY_BYTES, where)
        return
    middle = len(entry.message) // 2
    for part in (entry.message[:middle], entry.message[middle:]):
        yield from _waiting(LogEntry(entry.flow_run_id, entry.level, part, entry.timestamp, entry.name), where)


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
