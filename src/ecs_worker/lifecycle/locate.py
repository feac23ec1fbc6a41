"""Locate: where is this run's task? Only asks; nothing is changed."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from ecs_worker.errors import AwsError, DocumentUnread, JobInvalid, PrefectNotFound, UserError
from ecs_worker.model import DEFAULT_CLUSTER, AwsTarget, Place, Placement
from ecs_worker.verdicts.classify import Kind, classify, turned_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.rendering.render import Render
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.model import ClaimedRun, TaskFacts, TaskName

log = logging.getLogger(__name__)

T = TypeVar("T")

RENEWED_EVERY = 30.0  # seconds at least between two questions for a target's credentials that gave no others
MOST_DESCRIBED = 100  # DescribeTasks takes no more

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Locate:
    """Finds tasks by what the run and the ARN say, or by the claim's `startedBy`.

    `cluster` is the worker's own default: with its Region and account the place where its jobs run.
    """

    def __init__(self, aws: Aws, render: Render, cluster: str | None) -> None:
        self._aws = aws
        self._render = render
        self._home = Place("", "", cluster or DEFAULT_CLUSTER)
        self._current_until: dict[AwsTarget, float] = {}  # their credentials were asked for a moment ago

    @property
    def home(self) -> Place:
        """Where this worker is, as far as it is known."""
        return self._home

    async def settle(self) -> None:
        """Learn where this worker is."""
        self._home = replace(self._home, region=self._aws.region() or "", account=await self._aws.account())

    async def reaches(self, target: AwsTarget, account: str) -> bool:
        """Whether these credentials are the account's; taken for so where that can't be told."""
        own = await self._aws.account(target)
        return not own or not account or own == account

    async def place(self, run: Run) -> Placement:
        """Where the run's job would run now. Raises JobInvalid, UserError, PrefectError or AwsError."""
        return (await self._render.render(run.claim)).placement

    async def placement_of(self, claim: ClaimedRun, name: TaskName) -> Placement:
        """Where the task of that name is: Region and cluster are what the name says. Raises PrefectError or AwsError.

        A job that was changed or deleted since, or that can't be rendered any more, doesn't hide its task: the name
        says enough to watch it; only its output, and the credentials of its block, are not known.
        """
        try:
            placement = (await self._render.render(claim)).placement
        except (DocumentUnread, JobInvalid, PrefectNotFound, UserError):
            placement = Placement(AwsTarget(), name.cluster, container="")
        except AwsError as error:
            if classify(error).kind is not Kind.PERMANENT:
                raise
            placement = Placement(AwsTarget(), name.cluster, container="")
        target = replace(placement.target, region=name.region or placement.target.region)
        return replace(placement, target=target, cluster=name.cluster)

    async def renew(self, run: Run) -> bool:
        """Whether the run's job has other credentials by now; the run then goes by them.

        What didn't help one run isn't tried for the others of its target for a while. Raises PrefectError or AwsError.
        """
        target = run.target
        if target.credentials is None or self._current_until.get(target, 0.0) > time.monotonic():
            return False  # botocore renews the worker's own
        anew = await (self.placement_of(run.claim, run.name) if run.name is not None else self.place(run))
        known = anew.target.credentials is not None or await self._is_own(run.name)
        if anew.target == target or not known:
            self._current_until = {key: until for key, until in self._current_until.items() if until > time.monotonic()}
            self._current_until[target] = time.monotonic() + RENEWED_EVERY
            return False
        log.info("%s: its job has other AWS credentials by now, which are used from here on.", run.label)
        run.retargeted(anew.target)
        return True

    async def renewing(self, run: Run, ask: Callable[[], Awaitable[T]]) -> T:
        """What AWS answers about the run; asked once more if its credentials have turned over. Raises as `ask`."""
        try:
            return await ask()
        except AwsError as error:
            if not turned_over(error) or not await self.renew(run):
                raise
        return await ask()

    async def _is_own(self, name: TaskName | None) -> bool:
        """Whether the task is in the worker's own account: a job that can't be rendered any more tells no other."""
        return name is not None and await self._aws.account() == name.account

    async def find(self, run: Run) -> TaskFacts | None:
        """The task that the run's claim launched, if ECS has one: the newest, when there were several attempts.

        Raises AwsError. A task that has been stopped for more than an hour is not found.
        """
        assert run.placement is not None, "without a placement there is nowhere to look"
        return await self.renewing(run, lambda: self._find(run))

    async def _find(self, run: Run) -> TaskFacts | None:
        target, cluster = run.place
        ecs = await self._aws.ecs(target)
        arns: list[str] = []
        for status in ("RUNNING", "STOPPED"):
            arns += await ecs.list_tasks(cluster, started_by=run.claim.started_by, desired_status=status)
        if not arns:
            return None
        tasks, _ = await ecs.describe_tasks(cluster, arns[:MOST_DESCRIBED])
        return max(tasks, key=lambda task: (not task.stopped, task.created_at or _LONG_AGO), default=None)

    async def is_of_claim(self, claim: ClaimedRun, name: TaskName) -> bool:
        """Whether that task was launched by this claim. Raises AwsError, PrefectError or UserError."""
        placement = await self.placement_of(claim, name)
        ecs = await self._aws.ecs(placement.target)
        tasks, _ = await ecs.look_up(placement.cluster, [name.arn])
        return any(task.started_by == claim.started_by for task in tasks)
