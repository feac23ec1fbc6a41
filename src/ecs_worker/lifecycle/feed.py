"""The feed: the worker's log lines about a run, gathered and sent to the server in batches.

Lines wait in memory for a moment. If the process dies here, at most the last `SECONDS` of them are lost; the
states of runs never travel this way.
"""

from __future__ import annotations

import logging
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import PrefectError
from ecs_worker.prefect_api.schemas import LogEntry

if TYPE_CHECKING:
    from uuid import UUID

    from ecs_worker.model import ClaimedRun
    from ecs_worker.prefect_api.client import PrefectClient

log = logging.getLogger(__name__)

SECONDS = 2.0  # between two batches, as Prefect's own clients do
MOST_WAITING = 20_000  # lines; beyond it the oldest are dropped and counted
MOST_BYTES = 1_000_000  # a batch; the server refuses 4,000,000
MOST_LINE = 500_000  # characters of one message; the server refuses 1,000,000


class Feed:
    """Takes lines without waiting; `run()` sends them."""

    def __init__(self, api: PrefectClient) -> None:
        self._api = api
        self._waiting: deque[LogEntry] = deque()
        self._dropped = 0
        self._sending = anyio.Lock()

    def tell(self, run: ClaimedRun, message: str, *, level: int = logging.INFO) -> None:
        """A line of the worker's about a run: into the worker's own log and the run's logs on the server."""
        log.log(level, "%s: %s", run.name, message, extra={"flow_run_id": run.run_id, "flow_run_name": run.name})
        self.add(run.run_id, message, level=level, logger="prefect.flow_runs.worker")

    def add(self, run_id: UUID, message: str, *, level: int, logger: str, timestamp: datetime | None = None) -> None:
        """A line for the run's logs on the server only. Long ones are split: the server refuses a whole batch."""
        when = timestamp or datetime.now(UTC)
        for start in range(0, max(len(message), 1), MOST_LINE):
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(LogEntry(run_id, level, message[start : start + MOST_LINE], when, logger))

    async def run(self) -> None:
        """Send what waits, every `SECONDS`."""
        while True:
            await anyio.sleep(SECONDS)
            await self.once()

    async def once(self) -> None:
        """Send all that waits. What can't be sent now waits on."""
        async with self._sending:
            while self._waiting:
                batch = self._next_batch()
                try:
                    await self._api.write_logs(batch)
                except PrefectError as error:
                    self._waiting.extendleft(reversed(batch))
                    log.warning("Log lines wait, since the Prefect API does not take them: %s", error)
                    return
            if self._dropped:
                log.warning("%d log lines were dropped: the Prefect API took none for too long.", self._dropped)
                self._dropped = 0

    def _next_batch(self) -> list[LogEntry]:
        batch: list[LogEntry] = []
        size = 0
        while self._waiting:
            size += 4 * len(self._waiting[0].message) + 300  # UTF-8 and JSON escapes at their worst
            if batch and size > MOST_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch
