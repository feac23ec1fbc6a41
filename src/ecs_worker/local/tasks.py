"""A task and its life, from PROVISIONING to STOPPED.

The event loop moves tasks from status to status. AWS requests, each in a thread of its own, make and stop them.
`STATE_LOCK` guards the facts of all tasks; the loop never waits for anything else while it holds the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecs_worker.local.containers import CannotStart, ContainerProcess, new_runtime_id, passes, process_environment
from ecs_worker.local.images import image_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from ecs_worker.local.account import Account, Interface
    from ecs_worker.local.containers import Container, ContainerPlan, HealthCheck, Output

STATE_LOCK = threading.RLock()
_CHECK_SECONDS = 1.0  # between two health checks until the first success; ECS keeps to the interval from the start
_CLOSING_STOP_TIMEOUT = 2.0  # seconds a container has after SIGTERM when the embedded AWS itself ends


def now() -> datetime:
    """The time in milliseconds, as ECS keeps it."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


@dataclass(slots=True, eq=False)
class Task:
    """An ECS task. `facts` are the members of DescribeTasks's answer that never change, under their AWS names."""

    arn: str
    cluster_name: str
    family: str
    started_by: str
    launch_type: str
    account: Account
    facts: Mapping[str, Any]
    containers: tuple[Container, ...]
    interface: Interface | None = None
    tags: list[dict[str, str]] = field(default_factory=list)
    service: str | None = None
    on_changed: Callable[[], None] = lambda: None  # it runs, or its health is another
    on_stopped: Callable[[], None] = lambda: None  # frees what RunTask reserved
    last_status: str = "PROVISIONING"
    desired_status: str = "RUNNING"
    stop_code: str | None = None
    stopped_reason: str | None = None
    was_ready: bool = False
    version: int = 1
    times: dict[str, datetime] = field(default_factory=lambda: {"createdAt": now()})
    stop_asked: asyncio.Event = field(default_factory=asyncio.Event)  # set on the loop only
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # containers get SIGTERM now

    @property
    def id(self) -> str:
        """The 32 characters that end the ARN."""
        return self.arn.rpartition("/")[2]

    @property
    def stopped(self) -> bool:
        """Whether the task has reached STOPPED."""
        return self.last_status == "STOPPED"

    @property
    def health(self) -> str:
        """HEALTHY, UNHEALTHY or UNKNOWN, by the essential containers that have a health check."""
        checked = [each.health for each in self.containers if each.plan.essential and each.plan.health_check]
        return next((worst for worst in ("UNHEALTHY", "UNKNOWN", "HEALTHY") if worst in checked), "UNKNOWN")

    @property
    def ready(self) -> bool:
        """Whether it runs and, if its health is checked, is healthy: what a service counts on."""
        checked = any(each.plan.essential and each.plan.health_check for each in self.containers)
        return self.last_status == "RUNNING" and (self.health == "HEALTHY" or not checked)

    def expired(self, after: float) -> bool:
        """Whether it stopped more than `after` seconds ago, so that ECS has forgotten it."""
        at = self.times.get("stoppedAt")
        return at is not None and now() - at > timedelta(seconds=after)

    def stop(self, code: str, reason: str) -> None:
        """Decide that the task ends, and why; a later reason is ignored. The caller then calls `Engine.wake`."""
        with STATE_LOCK:
            if self.desired_status == "STOPPED":
                return
            self.desired_status = "STOPPED"
            self.stop_code = code
            self.stopped_reason = reason
            self.times["stoppingAt"] = now()
            self.version += 1

    def document(self) -> dict[str, Any]:
        """The task as DescribeTasks shows it, with its tags."""
        return self._members(datetime.timestamp)

    def event(self) -> dict[str, Any]:
        """The `detail` of an ECS task state change event, which has no tags."""
        detail = self._members(lambda at: at.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
        del detail["tags"]
        return detail | {"updatedAt": now().isoformat(timespec="milliseconds").replace("+00:00", "Z")}

    def _members(self, show: Callable[[datetime], object]) -> dict[str, Any]:
        interfaces = [self.interface.of_container()] if self.interface else []
        changing = {
            "taskArn": self.arn,
            "lastStatus": self.last_status,
            "desiredStatus": self.desired_status,
            "healthStatus": self.health,
            "containers": [container.document(self.arn, interfaces) for container in self.containers],
            "attachments": [self.interface.attachment(self._attachment_status())] if self.interface else [],
            "version": self.version,
            "tags": self.tags,
            "connectivity": "CONNECTED" if "connectivityAt" in self.times else None,
            "stopCode": self.stop_code,
            "stoppedReason": self.stopped_reason,
        }
        members = {**self.facts, **changing, **{name: show(at) for name, at in self.times.items()}}
        return {name: value for name, value in members.items() if value is not None}

    def _attachment_status(self) -> str:
        return {"PROVISIONING": "PRECREATED", "STOPPED": "DELETED"}.get(self.last_status, "ATTACHED")


class Engine:
    """Moves tasks through their statuses, on the event loop on which it was made.

    `step` is how long each status before RUNNING and after the end lasts, in seconds. `directory` holds the
    containers' own directories. `common_environment` is for every container; its own variables win.
    """

    def __init__(self, *, step: float, directory: Path, common_environment: Mapping[str, str]) -> None:
        self._step = step
        self._directory = directory
        self._common_environment = common_environment
        self._loop = asyncio.get_running_loop()
        self._lives: dict[asyncio.Task[None], Task] = {}
        self._closing = False

    def begin(self, task: Task) -> None:
        """Start a new task. From any thread."""
        self._loop.call_soon_threadsafe(self._begin, task)

    def wake(self, task: Task) -> None:
        """Make a task notice that it is to stop. From any thread."""
        self._loop.call_soon_threadsafe(task.stop_asked.set)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` on the loop after a while, with the state lock held; not once everything ends."""

        def act() -> None:
            with STATE_LOCK:
                if not self._closing:
                    action()

        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, act)

    async def close(self) -> None:
        """End every task. Containers get SIGTERM, and SIGKILL soon after; returns when all have ended."""
        self._closing = True
        self._step = 0
        for task in self._lives.values():
            task.stop("ServiceSchedulerInitiated", "The embedded AWS ended.")
            task.stop_asked.set()
        if self._lives:
            await asyncio.wait(self._lives)

    def _begin(self, task: Task) -> None:
        if self._closing:
            return
        life = self._loop.create_task(self._live(task))
        self._lives[life] = task
        life.add_done_callback(self._end)

    def _end(self, life: asyncio.Task[None]) -> None:
        del self._lives[life]
        if not life.cancelled() and life.exception():
            self._loop.call_exception_handler({"message": "A task's life broke.", "exception": life.exception()})

    async def _live(self, task: Task) -> None:
        task.account.publish(task.event())
        if await self._provision(task):
            await self._run(task)
        await self._deprovision(task)

    async def _provision(self, task: Task) -> bool:
        """From PROVISIONING to ACTIVATING. False: the task was stopped before its containers started."""
        for status in ("PENDING", "ACTIVATING"):
            if await self._pause(task):
                return False
            marks = {"PENDING": ("pullStartedAt",), "ACTIVATING": ("pullStoppedAt", "connectivityAt")}[status]
            self._move(task, status, *marks)
        return not await self._pause(task)

    async def _pause(self, task: Task) -> bool:
        """Wait one step; True as soon as the task is to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(task.stop_asked.wait(), self._step)
        return task.stop_asked.is_set()

    async def _run(self, task: Task) -> None:
        """Start the containers, wait for their end, and end them: from ACTIVATING to STOPPING."""
        try:
            prepared = [self._prepare(task, container) for container in task.containers]
        except CannotStart as reason:
            self._stop(task, "TaskFailedToStart", str(reason))
            return
        async with asyncio.TaskGroup() as group:
            for container, (environment, output) in zip(task.containers, prepared, strict=True):
                group.create_task(self._contain(task, container, environment, output))
            for container in task.containers:
                await _any_of(container.started, task.stop_asked)
            if task.stop_code != "TaskFailedToStart" and all(each.started.is_set() for each in task.containers):
                self._move(task, "RUNNING", "startedAt")
                self._tell(task)
                await task.stop_asked.wait()
                self._move(task, "DEACTIVATING")
                await asyncio.sleep(self._step)
            self._move(task, "STOPPING")
            task.stopping.set()
            await asyncio.sleep(self._step)
        self._mark(task, "executionStoppedAt")

    def _prepare(self, task: Task, container: Container) -> tuple[dict[str, str], Output]:
        """What the container needs of other services. Raises CannotStart."""
        region = {"AWS_REGION": task.account.region, "AWS_DEFAULT_REGION": task.account.region}
        given = image_environment(container.plan.image) | task.account.environment(container.plan)
        own = {**self._common_environment, **region, **given}
        return own, task.account.output(container.plan, task.id)

    async def _contain(self, task: Task, container: Container, own: Mapping[str, str], output: Output) -> None:
        """One container's life: after what it depends on, until its process ends or the task stops."""
        try:
            if await self._dependencies_met(task, container):
                process = await self._start(task, container, own, output)
                async with self._checked(task, container, own):
                    container.exit_code = await self._end_of(process, container.plan, task)
        except CannotStart as reason:
            self._failed_to_start(task, container, str(reason))
        self._container_is(task, container, "STOPPED")
        container.ended.set()
        if container.plan.essential:
            self._stop(task, "EssentialContainerExited", "Essential container in task exited")

    async def _dependencies_met(self, task: Task, container: Container) -> bool:
        """Wait for the containers that this one depends on. False: the task stops first.

        Raises CannotStart if a condition can't be met any more.
        """
        by_name = {each.plan.name: each for each in task.containers}
        for name, condition in container.plan.depends_on.items():
            other = by_name[name]
            met = {"START": other.started, "HEALTHY": other.healthy}.get(condition, other.ended)
            await _any_of(met, other.ended, task.stop_asked)
            failed = condition == "SUCCESS" and other.exit_code != 0
            if other.ended.is_set() and (failed or (condition == "HEALTHY" and not other.healthy.is_set())):
                raise CannotStart(
                    "DependencyError: failed to resolve the container ordering dependency"
                    f" [{name}] for target [{container.plan.name}]: it exited without success"
                )
        return not task.stop_asked.is_set()

    async def _start(
        self, task: Task, container: Container, own: Mapping[str, str], output: Output
    ) -> ContainerProcess:
        home = self._directory / task.id / container.plan.name
        where = await asyncio.to_thread(_make_home, home, container.plan.working_directory)
        process = await ContainerProcess.start(container.plan.argv, process_environment(own, home), where, output)
        container.runtime_id = new_runtime_id(task.id)
        self._container_is(task, container, "RUNNING")
        container.started.set()
        return process

    @contextlib.asynccontextmanager
    async def _checked(self, task: Task, container: Container, own: Mapping[str, str]) -> AsyncIterator[None]:
        """Ask meanwhile whether the container is healthy, if it says how."""
        check = container.plan.health_check
        if check is None:
            container.healthy.set()  # for ECS refuses to wait for the health of one that isn't checked
            yield
            return
        home = self._directory / task.id / container.plan.name
        asking = self._loop.create_task(self._ask(task, container, check, process_environment(own, home), home))
        try:
            yield
        finally:
            asking.cancel()
            await asyncio.wait([asking])

    async def _ask(
        self, task: Task, container: Container, check: HealthCheck, environment: Mapping[str, str], home: Path
    ) -> None:
        began, failures = self._loop.time(), 0
        while True:
            first = not container.healthy.is_set()
            await asyncio.sleep(min(_CHECK_SECONDS, check.interval) if first else check.interval)
            if await passes(check, environment, home):
                failures, health = 0, "HEALTHY"
                container.healthy.set()
            elif first and self._loop.time() - began < check.start_period:
                continue
            else:
                failures += 1
                health = "UNHEALTHY" if failures >= check.retries else container.health
            if health != container.health:
                container.health = health
                self._container_is(task, container, container.last_status)
                self._tell(task)

    def _tell(self, task: Task) -> None:
        with STATE_LOCK:
            task.was_ready = task.was_ready or task.ready
            task.on_changed()

    async def _end_of(self, process: ContainerProcess, plan: ContainerPlan, task: Task) -> int:
        """The process's exit code. If the task stops first: SIGTERM, and SIGKILL after the stopTimeout."""
        try:
            await _any_of(process.ended, task.stopping)
            if not process.ended.is_set():
                process.terminate()
                patience = _CLOSING_STOP_TIMEOUT if self._closing else plan.stop_timeout
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.ended.wait(), patience)
        finally:
            process.kill()
        return await process.wait()

    def _failed_to_start(self, task: Task, container: Container, reason: str) -> None:
        container.reason = reason
        if container.plan.essential:
            # On EC2 the reason is in the container only.
            stopped_reason = reason if task.launch_type == "FARGATE" else "Task failed to start"
            self._stop(task, "TaskFailedToStart", stopped_reason)
        container.started.set()

    async def _deprovision(self, task: Task) -> None:
        for container in task.containers:
            container.last_status = "STOPPED"
        self._move(task, "DEPROVISIONING")
        await asyncio.sleep(self._step)
        if task.interface:
            task.interface.delete()
        with STATE_LOCK:
            task.on_stopped()
        await asyncio.to_thread(shutil.rmtree, self._directory / task.id, ignore_errors=True)
        self._move(task, "STOPPED", "stoppedAt")

    def _stop(self, task: Task, code: str, reason: str) -> None:
        task.stop(code, reason)
        task.stop_asked.set()

    def _move(self, task: Task, status: str, *marks: str) -> None:
        with STATE_LOCK:
            task.last_status = status
            task.version += 1
            task.times.update(dict.fromkeys(marks, now()))
            detail = task.event()
        task.account.publish(detail)

    def _mark(self, task: Task, name: str) -> None:
        with STATE_LOCK:
            task.times[name] = now()

    def _container_is(self, task: Task, container: Container, status: str) -> None:
        with STATE_LOCK:
            container.last_status = status
            task.version += 1
            detail = task.event()
        task.account.publish(detail)


def _make_home(home: Path, working_directory: str | None) -> Path:
    """Make a container's own directory, and return the directory to start in.

    Where the image lacks the working directory, Docker makes an empty one. Here the container's own takes its place.
    """
    (home / "tmp").mkdir(parents=True)
    return Path(working_directory) if working_directory and Path(working_directory).is_dir() else home


async def _any_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
