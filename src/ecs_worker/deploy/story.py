"""What becomes of the worker's tasks while its service starts: a stack's events say only that it didn't."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ecs_worker.deploy import trouble
from ecs_worker.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecs_worker.aws.cloudformation import StackEvent
    from ecs_worker.aws.ecs import Ecs
    from ecs_worker.aws.logs import Logs
    from ecs_worker.model import TaskFacts

CONTAINER, PREFIX = "ecs-worker", "worker"
"""The worker's container, and the prefix of its log streams (template.yaml)."""

_LAST_LINES = 5
_SCALED = "ServiceSchedulerInitiated"  # the stop code of tasks that the service itself wanted to end


class Story:
    """Tells of each task of the worker's that ends by itself: why, and its last lines.

    `family` is that of its task definitions. Cluster and log group may be made only now: then the events name them.
    """

    def __init__(
        self, ecs: Ecs, logs: Logs, family: str, tell: Callable[[str], None], *, cluster: str = "", log_group: str = ""
    ) -> None:
        self._ecs = ecs
        self._logs = logs
        self._family = family
        self._tell = tell
        self._cluster = cluster
        self._log_group = log_group
        self._known: set[str] = set()

    async def begin(self) -> None:
        """Whatever has ended until now belongs to another story."""
        with suppress(AwsError):  # as in `look`
            self._known |= set(await self._ended())

    def hear(self, event: StackEvent) -> None:
        """The stack's events name what it makes."""
        if event.logical_id == "Cluster" and event.physical_id:
            self._cluster = event.physical_id
        if event.logical_id == "LogGroup" and event.physical_id:
            self._log_group = event.physical_id

    async def look(self) -> None:
        """Tell of the tasks that have ended since the last look. That it can't be told is no failure of the deploy."""
        try:
            new = [arn for arn in await self._ended() if arn not in self._known]
            self._known |= set(new)
            for task in (await self._ecs.describe_tasks(self._cluster, new[:100]))[0] if new else ():
                if task.stop_code != _SCALED or "health" in task.stopped_reason:
                    await self._tell_of(task)
        except AwsError:
            return

    async def _ended(self) -> list[str]:
        if not self._cluster:
            return []
        return await self._ecs.list_tasks(self._cluster, family=self._family, desired_status="STOPPED")

    async def _tell_of(self, task: TaskFacts) -> None:
        self._tell(f"The worker's task {task.task_id} ended: {trouble.of_task(task)}")
        if not self._log_group:
            return
        try:
            lines, _ = await self._logs.get_log_events(
                self._log_group, f"{PREFIX}/{CONTAINER}/{task.task_id}", start_from_head=False, limit=_LAST_LINES
            )
        except AwsError:  # it wrote nothing
            return
        for line in lines:
            self._tell(f"    {line.message.rstrip()}")
