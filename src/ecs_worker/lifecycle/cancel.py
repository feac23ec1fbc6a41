"""Cancel: a run that is Cancelling has its task stopped, whatever its phase.

Polling decides; the server's events only make it sooner. A flow that runs gets a moment to cancel itself, which its
own process does better. If the process dies here, the run is still Cancelling, and `adopt` brings it back.
"""

from __future__ import annotations

import logging
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import PrefectError
from ecs_worker.lifecycle.loops import rim
from ecs_worker.model import Phase
from ecs_worker.prefect_api.event_stream import cancelling_runs
from ecs_worker.prefect_api.schemas import StateType

if TYPE_CHECKING:
    from ecs_worker.lifecycle.rendering.render import PoolView
    from ecs_worker.lifecycle.run.ledger import Held, Ledger
    from ecs_worker.lifecycle.watch import Watch
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

WHY = "It was cancelled."


class Cancel:
    """Looks for cancelled runs among the held ones."""

    def __init__(
        self, api: PrefectClient, ledger: Ledger, watch: Watch, settings: WorkerSettings, surroundings: PoolView
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._watch = watch
        self._settings = settings
        self._surroundings = surroundings

    async def run(self) -> None:
        """Look for ever, every `cancel_seconds`; nothing is asked while nothing is held."""
        while True:
            await anyio.sleep(self._settings.cancel_seconds)
            try:
                await self.once()
            except PrefectError as error:
                log.warning("Cancelled runs can't be read now: %s", error)

    async def listen(self) -> None:
        """Hear of cancelled runs by the server's event stream, where it has one."""
        async with aclosing(cancelling_runs(self._api, self._surroundings.pool.id)) as cancelled:
            async for run_id in cancelled:
                if (held := self._ledger.get(run_id)) is not None:
                    held.cancelling_since = held.cancelling_since or time.monotonic()
                    await self._stop_due()

    async def once(self) -> None:
        """One look. Raises PrefectError."""
        if len(self._ledger):
            for run in await self._api.runs(pool=self._settings.pool, states=(StateType.CANCELLING,)):
                if (held := self._ledger.get(run.id)) is not None:
                    held.cancelling_since = held.cancelling_since or time.monotonic()
        await self._stop_due()

    async def _stop_due(self) -> None:
        for held in self._ledger:
            if self._due(held):
                with rim(held.run.name):
                    await self._watch.stop(held, WHY)

    def _due(self, held: Held) -> bool:
        if held.cancelling_since is None:
            return False
        # `launch` gives up on a run before its task exists. A running flow may cancel itself first.
        grace = self._settings.cancel_grace_seconds if held.phase is Phase.RUNNING else 0.0
        return time.monotonic() - held.cancelling_since >= grace
