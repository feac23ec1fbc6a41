"""Adopt: take up the runs that no live worker holds, after a restart or a colleague's death.

All it needs stands on the Prefect server and in ECS: the claim id and the claimant's name in the run's state, the
task in `infrastructure_pid` or under the claim's `startedBy`. Two workers that adopt the same run do no harm: they
describe the same task, and a launch repeats the same clientToken.

- With a task identifier: the task is watched.
- Without: the claim's task is looked up; found, it is watched and its name written; not found, it is launched with
  the same claim id.
"""

from __future__ import annotations

import hashlib
import logging
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import AwsError, JobInvalid, PrefectError, PrefectNotFound, UserError
from ecs_worker.lifecycle.claim import undo_if_ended
from ecs_worker.lifecycle.loops import every, guarded
from ecs_worker.lifecycle.run import decide
from ecs_worker.lifecycle.run.claims import latest_claim, recorded_run
from ecs_worker.lifecycle.run.decide import Crash, Launch
from ecs_worker.lifecycle.sign import WORKER_LABEL
from ecs_worker.model import TaskFacts, TaskName
from ecs_worker.prefect_api.schemas import StateType

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from ecs_worker.lifecycle.locate import Locate
    from ecs_worker.lifecycle.run.claims import ClaimRecord
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.lifecycle.way import Way
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

EVERYTHING_EVERY = 900.0  # seconds between two looks at all runs of the pool, while no worker goes
UNSETTLED = (StateType.PENDING, StateType.CANCELLING)
TAKEN_AT_ONCE = 10  # runs
READ_AT_ONCE = 200  # the server's page


def chosen(run_id: UUID, workers: Collection[str]) -> str | None:
    """The one of the live workers that takes up a run: rendezvous hashing, the same answer for all who ask."""
    return max(workers, key=lambda name: hashlib.sha256(f"{name} {run_id}".encode()).digest(), default=None)


def mine(run: FlowRun, claim: ClaimRecord | None, live: Collection[str], me: str, *, settle: float) -> bool:
    """Whether the worker called `me` is to take up the run. `live` are the workers that beat, `me` among them.

    A live claimant looks after its own, and so does a live worker whose label the run bears: it launched it or took
    it up. (A label may also be left from an earlier attempt; then that worker takes the run up by the second rule.)
    A claim without a task is left alone for `settle` seconds: its worker may be about to launch.
    """
    claimed_by = claim.worker if claim is not None else None
    label = run.labels.get(WORKER_LABEL)
    if not run.infrastructure_pid and (claim is None or claim.age < settle):
        return False
    if run.state_type is StateType.PENDING and claimed_by in live and claimed_by != me:
        return False
    if me in {claimed_by, label}:
        return True
    if claimed_by in live or label in live:
        return False
    return chosen(run.id, live) == me


