"""Watch: one sweeper describes the tasks of all held runs, 100 to a call, and passes on what changed.

It works on levels, not on edges: whatever a failed call left undone is still to do at the next sweep. If the process
dies, `adopt` of the next worker describes the same tasks.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import EcsWorkerError
from ecs_worker.lifecycle.loops import rim
from ecs_worker.model import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.journal.event_feed import EventFeed
    from ecs_worker.lifecycle.journal.output import ContainerOutput
    from ecs_worker.lifecycle.journal.run_logs import RunLogs
    from ecs_worker.lifecycle.run.ledger import Held, Ledger
    from ecs_worker.model import AwsTarget, TaskFacts
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

PER_CALL = 100  # DescribeTasks takes no more
READS_PER_SECOND = 20.0  # ECS's sustained limit for DescribeTasks and ListTasks together (API throttling limits)
BURST_SECONDS = 2.0  # of unused budget that are kept
TICK = 1.0  # seconds between two looks at what is due
RUNNING_FACTOR = 2.0  # tasks that run are looked at that many times less often than those that start
WATCHED = frozenset({Phase.STARTING, Phase.RUNNING})
MISSING_GRACE = 60.0  # seconds: DescribeTasks may not know a new task for a while (ECS is eventually consistent)
UNSEEN = f"ECS did not describe its task for {MISSING_GRACE:.0f} s."


class Budget:
    """Calls that may be made: `per_second`, and what was left of the last moments."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._saved = max(per_second * BURST_SECONDS, 1.0)
        self._at = time.monotonic()

    def take(self, wanted: int, now: float) -> int:
        """How many of the wanted calls may be made now."""
        most = max(self._per_second * BURST_SECONDS, 1.0)
        self._saved = min(most, self._saved + (now - self._at) * self._per_second)
        self._at = now
        granted = min(wanted, int(self._saved))
        self._saved -= granted
        return granted


