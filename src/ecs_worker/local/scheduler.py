"""ECS services: keeps as many tasks running as each service wants. moto itself starts none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ecs_worker.local.rules import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecs_worker.local.tasks import Task

RESTART_SECONDS = 1.0  # from the end of a service's task to the next one; ECS waits longer each time, up to 27 minutes

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


class Backend(Protocol):
    """What the scheduler needs of ECS: the tasks by ARN, a way to run one, and a way to end one."""

    running: dict[str, Task]

    def run_new(self, request: Mapping[str, Any]) -> object:
        """Run the tasks of a RunTask request. Raises Refused."""

    def end(self, task: Task, code: str, reason: str) -> None:
        """Stop a task."""


class Scheduler:
    """The services of one backend. Called with the state lock held."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._requests: dict[str, dict[str, Any]] = {}  # by service ARN: its tasks' RunTask request

    def opened(self, service: Any, request: Mapping[str, Any]) -> None:
        """A service was made by `request`."""
        shared = {name: request[name] for name in _SHARED if request.get(name) is not None}
        propagated = "TASK_DEFINITION" if request.get("propagateTags") == "TASK_DEFINITION" else "NONE"
        tags = request.get("tags") if request.get("propagateTags") == "SERVICE" else None
        self._requests[service.arn] = shared | {
            "cluster": service.cluster_arn,
            "taskDefinition": service.task_definition,
            "startedBy": service.deployments[0]["id"],
            "group": f"service:{service.name}",
            "propagateTags": propagated,
            "tags": tags or [],
        }
        self.reconcile(service)

    def updated(self, service: Any, request: Mapping[str, Any]) -> None:
        """A service was changed by `request`; tasks of what it was before are replaced."""
        before = self._requests[service.arn]
        given = {name: request[name] for name in _SHARED if request.get(name) is not None}
        now = before | given | {"cluster": service.cluster_arn, "taskDefinition": service.task_definition}
        self._requests[service.arn] = now
        if now != before or request.get("forceNewDeployment"):
            for task in self.tasks(service):
                self._stop(task, service)
        self.reconcile(service)

    def tasks(self, service: Any) -> list[Task]:
        """The service's tasks, without those that are to stop."""
        return [
            task
            for task in self._backend.running.values()
            if (task.service, task.cluster_name) == (service.name, service.cluster_name)
            and task.desired_status == "RUNNING"
        ]

    def reconcile(self, service: Any) -> None:
        """Start the tasks that are missing, stop those that are too many."""
        wanted = service.desired_count if service.status == "ACTIVE" else 0
        tasks = self.tasks(service)
        for task in tasks[wanted:]:
            self._stop(task, service)
        for _ in range(wanted - len(tasks)):
            try:
                self._backend.run_new(self._requests[service.arn])
            except Refused as refusal:  # for example because its definition was deregistered: ECS says so and goes on
                text = f"(service {service.name}) was unable to place a task. Reason: {refusal.message}."
                service.events.insert(0, {"id": str(len(service.events)), "message": text})
                return

    def _stop(self, task: Task, service: Any) -> None:
        reason = f"Scaling activity initiated by (deployment {service.deployments[0]['id']})"
        self._backend.end(task, "ServiceSchedulerInitiated", reason)
