"""Watch: one sweeper describes the tasks of all held runs, 100 to a call, and passes on what changed.

It works on levels, not on edges: whatever a failed call left undone is still to do at the next sweep. If the process
dies, `adopt` of the next worker describes the same tasks.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import AwsError, EcsWorkerError
from ecs_worker.model import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.feed import Feed
    from ecs_worker.lifecycle.launch import Launch
    from ecs_worker.lifecycle.ledger import Held, Ledger
    from ecs_worker.lifecycle.logs import Logs
    from ecs_worker.lifecycle.report import Report
    from ecs_worker.model import AwsTarget, TaskFacts

log = logging.getLogger(__name__)

PER_CALL = 100  # DescribeTasks takes no more
MISSING = "MISSING"
MISSING_GRACE = 60.0  # seconds: DescribeTasks may not know a new task for a while (ECS is eventually consistent)


class Watch:
    """The sweeper. `hurry()` makes the next sweep come at once."""

    def __init__(
        self, aws: Aws, ledger: Ledger, launch: Launch, report: Report, logs: Logs, feed: Feed, seconds: float
    ) -> None:
        self._aws = aws
        self._ledger = ledger
        self._launch = launch
        self._report = report
        self._logs = logs
        self._feed = feed
        self._seconds = seconds
        self._hurry = anyio.Event()

    def hurry(self) -> None:
        """Something is known to have changed: don't wait for the interval."""
        self._hurry.set()

    async def run(self) -> None:
        """Sweep for ever, every `seconds`."""
        while True:
            self._hurry = anyio.Event()
            with anyio.move_on_after(self._seconds):
                await self._hurry.wait()
            try:
                await self.once()
            except EcsWorkerError as error:
                log.warning("A sweep was not finished and is repeated: %s", error)

    async def once(self) -> None:
        """Describe every task once, stop those that have run out of time, and report what has ended."""
        async with anyio.create_task_group() as sweeps:
            for (target, cluster), watched in self._by_cluster().items():
                for start in range(0, len(watched), PER_CALL):
                    sweeps.start_soon(self._describe, target, cluster, watched[start : start + PER_CALL])
        for held in self._ledger:
            if held.task is not None and not held.identifier_written:
                await self._launch.write_identifier(held)
            if why := overdue(held):
                await self.stop(held, why)
        await self._report.once()

    def _by_cluster(self) -> dict[tuple[AwsTarget, str], list[Held]]:
        """DescribeTasks takes tasks of one cluster at a time."""
        groups: defaultdict[tuple[AwsTarget, str], list[Held]] = defaultdict(list)
        for held in self._ledger:
            if held.phase in {Phase.STARTING, Phase.RUNNING} and held.placement is not None:
                groups[held.placement.target, held.placement.cluster].append(held)
        return groups

    async def _describe(self, target: AwsTarget, cluster: str, chunk: Sequence[Held]) -> None:
        by_arn = {held.task.arn: held for held in chunk if held.task is not None}
        try:
            ecs = await self._aws.ecs(target)
            tasks, failures = await ecs.describe_tasks(cluster, list(by_arn))
        except EcsWorkerError as error:
            log.warning("%d tasks of cluster %s can't be described now: %s", len(chunk), cluster or "default", error)
            return
        for task in tasks:
            if task.arn in by_arn:
                self.observe(by_arn[task.arn], task)
        for failure in failures:
            if failure.arn in by_arn and failure.reason == MISSING:
                self._missing(by_arn[failure.arn])

    def observe(self, held: Held, task: TaskFacts) -> None:
        """Take in what ECS says of a task; facts older than those known are left aside (`version` orders them)."""
        known = held.task
        if known is not None and task.version < known.version:
            return
        held.task = task
        held.missing_since = None
        if known is None or task.last_status != known.last_status:
            self._feed.tell(held.run, f"ECS task {task.task_id} is {task.last_status}.")
        if task.started_at is not None and held.phase is Phase.STARTING:
            held.enter(Phase.RUNNING)
        self._logs.follow(held)
        if task.stopped:
            self._stopped(held)

    def _missing(self, held: Held) -> None:
        held.missing_since = held.missing_since or time.monotonic()
        if time.monotonic() - held.missing_since < MISSING_GRACE:
            return
        assert held.task is not None, "only runs with a task are described"
        held.task = replace(
            held.task, last_status="DELETED", stopped_reason="ECS does not know the task any more (MISSING)."
        )
        self._feed.tell(held.run, f"ECS does not know task {held.task.task_id} any more.", level=logging.WARNING)
        self._stopped(held)

    def _stopped(self, held: Held) -> None:
        held.enter(Phase.STOPPED)
        self._ledger.freed()

    async def stop(self, held: Held, why: str) -> None:
        """Ask ECS to stop the run's task. `why` becomes the task's stoppedReason and part of a crash's message."""
        if held.task is None or held.placement is None or held.phase is Phase.STOPPED or held.stop_reason:
            return
        try:
            ecs = await self._aws.ecs(held.placement.target)
            await ecs.stop_task(held.placement.cluster, held.task.arn, f"Prefect flow run {held.run.run_id}: {why}")
        except AwsError as error:
            log.warning("%s: its task can't be stopped yet: %s", held.run.name, error)
            return
        held.stop_reason = why
        self._feed.tell(held.run, f"ECS was asked to stop task {held.task.task_id}: {why}", level=logging.WARNING)


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