class Adopt:
    """Looks for orphans."""

    def __init__(self, api: PrefectClient, ledger: Ledger, locate: Locate, way: Way, settings: WorkerSettings) -> None:
        self._api = api
        self._ledger = ledger
        self._locate = locate
        self._way = way
        self._settings = settings
        self._live: frozenset[str] = frozenset()
        self._looked_at_all = -math.inf
        self._open = False

    async def run(self) -> None:
        """Look at the start and every `adopt_seconds`."""
        trouble = "Runs without a worker can't be looked for now"
        await every(self._settings.adopt_seconds, self.look, trouble=trouble, at_once=True)

    async def look(self) -> None:
        """One look. Raises PrefectError.

        Pending and Cancelling runs are few and can't wait. All that run are listed only when a worker has gone (or
        at the start), since a pool may have thousands, and once in a while for safety.
        """
        pool, now = self._settings.pool, self._ledger.clock()
        online = await self._api.workers(pool, status="ONLINE")
        live = frozenset(worker.name for worker in online if worker.status == "ONLINE") | {self._settings.name}
        everything = self._open or bool(self._live - live) or now - self._looked_at_all >= EVERYTHING_EVERY
        states = (*UNSETTLED, StateType.RUNNING) if everything else UNSETTLED
        orphans = [run_id for run_id in await self._api.run_ids(pool=pool, states=states) if run_id not in self._ledger]
        limiter = anyio.CapacityLimiter(TAKEN_AT_ONCE)
        self._open = True  # until all is known: a run that is Pending now may be Running at the next look
        settled: list[bool] = []

        async def consider(run: FlowRun) -> None:
            async with limiter:
                settled.append(await self._consider(run, live))

        # A few at a time are read whole: a dead worker may have left ten thousand.
        for start in range(0, len(orphans), READ_AT_ONCE):
            some = orphans[start : start + READ_AT_ONCE]
            async with anyio.create_task_group() as looks:
                for run in await self._api.runs(pool=pool, states=states, ids=some):
                    looks.start_soon(consider, run)
        self._live = live
        self._open = not all(settled)
        if everything:
            self._looked_at_all = self._ledger.clock()

    async def _consider(self, orphan: FlowRun, live: Collection[str]) -> bool:
        """Take the run up if it is this worker's to take. False: the next look has to see it again, whatever it is."""
        if (holder := orphan.labels.get(WORKER_LABEL)) in live and holder != self._settings.name:
            return True  # a live worker launched it, or took it up; no need to read its history
        with guarded(orphan.name):
            try:
                return await self._take_up(orphan, live)
            except UserError as error:
                log.warning("%s can't be adopted: %s", orphan.name, error)
                return True
            except (PrefectError, AwsError) as error:
                log.warning("%s can't be adopted yet: %s", orphan.name, error)
        return False

    async def _take_up(self, orphan: FlowRun, live: Collection[str]) -> bool:
        me, settle = self._settings.name, self._settings.settle_seconds
        states = await self._api.state_history(orphan.id)
        claim = latest_claim(states, datetime.now(UTC))
        if not mine(orphan, claim, live, me, settle=settle):
            return claim is None or claim.age >= settle or (claim.worker in live and claim.worker != me)
        run = recorded_run(orphan, claim, self._ledger.clock)
        pending = claim is not None and orphan.state_type is StateType.PENDING
        if pending and await undo_if_ended(self._api, run.claim, states):
            return True  # the claimant died before it could do so
        name = TaskName.read(orphan.infrastructure_pid)
        if name is not None and await self._is_its_task(run, claim, name):
            run.placed(await self._locate.placement_of(run.claim, name))
            await self._way.adopt(run, TaskFacts(arn=name.arn), name)  # the next sweep describes it
        elif claim is not None:
            await self._find_or_launch(orphan, run, claim)
        return True

    async def _is_its_task(self, run: Run, claim: ClaimRecord | None, name: TaskName) -> bool:
        """Whether this claim launched the task that the run names; the name may be an earlier attempt's."""
        if claim is None or claim.worker is None or claim.first:
            return True
        return await self._locate.is_of_claim(run.claim, name)

    async def _find_or_launch(self, orphan: FlowRun, run: Run, claim: ClaimRecord) -> None:
        task, obstacle = None, ""
        try:
            run.placed(await self._locate.place(run))
            task = await self._locate.find(run)
        except (JobInvalid, PrefectNotFound) as error:
            obstacle = str(error)
        except AwsError as error:
            if not decide.lets_launch_tell(error, orphan.state_type):
                raise
        if task is not None:
            await self._way.adopt(run, task)
        elif await self._is_unchanged(orphan, claim):
            match decide.of_orphan(orphan.state_type, obstacle):
                case Launch():
                    log.info("%s was claimed by %s and never launched: launching it.", run.label, claim.worker)
                    self._ledger.take(run)
                    self._way.send(run)
                case Crash(why):
                    run.abandoned(why)  # `report` ends it
                    self._ledger.take(run)

    async def _is_unchanged(self, orphan: FlowRun, claim: ClaimRecord) -> bool:
        """Whether the run is as it was when it was listed, an instant ago: not ended, given back, or taken."""
        if claim.worker is None or orphan.id in self._ledger:
            return False
        now = await self._api.read_run(orphan.id)
        return now is not None and now.state_id == orphan.state_id and orphan.id not in self._ledger
