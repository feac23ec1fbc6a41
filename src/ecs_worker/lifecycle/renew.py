"""Renew: keep a deployment's concurrency slots while ECS gets the tasks ready.

The claim takes the slot for some minutes. The flow's own process renews it once it runs; until then, and that may be
long for a large image or a full cluster, the worker does. If the process dies, the slot falls back by itself, and the
run still has its task.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import PrefectError
from ecs_worker.lifecycle.loops import every
from ecs_worker.model import Phase

if TYPE_CHECKING:
    from uuid import UUID

    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.prefect_api.client import PrefectClient

log = logging.getLogger(__name__)

RENEWED_EVERY = 60.0  # seconds; the server grants 300 at the claim
GRANTED = 300  # seconds asked for
RENEWED_AT_ONCE = 10
NOT_RUNNING = frozenset({Phase.CLAIMED, Phase.LAUNCHING, Phase.STARTING})


class Renewal:
    """Renews the leases of the held runs."""

    def __init__(self, api: PrefectClient, ledger: Ledger) -> None:
        self._api = api
        self._ledger = ledger
        self._limiter = anyio.CapacityLimiter(RENEWED_AT_ONCE)

    async def run(self) -> None:
        """Renew for ever."""
        await every(RENEWED_EVERY, self.renew)

    async def renew(self) -> None:
        """Renew the lease of every run that has one and does not run yet."""
        async with anyio.create_task_group() as renewals:
            for run in self._ledger:
                if run.lease_id is not None and run.phase in NOT_RUNNING:
                    renewals.start_soon(self._renew, run, run.lease_id)

    async def _renew(self, run: Run, lease_id: UUID) -> None:
        async with self._limiter:
            try:
                if not await self._api.renew_lease(lease_id, GRANTED):
                    run.leased(None)  # gone: the slot was given to another run meanwhile
            except PrefectError as error:
                log.warning("%s: its concurrency slot is not renewed yet: %s", run.label, error)
