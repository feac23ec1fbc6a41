"""Lease: keep a deployment's concurrency slots while ECS gets the tasks ready.

The claim takes the slot for some minutes. The flow's own process renews it once it runs; until then, and that may be
long for a large image or a full cluster, the worker does. If the process dies, the slot falls back by itself, and the
run still has its task.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import PrefectError
from ecs_worker.model import Phase

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.ledger import Held, Ledger
    from ecs_worker.prefect_api.client import PrefectClient

log = logging.getLogger(__name__)

SECONDS = 60.0  # between two renewals; the server grants 300 at the claim
GRANTED = 300  # seconds asked for
AT_ONCE = 10  # renewals under way at the same time
NOT_RUNNING = frozenset({Phase.CLAIMED, Phase.LAUNCHING, Phase.STARTING})


class Lease:
    """Renews what the held runs have."""

    def __init__(self, api: PrefectClient, ledger: Ledger) -> None:
        self._api = api
        self._ledger = ledger
        self._limiter = anyio.CapacityLimiter(AT_ONCE)

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            await anyio.sleep(SECONDS)
            await self.once()

    async def once(self) -> None:
        """Renew the lease of every run that has one and does not run yet."""
        async with anyio.create_task_group() as renewals:
            for held in self._ledger:
                if held.lease_id is not None and held.phase in NOT_RUNNING:
                    renewals.start_soon(self._renew, held)

    async def _renew(self, held: Held) -> None:
        assert held.lease_id is not None, "asked only for those that have one"
        async with self._limiter:
            try:
                if not await self._api.renew_lease(held.lease_id, GRANTED):
                    held.lease_id = None  # gone: the slot was given to another run meanwhile
            except PrefectError as error:
                log.warning("%s: its concurrency slot is not renewed yet: %s", held.run.name, error)
