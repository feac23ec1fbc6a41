"""Cancel: a run that is Cancelling has its task stopped, whatever its phase.

Polling decides; the server's events only make it sooner. A flow that runs gets a moment to cancel itself, which its
own process does better. If the process dies here, the run is still Cancelling, and `adopt` brings it back.
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ecs_worker.lifecycle.lanes import Lanes
from ecs_worker.lifecycle.loops import every
from ecs_worker.lifecycle.run.run import WATCHED
from ecs_worker.model import Phase
from ecs_worker.prefect_api.event_stream import cancelling_runs
from ecs_worker.prefect_api.schemas import StateType

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ecs_worker.lifecycle.rendering.render import PoolView
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.lifecycle.watch import Watch
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.settings import WorkerSettings

WHY = "It was cancelled."
DELETED = "Its flow run was deleted."
DELETED_EVERY = 60.0  # seconds
COUNTED_AT_ONCE = 1_000  # runs
STOPPED_AT_ONCE = 10  # tasks of one place


class Cancel:
    """Looks for cancelled runs among the held ones."""

    def __init__(
        self, api: PrefectClient, ledger: Ledger, watch: Watch, settings: WorkerSettings, pool_view: PoolView
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._watch = watch
        self._settings = settings
        self._pool_view = pool_view
        self._lanes = Lanes(STOPPED_AT_ONCE)

    async def run(self) -> None:
        """Look for ever, every `cancel_seconds`; nothing is asked while nothing is held."""
        async with anyio.create_task_group() as stops:
            deleted = partial(self.look_for_deleted, stops)
            stops.start_soon(partial(every, DELETED_EVERY, deleted, trouble="Deleted runs can't be counted now"))
            look = partial(self.look, stops)
            await every(self._settings.cancel_seconds, look, trouble="Cancelled runs can't be read now")

    async def listen(self) -> None:
        """Hear of cancelled runs by the server's event stream, where it has one."""
        cancelling = cancelling_runs(self._api, self._pool_view.pool.id)
        async with anyio.create_task_group() as stops, aclosing(cancelling) as cancelled:
            async for run_id in cancelled:
                if (run := self._ledger.get(run_id)) is not None:
                    run.cancel()
                    self._stop_due(stops)

    async def look(self, stops: TaskGroup) -> None:
        """One look, which begins to stop what is due. Raises PrefectError."""
        if len(self._ledger):
            for found in await self._api.runs(pool=self._settings.pool, states=(StateType.CANCELLING,)):
                if (run := self._ledger.get(found.id)) is not None:
                    run.cancel()
        self._stop_due(stops)

    async def look_for_deleted(self, stops: TaskGroup) -> None:
        """Stop the tasks of runs that users have deleted. Raises PrefectError.

        They are counted, many to a call; read are only those among which one is missing.
        """
        launched = {run.id: run for run in self._ledger if run.phase in WATCHED and not run.stop_reason}
        ids = list(launched)
        for start in range(0, len(ids), COUNTED_AT_ONCE):
            some = ids[start : start + COUNTED_AT_ONCE]
            if await self._api.count_runs(some) == len(some):
                continue
            missing = set(some) - {run.id for run in await self._api.runs(ids=some)}
            for run_id in missing:  # a bulk read may miss a run: only its own absence says that it was deleted
                if await self._api.read_run(run_id) is None:
                    self._stop(stops, launched[run_id], DELETED)

    def _stop_due(self, stops: TaskGroup) -> None:
        for run in self._ledger:
            if self._due(run):
                self._stop(stops, run, WHY)

    def _stop(self, stops: TaskGroup, run: Run, why: str) -> None:
        self._lanes.begin(stops, run.place, run.id, run.label, partial(self._watch.stop, run, why))

    def _due(self, run: Run) -> bool:
        # `patience` gives up on a run before its task exists. A running flow may cancel itself first.
        grace = self._settings.cancel_grace_seconds if run.phase is Phase.RUNNING else 0.0
        return run.cancelled and run.phase in WATCHED and not run.stop_reason and run.cancelled_for >= grace
