"""Clean up: stop a task because the server says so, after it has given up waiting for a cancellation.

The run is Cancelled by then, and no state is changed here. The server gives each order to one worker of the pool,
which need not be the one that holds the run, and gives it again until it is acknowledged: so nothing is lost if the
process dies here, and doing it twice is harmless. A task that ECS doesn't know (any more) is as good as stopped.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from ecs_worker.errors import AwsError, CleanupFailed, EcsWorkerError, PrefectUnavailable, PrefectUnreachable
from ecs_worker.lifecycle.loops import guarded
from ecs_worker.lifecycle.run.claims import latest_claim, recorded_run
from ecs_worker.lifecycle.run.run import ENDING
from ecs_worker.model import AwsTarget, TaskName
from ecs_worker.verdicts.classify import Kind, classify
from ecs_worker.verdicts.codes import INVALID_PARAMETER, NO_CLUSTER

if TYPE_CHECKING:
    from uuid import UUID

    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.locate import Locate
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.lifecycle.watch import Watch
    from ecs_worker.prefect_api.channel import Channel, Teardown
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun

log = logging.getLogger(__name__)

WHY = "Its cancellation took too long."
TRIED_FOR = 120.0  # seconds for one order; after three that end without success the server gives it up


class _NotYet(EcsWorkerError):
    """The run's launch is not over: whether there is a task to stop is not known."""


class Cleanup:
    """Obeys the clean-up messages of the worker channel."""

    def __init__(
        self, api: PrefectClient, aws: Aws, ledger: Ledger, locate: Locate, watch: Watch, channel: Channel
    ) -> None:
        self._api = api
        self._aws = aws
        self._ledger = ledger
        self._locate = locate
        self._watch = watch
        self._channel = channel

    async def run(self) -> None:
        """Obey for ever; return when the server has no worker channel and what has come is done."""
        async with anyio.create_task_group() as orders:
            await self._channel.run(lambda order: orders.start_soon(self._handle, order))

    async def _handle(self, order: Teardown) -> None:
        async with anyio.create_task_group() as meanwhile:
            meanwhile.start_soon(self._channel.keep, order)
            failure = await self._try(order)
            meanwhile.cancel_scope.cancel()
        if failure is None:
            await self._channel.acknowledge(order)
        else:
            log.warning("The task of flow run %s could not be stopped, as the server asked: %s", order.run_id, failure)
            await self._channel.release(order, str(failure) or type(failure).__name__)

    async def _try(self, order: Teardown) -> Exception | None:
        """Why it could not be done, or None."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(_passes),
            wait=wait_random_exponential(multiplier=0.5, max=15),
            stop=stop_after_delay(TRIED_FOR),
            reraise=True,
        )
        with guarded("A clean-up") as guard:
            try:
                await retrying(self.obey, order)
            except EcsWorkerError as error:
                return error
        return guard.fault

    async def obey(self, order: Teardown) -> None:
        """Stop what the order names. Raises AwsError, PrefectError, UserError or CleanupFailed when that failed."""
        named = order.infrastructure_pid
        held = self._ledger.get(order.run_id)
        if held is not None and named is not None and held.is_named(named):
            await self._stop_held(held)
            return
        found = await self._api.read_run(order.run_id)
        if named is not None:
            await self._stop_named(order.run_id, found, named)
        elif found is None or found.state_type is None or not found.state_type.final:
            log.info("Flow run %s was deleted or scheduled anew: there is nothing to clean up.", order.run_id)
        elif held is not None:
            await self._stop_held(held)
        else:
            await self._stop_claimed(found)

    async def _stop_held(self, run: Run) -> None:
        """Let `watch` stop it, as for any cancellation; before there is a task, let `launch` give up."""
        run.cancel()
        await self._watch.stop(run, WHY)
        if run.id in self._ledger and not run.stop_reason and run.phase not in ENDING:
            raise _NotYet(f"Its task is not stopped yet; the run is {run.phase}.")

    async def _stop_named(self, run_id: UUID, found: FlowRun | None, named: str) -> None:
        """Stop the task that the run named, with the credentials of its job, or else with the worker's own."""
        name = TaskName.read(named)
        if name is None:
            raise CleanupFailed(f"{named!r} is no ECS task.")
        target = AwsTarget()
        if found is not None:
            target = (await self._locate.placement_of(recorded_run(found, None).claim, name)).target
        await self._stop(replace(target, region=name.region), name, run_id)

    async def _stop_claimed(self, found: FlowRun) -> None:
        """The run names no task; its last claim may have launched one all the same, and its worker died."""
        claim = latest_claim(await self._api.state_history(found.id), datetime.now(UTC))
        if claim is None:
            return
        run = recorded_run(found, claim)
        placement = await self._locate.place(run)
        run.placed(placement)
        task = await self._locate.find(run)
        if task is not None and not task.stopped:
            await self._stop(placement.target, TaskName(placement.cluster, task.arn), found.id)

    async def _stop(self, target: AwsTarget, name: TaskName, run_id: UUID) -> None:
        ecs = await self._aws.ecs(target)
        try:
            await ecs.stop_task(name.cluster, name.arn, f"Prefect flow run {run_id}: {WHY}")
        except AwsError as error:
            if not gone(error):
                raise
            log.info("Flow run %s: ECS does not know task %s any more.", run_id, name.arn)
        else:
            log.warning("Flow run %s: ECS was asked to stop task %s: %s", run_id, name.arn, WHY)


def gone(error: AwsError) -> bool:
    """Whether StopTask failed because there is no such task or cluster."""
    return error.code == NO_CLUSTER or (error.code == INVALID_PARAMETER and "task was not found" in error.message)


def _passes(error: BaseException) -> bool:
    if isinstance(error, AwsError):
        return classify(error).kind is not Kind.PERMANENT
    return isinstance(error, _NotYet | PrefectUnavailable | PrefectUnreachable)
