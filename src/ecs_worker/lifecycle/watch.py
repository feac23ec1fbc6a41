"""Watch: one sweeper describes the tasks of all held runs, 100 to a call, and passes on what changed.

It works on levels, not on edges: whatever a failed call left undone is still to do at the next sweep. If the process
dies, `adopt` of the next worker describes the same tasks.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import anyio

from ecs_worker.errors import AwsError, EcsWorkerError
from ecs_worker.lifecycle.lanes import Lanes
from ecs_worker.lifecycle.loops import every, guarded
from ecs_worker.lifecycle.run.run import WATCHED
from ecs_worker.model import Phase
from ecs_worker.verdicts.classify import turned_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import TaskGroup

    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.journal.journal import Journal
    from ecs_worker.lifecycle.locate import Locate
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.model import AwsTarget, TaskFacts
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

_Place: TypeAlias = "tuple[AwsTarget, str]"  # and the cluster

PER_CALL = 100  # DescribeTasks takes no more
ORDERS_AT_ONCE = 10  # to stop tasks of one place
LOOKED_EVERY = 1.0  # seconds at most between two looks at what is due
RUNNING_FACTOR = 2.0  # tasks that run are looked at that many times less often than those that start
MISSING_FOR = 60.0  # seconds: DescribeTasks may not know a new task for a while (ECS is eventually consistent)
UNSEEN = f"ECS did not describe its task for {MISSING_FOR:.0f} s."


class Watch:
    """The sweeper.

    Each task is looked at when it is due: often while it starts, seldom while it runs. The calls stay within a share
    of the account's read limit; when that doesn't suffice, the latest come first and all wait alike, which `late`
    shows.
    """

    def __init__(self, aws: Aws, ledger: Ledger, locate: Locate, journal: Journal, settings: WorkerSettings) -> None:
        self._aws = aws
        self._locate = locate
        self._ledger = ledger
        self._journal = journal
        self._settings = settings
        self._looks: Counter[_Place] = Counter()  # calls under way
        self._orders = Lanes(ORDERS_AT_ONCE)
        self.late = 0.0
        """How many seconds behind its time the task is that waits longest to be looked at."""

    async def run(self) -> None:
        """Sweep for ever."""
        async with anyio.create_task_group() as calls:
            await every(min(LOOKED_EVERY, self._settings.watch_seconds / 2), partial(self.sweep, calls))

    async def sweep(self, calls: TaskGroup) -> None:
        """Begin to describe the tasks that are due, as far as the budget goes.

        A place whose last calls are still under way is left alone, and holds nobody up.
        """
        now = self._ledger.clock()
        late = 0.0
        for target, chunks in self._due(now).items():
            able = [(cluster, chunk) for cluster, chunk in chunks if not self._looks[target, cluster]]
            left = [chunk for cluster, chunk in chunks if self._looks[target, cluster]]
            granted = self._aws.part(target, "DescribeTasks", self._settings.describe_share).grant(len(able))
            for cluster, chunk in able[:granted]:
                self._looks[target, cluster] += 1
                calls.start_soon(self._look, calls, (target, cluster), chunk)
            left += [chunk for _, chunk in able[granted:]]
            late = max([late, *(now - chunk[0].due for chunk in left)])
        self.late = late

    def _due(self, now: float) -> dict[AwsTarget, list[tuple[str, list[Run]]]]:
        """What to describe, in calls of up to 100 tasks of one cluster, by account; the latest first.

        A call costs the same however full it is, so one that has room takes what is due next.
        """
        clusters: defaultdict[tuple[AwsTarget, str], list[Run]] = defaultdict(list)
        for run in self._ledger:
            if run.phase in WATCHED and run.placement is not None:
                clusters[run.placement.target, run.placement.cluster].append(run)
        calls: defaultdict[AwsTarget, list[tuple[str, list[Run]]]] = defaultdict(list)
        for (target, cluster), watched in clusters.items():
            watched.sort(key=lambda run: run.due)
            for start in range(0, len(watched), PER_CALL):
                if watched[start].due > now:
                    break
                calls[target].append((cluster, watched[start : start + PER_CALL]))
        for chunks in calls.values():
            chunks.sort(key=lambda call: call[1][0].due)
        return calls

    def _interval(self, run: Run) -> float:
        if run.phase is Phase.STARTING or run.placement is None:
            return self._settings.watch_seconds
        return run.placement.watch_interval or RUNNING_FACTOR * self._settings.watch_seconds

    async def _look(self, calls: TaskGroup, place: _Place, chunk: Sequence[Run]) -> None:
        try:
            await self._describe(calls, place, chunk)
        finally:
            self._looks[place] -= 1
            if not self._looks[place]:
                del self._looks[place]  # credentials turn over, and places with them

    async def _describe(self, calls: TaskGroup, place: _Place, chunk: Sequence[Run]) -> None:
        target, cluster = place
        watched = [(run.task.arn, run) for run in chunk if run.task is not None]
        try:
            ecs = await self._aws.ecs(target)
            tasks, missing = await ecs.look_up(cluster, list(dict(watched)))
        except EcsWorkerError as error:
            if isinstance(error, AwsError) and turned_over(error) and await self._renewed(chunk):
                return  # described with the new credentials by the next sweep
            log.warning("%d tasks of cluster %s can't be described now: %s", len(chunk), cluster or "default", error)
            tasks, missing = [], []
        known = {task.arn: task for task in tasks}
        for arn, run in watched:
            if run.phase not in WATCHED:
                continue  # an event was quicker
            with guarded(run.label):
                if arn in known:
                    self.observe(run, known[arn])
                elif arn in missing and run.missing() >= MISSING_FOR:
                    self._orders.begin(calls, place, run.id, run.label, partial(self._missing, run))
                if why := overdue(run):
                    self._orders.begin(calls, place, run.id, run.label, partial(self.stop, run, why))
            if run.phase in WATCHED:
                run.look_again(self._ledger.clock() + self._interval(run))

    async def _renewed(self, chunk: Sequence[Run]) -> bool:
        """Whether the runs' jobs have other credentials by now."""
        try:
            return any([await self._locate.renew(run) for run in chunk])
        except EcsWorkerError as error:
            log.warning(
                "The AWS credentials of %d tasks have turned over, and others can't be read: %s", len(chunk), error
            )
            return False

    def observe(self, run: Run, task: TaskFacts) -> None:
        """Take in what ECS says of a run's task."""
        if (change := run.seen(task)) is not None:
            self._journal.changed(run, change)

    async def _missing(self, run: Run) -> None:
        with suppress(EcsWorkerError):
            if await self._ask_to_stop(run, UNSEEN):
                run.shown()  # it exists all the same: its end will show, or not in as long again
        if run.missing_for is None:  # events may have told of it, too
            return
        if (change := run.gone()) is not None:
            self._journal.gone(run, change)

    async def stop(self, run: Run, why: str) -> None:
        """Ask ECS to stop the run's task. `why` becomes the task's stoppedReason and part of a crash's message."""
        try:
            await self._locate.renewing(run, lambda: self._ask_to_stop(run, why))
        except EcsWorkerError as error:
            log.warning("%s: its task can't be stopped yet: %s", run.label, error)

    async def _ask_to_stop(self, run: Run, why: str) -> bool:
        """Whether ECS has taken the order, the first for this task."""
        launched = run.launched
        if launched is None or run.phase is Phase.STOPPED or run.stop_reason:
            return False
        ecs = await self._aws.ecs(launched.placement.target)
        await ecs.stop_task(launched.placement.cluster, launched.task.arn, f"Prefect flow run {run.id}: {why}")
        run.stopping(why)
        self._journal.stop_asked(run, why)
        return True


def overdue(run: Run) -> str:
    """Why the task has had its time, or empty. ECS's own times count: a new worker may have adopted the task."""
    launched = run.launched
    if launched is None:
        return ""
    placement, task = launched.placement, launched.task
    if run.phase is Phase.STARTING and placement.start_timeout and _age(task.created_at) > placement.start_timeout:
        return f"It did not start within {placement.start_timeout:.0f} s (task_start_timeout_seconds)."
    if run.phase is Phase.RUNNING and placement.max_runtime and _age(task.started_at) > placement.max_runtime:
        return f"It ran for more than {placement.max_runtime:.0f} s (max_runtime_seconds)."
    return ""


def _age(moment: datetime | None) -> float:
    return (datetime.now(UTC) - moment).total_seconds() if moment is not None else 0.0
