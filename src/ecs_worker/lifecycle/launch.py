"""Launch: RunTask, once for each attempt, so that ECS answers with the same task however often it is asked.

The crash windows:
- before RunTask: the run is Pending by our claim, without a task. `adopt` launches it with the same claim id.
- RunTask asked, answer not seen: the same clientToken is sent again, by this process or the next; ECS answers
  with the same task. `adopt` also finds the task by `startedBy`.
- task launched, `infrastructure_pid` not written: as above; `sign` repeats the write until it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecs_worker.errors import AwsError
from ecs_worker.job.requests import without_spot
from ecs_worker.lifecycle.patience import Refused, refuse_if_cancelled
from ecs_worker.model import AwsFailure, TaskFacts
from ecs_worker.verdicts.classify import Kind, classify
from ecs_worker.verdicts.codes import CONFLICT

if TYPE_CHECKING:
    from ecs_worker.aws.ecs import Ecs
    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.locate import Locate
    from ecs_worker.lifecycle.patience import Patience
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.model import LaunchRequest

STALE_AFTER = 5.0  # seconds in the queue after which the run is read again before its launch


class Launch:
    """Launches one attempt of one run at a time."""

    def __init__(self, aws: Aws, ledger: Ledger, locate: Locate, patience: Patience) -> None:
        self._aws = aws
        self._ledger = ledger
        self._locate = locate
        self._patience = patience

    async def start(self, run: Run, request: LaunchRequest, definition: str) -> TaskFacts:
        """The task that this attempt of the run has. Raises AwsError, Refused, NotWanted or NotOurs.

        `definition`: the ARN or the name of the task definition.
        """
        ecs = await self._aws.ecs(request.placement.target)
        await self._patience.while_wanted(run, lambda: self._turn(run, ecs, request))
        on_demand = run.on_demand and request.placement.spot_fallback
        asked: dict[str, Any] = {
            **(without_spot(request.run_task) if on_demand else request.run_task),
            "taskDefinition": definition,
            "clientToken": run.claim.client_token(run.attempt),
            "startedBy": run.claim.started_by,
        }
        try:
            tasks, failures = await ecs.run_task(asked)
        except AwsError as error:
            if error.code == CONFLICT:
                # This very claim and attempt was asked for before, in other words (a new worker's name).
                return await self._asked_before(run, error)
            if error.retried or classify(error).kind is Kind.AMBIGUOUS:
                run.not_answered()
            raise
        if tasks:
            return tasks[0]
        # ECS records a failure under its token and repeats it: a new attempt needs a new one.
        run.refused()
        if request.placement.spot_fallback:
            run.lost_spot()
        raise Refused(failures[0] if failures else AwsFailure(reason="ECS launched no task and gave no reason"))

    async def _turn(self, run: Run, ecs: Ecs, request: LaunchRequest) -> None:
        """Wait for the turn that AWS's limits leave to this launch: behind hundreds of others that takes a while."""
        began = self._ledger.clock()
        await ecs.launch_turn(request.capacity)
        if self._ledger.clock() - began > STALE_AFTER:
            await self._patience.still_wanted(run)
        refuse_if_cancelled(run)

    async def _asked_before(self, run: Run, conflict: AwsError) -> TaskFacts:
        """The task that the token stands for; where it stands for a failure, which ECS keeps, a new token is needed."""
        if conflict.resource_ids:
            return TaskFacts(arn=conflict.resource_ids[0])
        task = await self._locate.find(run)
        if task is not None and not task.stopped:
            return task
        run.refused()
        raise Refused(AwsFailure(reason="an earlier attempt to launch it had failed")) from conflict
