"""Clean up: stop a task because the server says so, after it has given up waiting for a cancellation.

The run is Cancelled by then, and no state is changed here. The server gives each order to one worker of the pool,
which need not be the one that holds the run, and gives it again until it is acknowledged: so nothing is lost if the
process dies here, and doing it twice is harmless. A task that ECS doesn't know (any more) is as good as stopped.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from ecs_worker.errors import AwsError, EcsWorkerError, PrefectUnavailable, PrefectUnreachable
from ecs_worker.lifecycle.adopt import as_held, latest_claim, placement_of
from ecs_worker.lifecycle.report import task_of
from ecs_worker.model import AwsTarget, Phase
from ecs_worker.verdicts.classify import NO_CLUSTER, Kind, classify

if TYPE_CHECKING:
    from uuid import UUID

    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.launch import Launch
    from ecs_worker.lifecycle.rendering.render import Render
    from ecs_worker.lifecycle.run.ledger import Held, Ledger
    from ecs_worker.lifecycle.watch import Watch
    from ecs_worker.prefect_api.channel import Channel, Teardown
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun

log = logging.getLogger(__name__)

WHY = "Its cancellation took too long."
PATIENCE = 120.0  # seconds for one order; after three that end without success the server gives it up

_TASK = re.compile(r".*::arn:[\w-]+:ecs:(?P<region>[\w-]+):\d+:task/.+")
_GONE_TASK = "InvalidParameterException"  # with "The referenced task was not found."


class CleanupFailed(EcsWorkerError):
    """The order names something that is no ECS task."""


class _NotYet(EcsWorkerError):
    """The run's launch is not over: whether there is a task to stop is not known."""


class Cleanup:
    """Obeys the clean-up messages of the worker channel."""

    def __init__(
        self,
        api: PrefectClient,
        aws: Aws,
        ledger: Ledger,
        render: Render,
        launch: Launch,
        watch: Watch,
        channel: Channel,
    ) -> None:
        self._api = api
        self._aws = aws
        self._ledger = ledger
        self._render = render
        self._launch = launch
        self._watch = watch
        self._channel = channel

    async def run(self) -> None:
        """Obey for ever; return when the server has no worker channel and what has come is done."""
        async with anyio.create_task_group() as orders:
            await self._channel.run(lambda order: orders.start_soon(self._obey, order))

    async def _obey(self, order: Teardown) -> None:
        async with anyio.create_task_group() as meanwhile:
            meanwhile.start_soon(self._channel.keep, order)
            failure = await self._patiently(order)
            meanwhile.cancel_scope.cancel()
        if failure is None:
            await self._channel.acknowledge(order)
        else:
            log.warning("The task of flow run %s could not be stopped, as the server asked: %s", order.run_id, failure)
            await self._channel.release(order, str(failure) or type(failure).__name__)

    async def _patiently(self, order: Teardown) -> Exception | None:
        """Why it could not be done, or None."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(_passes),
            wait=wait_random_exponential(multiplier=0.5, max=15),
            stop=stop_after_delay(PATIENCE),
            reraise=True,
        )
        try:
            await retrying(self.once, order)
        except EcsWorkerError as error:
            return error
        except Exception as error:
            # The rim of one order: a fault of ours must not end the worker.
            log.exception("A clean-up met a fault of ecs-worker: please report it.")
            return error
        return None

    async def once(self, order: Teardown) -> None:
        """Stop what the order names. Raises AwsError, PrefectError, UserError or CleanupFailed when that failed."""
        named = order.infrastructure_pid
        held = self._ledger.get(order.run_id)
        if held is not None and named is not None and task_of(named) == task_of(held.identifier):
            await self._stop_held(held)
            return
        run = await self._api.read_run(order.run_id)
        if named is not None:
            await self._stop_named(order.run_id, run, named)
        elif run is None or run.state_type is None or not run.state_type.final:
            log.info("Flow run %s was deleted or scheduled anew: there is nothing to clean up.", order.run_id)
        elif held is not None:
            await self._stop_held(held)
        else:
            await self._stop_claimed(run)

    async def _stop_held(self, held: Held) -> None:
        """Let `watch` stop it, as for any cancellation; before there is a task, let `launch` give up."""
        held.cancelling_since = held.cancelling_since or time.monotonic()
        await self._watch.stop(held, WHY)
        if held.run.run_id in self._ledger and not held.stop_reason and held.phase is not Phase.STOPPED:
            raise _NotYet(f"Its task is not stopped yet; the run is {held.phase}.")

    async def _stop_named(self, run_id: UUID, run: FlowRun | None, named: str) -> None:
        """Stop the task that the run named, with the credentials of its job, or else with the worker's own."""
        found = _TASK.fullmatch(named)
        if found is None:
            raise CleanupFailed(f"{named!r} is no ECS task.")
        target = AwsTarget()
        if run is not None:
            target = (await placement_of(self._render, as_held(run, None).run, named)).target
        await self._stop(replace(target, region=found["region"]), named, run_id)

    async def _stop_claimed(self, run: FlowRun) -> None:
        """The run names no task; its last claim may have launched one all the same, and its worker died."""
        claim = latest_claim(await self._api.state_history(run.id), datetime.now(UTC))
        if claim is None:
            return
        held = as_held(run, claim)
        held.placement = (await self._render.once(held.run)).placement
        task = await self._launch.find(held)
        if task is not None and not task.stopped:
            await self._stop(held.placement.target, f"{held.placement.cluster}::{task.arn}", run.id)

    async def _stop(self, target: AwsTarget, identifier: str, run_id: UUID) -> None:
        ecs = await self._aws.ecs(target)
        try:
            await ecs.stop_task(
                identifier.rpartition("::")[0], task_of(identifier), f"Prefect flow run {run_id}: {WHY}"
            )
        except AwsError as error:
            if not gone(error):
                raise
            log.info("Flow run %s: ECS does not know task %s any more.", run_id, task_of(identifier))
        else:
            log.warning("Flow run %s: ECS was asked to stop task %s: %s", run_id, task_of(identifier), WHY)


def gone(error: AwsError) -> bool:
    """Whether StopTask failed because there is no such task or cluster."""
    return error.code == NO_CLUSTER or (error.code == _GONE_TASK and "task was not found" in error.message)


def _passes(error: BaseException) -> bool:
    if isinstance(error, AwsError):
        return classify(error).kind is not Kind.PERMANENT
    return isinstance(error, _NotYet | PrefectUnavailable | PrefectUnreachable)