class Watch:
    """The sweeper.

    Each task is looked at when it is due: often while it starts, seldom while it runs. The calls stay within a share
    of the account's read limit; when that doesn't suffice, the latest come first and all wait alike, which `late`
    shows.
    """

    def __init__(
        self,
        aws: Aws,
        ledger: Ledger,
        logs: ContainerOutput,
        feed: RunLogs,
        announce: EventFeed,
        settings: WorkerSettings,
    ) -> None:
        self._aws = aws
        self._ledger = ledger
        self._logs = logs
        self._feed = feed
        self._announce = announce
        self._settings = settings
        self._budgets: dict[AwsTarget, Budget] = {}
        self.late = 0.0
        """How many seconds behind its time the task is that waits longest to be looked at."""

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await anyio.sleep(min(TICK, self._settings.watch_seconds / 2))
            await self.once()

    async def once(self) -> None:
        """Describe the tasks that are due, as far as the budget goes."""
        now = time.monotonic()
        waiting: list[Held] = []
        async with anyio.create_task_group() as calls:
            for target, chunks in self._due(now).items():
                budget = self._budgets.setdefault(target, Budget(READS_PER_SECOND * self._settings.describe_share))
                affordable = budget.take(len(chunks), now)
                for cluster, chunk in chunks[:affordable]:
                    calls.start_soon(self._describe, target, cluster, chunk)
                waiting += [chunk[0] for _, chunk in chunks[affordable:]]
        self.late = max((now - held.due for held in waiting), default=0.0)

    def _due(self, now: float) -> dict[AwsTarget, list[tuple[str, list[Held]]]]:
        """What to describe, in calls of up to 100 tasks of one cluster, by account; the latest first.

        A call costs the same however full it is, so one that has room takes what is due next.
        """
        clusters: defaultdict[tuple[AwsTarget, str], list[Held]] = defaultdict(list)
        for held in self._ledger:
            if held.phase in WATCHED and held.placement is not None:
                clusters[held.placement.target, held.placement.cluster].append(held)
        calls: defaultdict[AwsTarget, list[tuple[str, list[Held]]]] = defaultdict(list)
        for (target, cluster), watched in clusters.items():
            watched.sort(key=lambda held: held.due)
            for start in range(0, len(watched), PER_CALL):
                if watched[start].due > now:
                    break
                calls[target].append((cluster, watched[start : start + PER_CALL]))
        for chunks in calls.values():
            chunks.sort(key=lambda call: call[1][0].due)
        return calls

    def _interval(self, held: Held) -> float:
        if held.phase is Phase.STARTING or held.placement is None:
            return self._settings.watch_seconds
        return held.placement.watch_interval or RUNNING_FACTOR * self._settings.watch_seconds

    async def _describe(self, target: AwsTarget, cluster: str, chunk: Sequence[Held]) -> None:
        watched = [(held.task.arn, held) for held in chunk if held.task is not None]
        try:
            ecs = await self._aws.ecs(target)
            tasks, missing = await ecs.look_up(cluster, list(dict(watched)))
        except EcsWorkerError as error:
            log.warning("%d tasks of cluster %s can't be described now: %s", len(chunk), cluster or "default", error)
            tasks, missing = [], []
        known = {task.arn: task for task in tasks}
        for arn, held in watched:
            if held.phase not in WATCHED:
                continue  # an event was quicker
            with rim(held.run.name):
                if arn in known:
                    self.observe(held, known[arn])
                elif arn in missing:
                    await self._missing(held)
                if held.phase in WATCHED and (why := overdue(held)):
                    await self.stop(held, why)
            if held.phase in WATCHED:
                held.due = time.monotonic() + self._interval(held)

    def observe(self, held: Held, task: TaskFacts) -> None:
        """Take in what ECS says of a task; facts older than those known are left aside (`version` orders them)."""
        known = held.task
        if known is not None and task.version < known.version:
            return
        held.task = task
        held.missing_since = None
        if known is None or task.last_status != known.last_status:
            self._feed.tell(held.run, f"ECS task {task.task_id} is {task.last_status}.")
        self._announce.changed(held, known)
        if task.started_at is not None and held.phase is Phase.STARTING:
            held.enter(Phase.RUNNING)
        self._logs.follow(held)
        if task.stopped:
            self._stopped(held)

    async def _missing(self, held: Held) -> None:
        held.missing_since = held.missing_since or time.monotonic()
        if time.monotonic() - held.missing_since < MISSING_GRACE:
            return
        with suppress(EcsWorkerError):
            if await self._ask_to_stop(held, UNSEEN):
                held.missing_since = None  # it exists all the same: its end will show, or not in as long again
        if held.missing_since is None:  # events may have told of it, too
            return
        assert held.task is not None, "only runs with a task are described"
        known = held.task
        held.task = replace(
            known, last_status="DELETED", stopped_reason="ECS does not know the task any more (MISSING)."
        )
        self._announce.changed(held, known)
        self._feed.tell(held.run, f"ECS does not know task {held.task.task_id} any more.", level=logging.WARNING)
        self._stopped(held)

    def _stopped(self, held: Held) -> None:
        held.enter(Phase.STOPPED)
        held.due = 0.0
        self._ledger.freed()

    async def stop(self, held: Held, why: str) -> None:
        """Ask ECS to stop the run's task. `why` becomes the task's stoppedReason and part of a crash's message."""
        try:
            await self._ask_to_stop(held, why)
        except EcsWorkerError as error:
            log.warning("%s: its task can't be stopped yet: %s", held.run.name, error)

    async def _ask_to_stop(self, held: Held, why: str) -> bool:
        """Whether ECS has taken the order, the first for this task."""
        if held.task is None or held.placement is None or held.phase is Phase.STOPPED or held.stop_reason:
            return False
        ecs = await self._aws.ecs(held.placement.target)
        await ecs.stop_task(held.placement.cluster, held.task.arn, f"Prefect flow run {held.run.run_id}: {why}")
        held.stop_reason = why
        self._feed.tell(held.run, f"ECS was asked to stop task {held.task.task_id}: {why}", level=logging.WARNING)
        return True


def overdue(held: Held) -> str:
    """Why the task has had its time, or empty. ECS's own times count: a new worker may have adopted the task."""
    placement, task = held.placement, held.task
    if placement is None or task is None:
        return ""
    if held.phase is Phase.STARTING and placement.start_timeout and _age(task.created_at) > placement.start_timeout:
        return f"It did not start within {placement.start_timeout:.0f} s (task_start_timeout_seconds)."
    if held.phase is Phase.RUNNING and placement.max_runtime and _age(task.started_at) > placement.max_runtime:
        return f"It ran for more than {placement.max_runtime:.0f} s (max_runtime_seconds)."
    return ""


def _age(moment: datetime | None) -> float:
    return (datetime.now(UTC) - moment).total_seconds() if moment is not None else 0.0
