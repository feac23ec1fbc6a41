"""ECS services: keeps as many tasks running as each service wants, and rolls out what it is to be. moto does neither.

A deployment is what a service was at one time. Its tasks are those that its id started. The first of a service's
deployments is the PRIMARY one; the others are on their way out and go as their tasks do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from moto.core.utils import utcnow

from ecs_worker.local.rules import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from ecs_worker.local.tasks import Task

RESTART_SECONDS = 1.0  # from the end of a service's task to the next one; ECS waits longer each time, up to 27 minutes
_MAX_EVENTS = 100  # that DescribeServices tells
_IN_ONE_EVENT = 10  # tasks started or stopped at once, in one event
_LEAST_FAILURES, _MOST_FAILURES = 3, 200  # of the circuit breaker: half the desired count, within these

# The members that CreateService and UpdateService have in common with RunTask.
_SHARED = (
    "cluster",
    "taskDefinition",
    "launchType",
    "capacityProviderStrategy",
    "networkConfiguration",
    "platformVersion",
    "enableExecuteCommand",
    "enableECSManagedTags",
)
# Those that a deployment shows.
_SHOWN = ("taskDefinition", "launchType", "capacityProviderStrategy", "networkConfiguration", "platformVersion")


class Backend(Protocol):
    """What the scheduler needs of ECS: the tasks by ARN, and ways to run one, to end one, and to come back later."""

    running: dict[str, Task]

    def run_new(self, request: Mapping[str, Any]) -> tuple[list[Task], list[dict[str, str]]]:
        """Run the tasks of a RunTask request: the tasks and the failures. Raises Refused."""

    def end(self, task: Task, code: str, reason: str) -> None:
        """Stop a task."""

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` after a while, with the state lock held."""


@dataclass(slots=True)
class Deployment:
    """One of a service's deployments. `request`: the RunTask request of its tasks."""

    request: Mapping[str, Any]
    id: str = field(default_factory=lambda: f"ecs-svc/{uuid4().int % 10**19:019d}")
    state: str = "IN_PROGRESS"  # COMPLETED, FAILED
    reason: str = ""
    failed: int = 0  # tasks in a row that ended before they were ready
    created_at: datetime = field(default_factory=utcnow)
    updated_at: datetime = field(default_factory=utcnow)

    def __post_init__(self) -> None:
        """It is in progress, unless it is made for another reason."""
        self.reason = self.reason or f"ECS deployment {self.id} in progress."

    def become(self, state: str, reason: str) -> None:
        """It is complete, or it has failed."""
        self.state, self.reason, self.updated_at = state, reason, utcnow()

    def document(self, tasks: Sequence[Task], *, primary: bool, desired: int) -> dict[str, Any]:
        """The deployment as DescribeServices shows it; `tasks` are its own."""
        running = sum(task.last_status == "RUNNING" for task in tasks)
        shown = {name: self.request[name] for name in _SHOWN if self.request.get(name) is not None}
        return shown | {
            "id": self.id,
            "status": "PRIMARY" if primary else "ACTIVE",
            "desiredCount": desired if primary and self.state != "FAILED" else 0,
            "pendingCount": len(tasks) - running,
            "runningCount": running,
            "failedTasks": self.failed,
            "createdAt": self.created_at,
            "updatedAt": self.updated_at,
            "rolloutState": self.state,
            "rolloutStateReason": self.reason,
        }


@dataclass(slots=True)
class _Kept:
    """What is known of a service besides moto's record."""

    deployments: list[Deployment]  # the newest first
    completed: Deployment | None = None  # the last one
    steady: bool = False  # the last event says so
    broken: bool = False  # by the circuit breaker, since the last update


