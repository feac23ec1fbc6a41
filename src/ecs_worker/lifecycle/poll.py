"""Poll: ask the server for scheduled runs, and send as many on their way as there are free slots.

The poll reserves nothing. If the process dies here, the runs are still Scheduled and the next poll has them.
"""

from __future__ import annotations

import logging
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import PrefectError, PrefectNotFound
from ecs_worker.lifecycle.loops import HANGS_AFTER, turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

SHORTEST_GAP = 0.5  # seconds between polls while more runs wait than could be taken


class Queues:
    """The work queues that are polled: those of the worker's that there are. The server answers for all or for none."""

    def __init__(self, api: PrefectClient, settings: WorkerSettings, clock: Callable[[], float]) -> None:
        self._api = api
        self._pool = settings.pool
        self._wanted = settings.work_queues
        self._again_after = settings.query_seconds / 2  # polls follow each other faster than that, but only for a while
        self._clock = clock
        self._missing: frozenset[str] = frozenset()
        self._looked = 0.0

    async def polled(self) -> tuple[str, ...]:
        """The queues to poll now; none: all of the pool. Raises as `find`."""
        if self._missing and self._clock() - self._looked >= self._again_after:
            await self.find()
        return tuple(name for name in self._wanted if name not in self._missing)

    async def find(self) -> None:
        """Learn which there are. Raises PrefectNotFound, in words for users, if there is none, and PrefectError."""
        self._looked = self._clock()
        try:
            there = await self._api.queue_names(self._pool, self._wanted) if self._wanted else []
        except PrefectNotFound:
            there = None
        if there is None or not self._wanted:
            raise PrefectNotFound(f"The work pool {self._pool} does not exist")
        missing = [name for name in self._wanted if name not in there]
        if len(missing) == len(self._wanted):
            self._missing = frozenset()  # the next poll asks for all
            raise PrefectNotFound(f"The work pool {self._pool} has no work queue {' or '.join(missing)}")
        if new := [name for name in missing if name not in self._missing]:
            log.warning(
                "The work pool %s has no work queue %s: create it, or correct its name. Runs of the others are taken "
                "meanwhile, and those of this one as soon as it is there.",
                self._pool,
                " and no ".join(new),
            )
        if found := sorted(self._missing.difference(missing)):
            log.info("The work pool %s has the work queue %s now.", self._pool, ", ".join(found))
        self._missing = frozenset(missing)


class Poll:
    """`send` starts a run on its way and returns at once."""

    def __init__(
        self, api: PrefectClient, ledger: Ledger, settings: WorkerSettings, send: Callable[[FlowRun, float], None]
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._settings = settings
        self._send = send
        self._queues = Queues(api, settings, ledger.clock)
        self._in_the_way = 0  # held runs in the last answer: set back to Scheduled, or their claims are under way
        self.last: float | None = None
        """When the server last answered a poll, on the ledger's clock; the health check reads it."""

    async def run(self) -> None:
        """Poll for ever: at the interval (±30 %, so that workers don't march in step), or when a slot frees early."""
        while True:
            turn("Poll.look", self._settings.query_seconds * 1.3 + HANGS_AFTER)
            more = await self._poll_or_warn()
            seconds = self._settings.query_seconds * random.uniform(0.7, 1.3)  # noqa: S311 - jitter, no secret
            with anyio.move_on_after(seconds):
                if not more:
                    await anyio.sleep_forever()
                await anyio.sleep(min(SHORTEST_GAP, seconds))
                while self._ledger.free == 0:
                    await self._ledger.wait_freed()

    async def look(self) -> bool:
        """One poll. True if runs were left because no slot was free.

        Raises PrefectNotFound, in words for users, if there is nothing to poll, and PrefectError.
        """
        free = self._ledger.free
        if free == 0:
            return True
        limit = free + 2 * self._in_the_way  # twice, as they may be more than were seen
        sent = self._ledger.clock()
        before = datetime.now(UTC) + timedelta(seconds=self._settings.prefetch_seconds)
        found = await self._scheduled(before, limit)
        self.last = self._ledger.clock()
        fresh = [run for run in found if run.id not in self._ledger]
        self._in_the_way = len(found) - len(fresh)
        for run in fresh[:free]:
            self._send(run, sent)
        return len(fresh) > free or len(found) >= limit

    async def _scheduled(self, before: datetime, limit: int) -> list[FlowRun]:
        queues = await self._queues.polled()
        try:
            return await self._api.scheduled_runs(self._settings.pool, queues=queues, before=before, limit=limit)
        except PrefectNotFound:
            await self._queues.find()  # the pool or a queue is missing
        queues = await self._queues.polled()
        return await self._api.scheduled_runs(self._settings.pool, queues=queues, before=before, limit=limit)

    async def _poll_or_warn(self) -> bool:
        try:
            return await self.look()
        except PrefectNotFound as error:
            log.warning("%s: create or correct it; the worker asks on.", error)
        except PrefectError as error:
            log.warning("Scheduled runs can't be read now: %s", error)
        return False
