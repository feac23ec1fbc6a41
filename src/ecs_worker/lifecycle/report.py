"""Report: tell the server how a run ended, when the run could not. `run/decide.py` judges, this module applies.

If the process dies before the report, the run is still Pending or Running with a stopped task, and `adopt` brings it
here again.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import AwsError, EcsWorkerError, PrefectError, PrefectNotFound
from ecs_worker.lifecycle.lanes import Lanes
from ecs_worker.lifecycle.loops import every
from ecs_worker.lifecycle.run import decide
from ecs_worker.lifecycle.run.claims import SPOT_LOST, latest_claim
from ecs_worker.lifecycle.run.decide import Cancel, Crash, Forget, LookUp, RunSnapshot, StartAgain, Wait
from ecs_worker.lifecycle.run.run import ENDING
from ecs_worker.prefect_api.schemas import ProposedState, SetStateStatus, StateType
from ecs_worker.verdicts.codes import NO_CLUSTER

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ecs_worker.lifecycle.journal.journal import Journal
    from ecs_worker.lifecycle.locate import Locate
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.lifecycle.way import Way
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun

log = logging.getLogger(__name__)

LOOKED_EVERY = 2.0  # seconds: tasks stop in bursts, and one read serves 200 of them
TOLD_AT_ONCE = 20  # ends of one place
NOT_YET = "The ends of runs can't be told yet"


class Report:
    """Tells ends. Every call that fails is repeated by the next look, as long as the run is held.

    `grace`: seconds that a run may take to tell its own end once its task has stopped.
    """

    def __init__(
        self, api: PrefectClient, ledger: Ledger, journal: Journal, locate: Locate, way: Way, grace: float
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._locate = locate
        self._journal = journal
        self._way = way
        self._grace = grace
        self._lanes = Lanes(TOLD_AT_ONCE)

    async def run(self) -> None:
        """Look for ever."""
        async with anyio.create_task_group() as ends:
            await every(LOOKED_EVERY, partial(self.look, ends), trouble=NOT_YET)

    async def look(self, ends: TaskGroup) -> None:
        """Look at the held runs that have come to their end: one bulk read for 200 of them. Raises PrefectError.

        Each is looked at when its task has stopped, and again when its grace is over. What is to be told is begun.
        """
        now = self._ledger.clock()
        ended = {
            run.id: run
            for run in self._ledger
            if run.phase in ENDING and run.due <= now and not decide.only_waits(run, self._grace)
            if run.id not in self._lanes
        }
        if not ended:
            return
        for run in ended.values():
            run.look_again(now + max(decide.grace_of(run, self._grace) - run.in_phase_for, LOOKED_EVERY))
        found = {run.id: run for run in await self._api.runs(ids=tuple(ended))}
        for run_id, run in ended.items():
            self._lanes.begin(ends, run.place, run_id, run.label, partial(self._tell, run, found.get(run_id)))

    async def _tell(self, run: Run, found: FlowRun | None) -> None:
        try:
            # A bulk read may miss a run; only the run's own absence says that it was deleted.
            found = found or await self._api.read_run(run.id)
        except PrefectError as error:
            log.warning("The end of %s can't be told yet: %s", run.label, error)
        else:
            await self._settle(run, found)

    async def _settle(self, run: Run, found: FlowRun | None) -> None:
        snapshot = RunSnapshot.of(found) if found is not None else None
        decision = decide.of_ended(snapshot, run, self._grace)
        if not isinstance(decision, Wait | Cancel) and decide.lost_spot(snapshot, run):
            await self._remember_spot(run)
        match decision:
            case Wait():
                pass
            case Forget():
                if not run.handed_over:
                    self._journal.ended_itself(run, found)
                await self._let_go(run)
            case Cancel():
                await self._end(run, StateType.CANCELLED, "Its ECS task has stopped.")
            case StartAgain(why):
                self._journal.starts_again(run, why)
                run.again()
                self._way.send(run)
            case LookUp(why):
                await self._look_up(run, why)
            case Crash(why):
                run.crashed(why)
                await self._end(run, StateType.CRASHED, why)
                if found is not None and found.state_type is StateType.PENDING and run.id not in self._ledger:
                    self._journal.never_began(run)

    async def _look_up(self, run: Run, why: str) -> None:
        """Another task of the claim may be the one in which the flow runs: its worker died before it named it."""
        try:
            if not run.proven:
                claim = latest_claim(await self._api.state_history(run.id), datetime.now(UTC))
                run.proved(claim.claim_id if claim is not None else run.claim.claim_id)
            task = await self._locate.find(run)
        except EcsWorkerError as error:
            if not (isinstance(error, AwsError) and error.code == NO_CLUSTER):  # without its cluster there is none
                log.warning("%s: whether it has another ECS task is not known yet: %s", run.label, error)
                return
            task = None
        if task is None or (run.task is not None and task.arn == run.task.arn):
            run.crashed(why)
            await self._end(run, StateType.CRASHED, why)
        else:
            run.moved_to(task)
            self._journal.adopted(run)

    async def _remember_spot(self, run: Run) -> None:
        """Should the run be scheduled once more, its next claim, by whichever worker, goes without Spot."""
        run.lost_spot()
        try:
            await self._api.label_run(run.id, {SPOT_LOST: True})
        except PrefectError as error:
            log.debug("%s has no label for its lost Spot capacity: %s", run.label, error)  # 2.20 has none

    async def _end(self, run: Run, kind: StateType, message: str) -> None:
        """Write the final state, and let the run go. What can't be written now is decided afresh by a later look."""
        state = ProposedState(kind, kind.capitalize(), message)
        try:
            answer = await self._api.propose_state(run.id, state)
        except PrefectNotFound:
            log.info("%s was deleted.", run.label)
        except PrefectError as error:
            log.warning("%s is not marked %s yet: %s", run.label, state.name, error)
            return
        else:
            if answer.status is SetStateStatus.ACCEPT:
                self._journal.ended(run, kind, message)
            elif answer.state is not None and not answer.state.type.final:
                return  # cancelling meanwhile, say
        await self._let_go(run)

    async def _let_go(self, run: Run) -> None:
        self._ledger.drop(run)
        await self._way.retire(run)
