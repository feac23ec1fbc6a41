"""The way of one run: claim → render → define → launch. What has no task at its end is ended here, too.

Each step is a module of its own and has one verb. A process that dies on the way leaves a run that is Pending by its
claim; `adopt`, of this worker's successor or of a colleague, goes on from there.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import AwsError, EcsWorkerError, LaunchFailed, NotOurs
from ecs_worker.lifecycle.loops import guarded
from ecs_worker.lifecycle.patience import Refused
from ecs_worker.lifecycle.run import decide
from ecs_worker.lifecycle.run.decide import Crash, Drop, Release, Stop, Unknown, Watch
from ecs_worker.model import AwsFailure, Phase
from ecs_worker.verdicts.classify import turned_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from anyio.abc import TaskGroup

    from ecs_worker.lifecycle.claim import Claim
    from ecs_worker.lifecycle.define import Define
    from ecs_worker.lifecycle.journal.journal import Journal
    from ecs_worker.lifecycle.launch import Launch
    from ecs_worker.lifecycle.locate import Locate
    from ecs_worker.lifecycle.patience import Patience
    from ecs_worker.lifecycle.rendering.render import Render
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.lifecycle.sign import Sign
    from ecs_worker.model import LaunchRequest, TaskFacts, TaskName
    from ecs_worker.prefect_api.schemas import FlowRun

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps, in their order; `sign` is the last."""

    claim: Claim
    render: Render
    define: Define
    launch: Launch
    sign: Sign


class Way:
    """Carries runs side by side. `open()` comes first."""

    def __init__(self, steps: Steps, patience: Patience, locate: Locate, ledger: Ledger, journal: Journal) -> None:
        self._steps = steps
        self._patience = patience
        self._locate = locate
        self._ledger = ledger
        self._journal = journal
        self._launches: TaskGroup | None = None

    @asynccontextmanager
    async def open(self, stop_seconds: float) -> AsyncIterator[None]:
        """Runs may be sent while this is open. Afterwards open launches have so many seconds to come to an end."""
        async with anyio.create_task_group() as launches:
            self._launches = launches
            yield
            self._launches = None
            self._patience.break_off()  # a RunTask that is under way is seen to its end
            launches.cancel_scope.deadline = anyio.current_time() + stop_seconds

    def send_scheduled(self, scheduled: FlowRun, polled_at: float) -> None:
        """Start a scheduled run on its way, and return at once."""
        if self._launches is not None:
            self._launches.start_soon(self._carry, scheduled, polled_at)

    def send(self, run: Run) -> None:
        """Start a run that is held already on the rest of its way, and return at once."""
        if self._launches is None:
            self._ledger.drop(run)  # still Pending by its claim: the next worker adopts it
        else:
            self._launches.start_soon(self._bring_up, run)

    async def adopt(
        self,
        run: Run,
        task: TaskFacts,
        name: TaskName | None = None,
        *,
        labelled: bool = False,
        held_until: datetime | None = None,
    ) -> None:
        """Look after a task that another process launched. `name`: as the run names it, and `labelled`: this worker.

        `held_until`: when whoever held the run was last known to live.
        """
        if run.id in self._ledger:
            return
        run.adopted_as(task, name, held_until)
        self._ledger.take(run)
        self._journal.adopted(run)
        await self._steps.sign.sign_adopted(run, labelled=labelled)

    async def retire(self, run: Run) -> None:
        """The run is over: its task definition goes, if its job wants that and no other held run needs it."""
        await self._steps.define.retire(run, self._ledger)

    async def _carry(self, scheduled: FlowRun, polled_at: float) -> None:
        run = await self._steps.claim.take(scheduled, polled_at)
        if run is None:
            return
        request = await self._bring_up(run, new=True)
        # Once for each run: not by who adopts it, for no second task, and not with a claim that is given back.
        told = (run.launched is not None or run.phase is Phase.ABANDONED) and not run.claim.named_before
        if told and request is not None:
            self._journal.has_no_effect(run, request.warnings)

    async def _bring_up(self, run: Run, *, new: bool = False) -> LaunchRequest | None:
        """From rendering to the task; or to an end that says why there is none. The request, if there was one.

        `new`: claimed a moment ago, so that it may be given back where there is no room for it.
        """
        request = None
        with guarded(run.label) as guard:
            try:
                request = await self._patience.ask(run, run.claim.deployment_id, lambda: self._render(run))
                run.rendered(request)
                if new:
                    self._patience.make_way(run, request.place)
                task = await self._patience.ask(run, request.place, lambda: self._launch(run, request))
            except EcsWorkerError as obstacle:
                await self._end(run, obstacle)
            else:
                run.launched_as(task)
                self._journal.launched(run)
                await self._steps.sign.sign(run)
        if guard.fault is not None and run.launched is None:  # nor may it meet this run for ever
            fault = type(guard.fault).__name__
            await self._end(run, LaunchFailed(f"ecs-worker has a fault ({fault}); its log says more."))
        return request

    async def _render(self, run: Run) -> LaunchRequest:
        return await self._patience.while_wanted(run, lambda: self._steps.render.render(run.claim))

    async def _launch(self, run: Run, request: LaunchRequest) -> TaskFacts:
        try:
            definition = await self._patience.while_wanted(run, lambda: self._steps.define.ensure(request))
            return await self._steps.launch.start(run, request, definition)
        except AwsError as error:
            if turned_over(error):
                anew = await self._render(run)
                if anew.placement.target != request.placement.target:
                    run.rendered(anew)
                    return await self._launch(run, anew)
            if self._steps.define.heed(request, error):
                gone = "its task definition was deregistered; another one is registered"
                raise Refused(AwsFailure(reason=gone)) from None
            raise

    # -- without a task

    async def _end(self, run: Run, obstacle: EcsWorkerError) -> None:
        """No launch. But when a RunTask was never answered, a task may exist all the same."""
        found = await self._found(run) if run.unanswered else None
        decision = decide.of_unlaunched(obstacle, run, found)
        if isinstance(obstacle, NotOurs):
            log.info("%s: %s", run.label, obstacle)
        match decision:
            case Drop():
                self._ledger.drop(run)
            case Watch(task):  # `watch` has it from here, and `cancel` stops it if need be
                run.launched_as(task)
                await self._steps.sign.sign(run)
            case Stop(task):
                run.handed_over_with(task)
            case Crash(why):  # `report` writes it, if the run still is this worker's
                run.abandoned(why)
            case Release(why, after):
                await self._steps.claim.release(run, why, after)

    async def _found(self, run: Run) -> TaskFacts | Unknown | None:
        try:
            return await self._locate.find(run)
        except EcsWorkerError as error:
            started_by = run.claim.started_by
            log.warning("%s: whether ECS has a task with startedBy %s is not known: %s", run.label, started_by, error)
            return Unknown()
