"""Sign: write on the run which task it has and which worker looks after it.

`adopt` of other workers goes by both. If the process dies before the task's name is written, the claim still leads
to the task (`startedBy`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import PrefectError
from ecs_worker.lifecycle.loops import every
from ecs_worker.prefect_api.budget import Urgency, as_urgent

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.prefect_api.client import PrefectClient

log = logging.getLogger(__name__)

WORKER_LABEL = "prefect.worker.name"
REPEATED_EVERY = 3.0  # seconds
WRITES_AT_ONCE = 10
LABELLED_AT_ONCE = 2  # adopted runs


class Sign:
    """Signs runs for the worker called `worker`."""

    def __init__(self, api: PrefectClient, ledger: Ledger, worker: str) -> None:
        self._api = api
        self._ledger = ledger
        self._worker = worker
        self._limiter = anyio.CapacityLimiter(WRITES_AT_ONCE)
        self._unlabelled: asyncio.Queue[Run] = asyncio.Queue()

    async def run(self) -> None:
        """Repeat for ever what could not be written, and label what was adopted."""
        async with anyio.create_task_group() as group:
            group.start_soon(every, REPEATED_EVERY, self.repeat)
            for _ in range(LABELLED_AT_ONCE):
                group.start_soon(self._label_adopted)

    async def _label_adopted(self) -> None:
        with as_urgent(Urgency.LABEL):
            while True:
                run = await self._unlabelled.get()
                if run.id in self._ledger:
                    await self._label(run)

    async def repeat(self) -> None:
        """Write the names of tasks that are not written on their runs yet."""
        async with anyio.create_task_group() as writes:
            for run in self._ledger:
                if run.launched is not None and not run.signed:
                    writes.start_soon(self._name, run)

    async def sign(self, run: Run) -> None:
        """Write the task's name, if it isn't there, and then the worker's. What fails is repeated by `run`."""
        # Not at the same time: both change one row, and SQLite refuses one of them.
        if not run.signed:
            await self._write_name(run)
        await self._label(run)

    async def sign_adopted(self, run: Run, *, labelled: bool) -> None:
        """Likewise; but the worker's name, unless the run is `labelled` with it, may wait: there may be thousands."""
        if not run.signed:
            await self._write_name(run)
        if not labelled:
            self._unlabelled.put_nowait(run)

    async def _name(self, run: Run) -> None:
        async with self._limiter:
            if not run.signed:
                await self._write_name(run)

    async def _write_name(self, run: Run) -> None:
        run.signing()
        try:
            written = await self._api.update_run(run.id, infrastructure_pid=str(run.name))
        except PrefectError as error:
            run.unsigned()
            log.warning("%s: its task is not written on the run yet: %s", run.label, error)
            return
        if not written:
            run.cancel()  # deleted: nobody wants the task

    async def _label(self, run: Run) -> None:
        """Other workers leave a run alone while the worker that it names lives."""
        labels = {WORKER_LABEL: self._worker, "prefect.worker.type": "ecs"}
        try:
            await self._api.label_run(run.id, labels)
        except PrefectError as error:
            log.debug("%s has no worker labels: %s", run.label, error)  # 2.20 has none
