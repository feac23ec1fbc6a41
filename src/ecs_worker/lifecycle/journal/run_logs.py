"""RunLogs: log lines for the runs' own logs on the server, gathered and sent in batches.

If the process dies here, the worker's own lines of the last `SEND_EVERY` are lost, and those that wait for the Prefect
API to come back. The next worker reads the containers' lines again from CloudWatch.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ecs_worker.lifecycle.journal.outbox import Outbox
from ecs_worker.lifecycle.loops import every
from ecs_worker.prefect_api.schemas import LogEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from uuid import UUID

    from ecs_worker.model import ClaimedRun
    from ecs_worker.prefect_api.client import PrefectClient

log = logging.getLogger(__name__)

SEND_EVERY = 2.0  # seconds, as Prefect's own clients do
BATCH_BYTES = 1_000_000  # of JSON; Prefect takes 4,000,000; smaller ones let the server answer others meanwhile
LINE_BYTES = 900_000  # of JSON; Prefect takes 1,000,000
OUTPUT_BYTES = 20_000_000  # of JSON that wait; beyond it containers' oldest lines stay on CloudWatch
WORDS_BYTES = 5_000_000  # likewise of the worker's own lines, which are kept nowhere else
ENTRY_BYTES = 250  # of JSON around a message
NEWEST_PAGES = 25  # of an earlier worker's lines that are read again
LOGGER_PREFIX = "ecs."  # containers' lines have loggers of this prefix and the container's name


@dataclass(frozen=True, slots=True)
class Line:
    """A line that waits. `size` is in bytes of JSON; `where` says where else it can be read."""

    entry: LogEntry
    size: int
    where: str = ""


@dataclass(slots=True)
class Skipped:
    """How many lines of a container were left out in one go, and the time of the last."""

    until: datetime
    number: int = 0


class RunLogs:
    """Takes lines without waiting; `run()` sends them."""

    def __init__(self, api: PrefectClient) -> None:
        self._api = api
        self._skipped: dict[tuple[UUID, str, str], Skipped] = {}
        self._outbox: Outbox[Line] = Outbox("log lines", self._send, BATCH_BYTES, lambda line: line.size)
        self._words = self._outbox.lane(WORDS_BYTES)
        self._output = self._outbox.lane(OUTPUT_BYTES, self._skip)

    def __len__(self) -> int:
        return len(self._outbox)

    def tell(
        self,
        run: ClaimedRun,
        message: str,
        *,
        level: int = logging.INFO,
        facts: Mapping[str, float | str] | None = None,
    ) -> None:
        """Say something about a run, in the worker's own log and in the run's logs on the server.

        `facts` are for machines that read the worker's log as JSON (`ops.logging`).
        """
        about = {"flow_run_id": run.run_id, "flow_run_name": run.name, **(facts or {})}
        log.log(level, "%s: %s", run.name, message, extra=about)
        self.add(run.run_id, message, level=level)

    def add(self, run_id: UUID, message: str, *, level: int, timestamp: datetime | None = None) -> None:
        """Say something in the run's logs on the server only."""
        entry = LogEntry(run_id, level, message, timestamp or datetime.now(UTC))
        for line in _lines(entry):
            self._words.add(line)

    def add_output(
        self, run_id: UUID, container: str, message: str, timestamp: datetime, where: str, *, level: int = logging.INFO
    ) -> None:
        """A line that a container wrote, for the run's logs; it can also be read `where`."""
        entry = LogEntry(run_id, level, message, timestamp, LOGGER_PREFIX + container)
        for line in _lines(entry, where):
            self._output.add(line)

    def _skip(self, line: Line) -> None:
        skipped = self._skipped.setdefault(
            (line.entry.flow_run_id, line.entry.name, line.where), Skipped(line.entry.timestamp)
        )
        skipped.number += 1
        skipped.until = max(skipped.until, line.entry.timestamp)

    async def newest(self, run_id: UUID, container: str, back: float) -> tuple[list[tuple[int, str]], bool]:
        """A container's newest lines in the run's logs: those of the last `back` seconds before the very last line.

        Each with its time in milliseconds since 1970, oldest first; and whether these are all of that time. Raises
        PrefectError.
        """
        found: list[tuple[int, str]] = []
        read = 0
        for _ in range(NEWEST_PAGES):
            page = await self._api.newest_logs(run_id, offset=read)
            read += len(page)
            found += [(_milliseconds(e.timestamp), e.message) for e in page if e.name == LOGGER_PREFIX + container]
            if not page or (found and found[-1][0] < found[0][0] - back * 1000):
                return found[::-1], True
        return found[::-1], False

    async def run(self) -> None:
        """Send what waits, every `SEND_EVERY`."""
        await every(SEND_EVERY, self.flush)

    async def flush(self) -> None:
        """Send all that waits. What can't be sent now waits on."""
        await self._outbox.flush()

    async def _send(self, lines: list[Line]) -> None:
        refused = await self._api.write_logs([line.entry for line in lines])
        if refused:
            log.warning("The Prefect API refused %d log lines, which are left out.", refused)
        self._tell_skipped()

    def _tell_skipped(self) -> None:
        """The Prefect API takes lines again: say what is missing, where it is missing."""
        for (run_id, logger, where), skipped in self._skipped.items():
            container = logger.removeprefix(LOGGER_PREFIX)
            message = (
                f"{skipped.number} lines of container {container} up to here are left out, since the Prefect API took "
                f"none for too long. They are on CloudWatch, in {where}."
            )
            self.add(run_id, message, level=logging.WARNING, timestamp=skipped.until)
        self._skipped.clear()


def _lines(entry: LogEntry, where: str = "") -> Iterator[Line]:
    """The line, cut into parts of a size that Prefect takes."""
    size = len(json.dumps(entry.message))
    if size <= LINE_BYTES:
        yield Line(entry, size + ENTRY_BYTES, where)
        return
    middle = len(entry.message) // 2
    for part in (entry.message[:middle], entry.message[middle:]):
        yield from _lines(LogEntry(entry.flow_run_id, entry.level, part, entry.timestamp, entry.name), where)


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