class Scheduler:
    """The services of one backend. Called with the state lock held."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._kept: dict[str, _Kept] = {}  # by service ARN

    def opened(self, service: Any, request: Mapping[str, Any]) -> None:
        """A service was made by `request`."""
        shared = {name: request[name] for name in _SHARED if request.get(name) is not None}
        propagated = "TASK_DEFINITION" if request.get("propagateTags") == "TASK_DEFINITION" else "NONE"
        tags = request.get("tags") if request.get("propagateTags") == "SERVICE" else None
        made = shared | {
            "cluster": service.cluster_arn,
            "taskDefinition": service.task_definition,
            "group": f"service:{service.name}",
            "propagateTags": propagated,
            "tags": tags or [],
        }
        self._kept[service.arn] = _Kept([Deployment(made)])
        self.reconcile(service)

    def updated(self, service: Any, request: Mapping[str, Any]) -> None:
        """A service was changed by `request`. If its tasks are to be others, a new deployment replaces them."""
        kept = self._kept[service.arn]
        before = kept.deployments[0].request
        given = {name: request[name] for name in _SHARED if request.get(name) is not None}
        for one, other in (("launchType", "capacityProviderStrategy"), ("capacityProviderStrategy", "launchType")):
            if one in given:
                before = {name: value for name, value in before.items() if name != other}
        now = {**before, **given, "cluster": service.cluster_arn, "taskDefinition": service.task_definition}
        if now != kept.deployments[0].request or request.get("forceNewDeployment"):
            kept.deployments.insert(0, Deployment(now))
        kept.steady = kept.broken = False
        self.reconcile(service)

    def closed(self, service: Any) -> None:
        """A service was deleted: its tasks stop."""
        self._stop(service, self.tasks(service))

    def tasks(self, service: Any) -> list[Task]:
        """The service's tasks, without those that are to stop."""
        return [
            task
            for task in self._backend.running.values()
            if (task.service, task.cluster_name) == (service.name, service.cluster_name)
            and task.desired_status == "RUNNING"
        ]

    def deployments(self, service: Any) -> list[dict[str, Any]]:
        """The service's deployments as DescribeServices shows them, the newest first."""
        tasks = self.tasks(service)
        return [
            deployment.document(_of(tasks, deployment), primary=place == 0, desired=service.desired_count)
            for place, deployment in enumerate(self._kept[service.arn].deployments)
        ]

    def rollout(self, service: Any) -> bool | None:
        """Whether the service is what it was last told to be. False: the deployment failed. None: it goes on."""
        kept = self._kept[service.arn]
        if kept.broken:
            return False
        return True if kept.deployments[0].state == "COMPLETED" and kept.steady else None

    def changed(self, service: Any, task: Task) -> None:
        """A task of the service runs, or its health is another."""
        kept = self._kept[service.arn]
        if task.health == "UNHEALTHY" and task.desired_status == "RUNNING":
            self._tell(service, f"(task {task.id}) failed container health checks.")
            self._backend.end(task, "ServiceSchedulerInitiated", "Task failed container health checks")
            self._failed(service, task)
        elif task.ready and task.started_by == kept.deployments[0].id:
            kept.deployments[0].failed = 0
        self.reconcile(service)

    def ended(self, service: Any, task: Task) -> None:
        """A task of the service has stopped; another takes its place a little later."""
        if not task.was_ready and task.stop_code in {"TaskFailedToStart", "EssentialContainerExited"}:
            self._failed(service, task)
        self._kept[service.arn].steady = False
        self._backend.later(RESTART_SECONDS, lambda: self.reconcile(service))

    def reconcile(self, service: Any) -> None:
        """Start the tasks that are missing, stop those that are too many, and judge the deployment."""
        if service.status != "ACTIVE":
            return
        kept = self._kept[service.arn]
        primary, tasks, wanted = kept.deployments[0], self.tasks(service), int(service.desired_count)
        own = _of(tasks, primary)
        old = [task for task in tasks if task.started_by != primary.id]
        limits = service.deployment_configuration
        surplus = sorted(own, key=lambda task: not task.ready)[wanted:]
        self._stop(service, surplus)
        least = math.ceil(wanted * limits["minimumHealthyPercent"] / 100)
        spare = max(0, sum(task.ready for task in tasks) - least)
        leaving = [task for task in old if not task.ready] + [task for task in old if task.ready][:spare]
        if primary.state == "FAILED":  # and no deployment to go back to: what runs stays as it is
            leaving = []
        self._stop(service, leaving)
        if primary.state != "FAILED":
            most = max(1, math.floor(wanted * limits["maximumPercent"] / 100))
            self._start(service, primary, min(wanted - len(own), most - (len(tasks) - len(leaving))))
        self._judge(service, kept)

    def _start(self, service: Any, deployment: Deployment, count: int) -> None:
        if count <= 0:
            return
        request = {**deployment.request, "startedBy": deployment.id, "count": count}
        try:
            started, failures = self._backend.run_new(request)
        except Refused as refusal:  # for example because its definition was deregistered: ECS says so and goes on
            self._tell(service, f"was unable to place a task. Reason: {refusal.message}")
            return
        self._tell_of(service, "started {} tasks", started)
        if failures:
            shortage = failures[0]["reason"].partition(":")[2].lower()
            lacking = f" has insufficient {shortage} available" if shortage else " is not active"
            self._tell(
                service,
                "was unable to place a task because no container instance met all of its requirements."
                f" The closest matching (container-instance {failures[0]['arn'].rpartition('/')[2]}){lacking}.",
            )

    def _stop(self, service: Any, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._backend.end(task, "ServiceSchedulerInitiated", f"Scaling activity initiated by {task.started_by}")
        self._tell_of(service, "stopped {} running tasks", tasks)

    def _judge(self, service: Any, kept: _Kept) -> None:
        """Whether the primary deployment is complete and the service steady."""
        primary, tasks = kept.deployments[0], self.tasks(service)
        kept.deployments[1:] = [each for each in kept.deployments[1:] if _of(tasks, each)]
        ready = sum(task.ready for task in _of(tasks, primary))
        if primary.state == "FAILED" or len(kept.deployments) > 1 or not len(tasks) == ready == service.desired_count:
            return
        if primary.state == "IN_PROGRESS":
            primary.become("COMPLETED", f"ECS deployment {primary.id} completed.")
            kept.completed = primary
            self._tell(service, f"(deployment {primary.id}) deployment completed.")
        if not kept.steady:
            kept.steady = True
            self._tell(service, "has reached a steady state.")

    def _failed(self, service: Any, task: Task) -> None:
        """A task ended before it was ready. The circuit breaker opens when too many did in a row."""
        kept = self._kept[service.arn]
        primary = kept.deployments[0]
        if task.started_by != primary.id or primary.state != "IN_PROGRESS":
            return
        primary.failed += 1
        if primary.failed == _LEAST_FAILURES:
            self._tell(service, "is unable to consistently start tasks successfully.")
        threshold = min(max(math.ceil(service.desired_count / 2), _LEAST_FAILURES), _MOST_FAILURES)
        breaker = service.deployment_configuration["deploymentCircuitBreaker"]
        if primary.failed < threshold or not breaker["enable"]:
            return
        kept.broken = True
        primary.become("FAILED", "ECS deployment circuit breaker: tasks failed to start.")
        self._tell(service, f"(deployment {primary.id}) deployment failed: tasks failed to start.")
        if breaker["rollback"] and kept.completed:
            back = kept.completed
            back.become("IN_PROGRESS", f"ECS deployment circuit breaker: rolling back to deploymentId {back.id}.")
            service.task_definition = back.request["taskDefinition"]
            kept.deployments = [back, *(each for each in kept.deployments if each is not back)]
            self._tell(service, f"rolling back to deployment {back.id}.")

    def _tell_of(self, service: Any, done: str, tasks: Sequence[Task]) -> None:
        for start in range(0, len(tasks), _IN_ONE_EVENT):
            some = tasks[start : start + _IN_ONE_EVENT]
            names = " ".join(f"(task {task.id})" for task in some)
            self._tell(service, f"has {done.format(len(some))}: {names}.")

    def _tell(self, service: Any, text: str) -> None:
        event = {"id": str(uuid4()), "createdAt": utcnow(), "message": f"(service {service.name}) {text}"}
        service.events[:] = [event, *service.events[: _MAX_EVENTS - 1]]


def _of(tasks: Sequence[Task], deployment: Deployment) -> list[Task]:
    return [task for task in tasks if task.started_by == deployment.id]
