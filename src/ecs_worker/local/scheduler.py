"""ECS services: keeps as many tasks running as each service wants. moto only counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecs_worker.local.rules import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecs_worker.local.ecs import EcsBackend
    from ecs_worker.local.tasks import Task

RESTART_SECONDS = 1.0  # between a service's task's end and its successor; ECS throttles much more (up to 27 minutes)

# What a service's request has in common with its tasks' RunTask requests.
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


class Scheduler:
    """The services of one backend. Called with the state lock held."""

    def __init__(self, backend: EcsBackend) -> None:
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
        """The service's tasks that are to run."""
        return [
            task
            for task in self._backend.running.values()
            if (task.service, task.cluster_name) == (service.name, service.cluster_name)
            and task.desired_status == "RUNNING"
        ]

    def reconcile(self, service: Any) -> None:
        """Start what is missing, stop what is too much."""
        wanted = service.desired_count if service.status == "ACTIVE" else 0
        tasks = self.tasks(service)
        for task in tasks[wanted:]:
            self._stop(task, service)
        for _ in range(wanted - len(tasks)):
            try:
                self._backend.run_new(self._requests[service.arn])
            except Refused as refusal:  # its definition was deregistered, say: ECS tells it and goes on
                text = f"(service {service.name}) was unable to place a task. Reason: {refusal.message}."
                service.events.insert(0, {"id": str(len(service.events)), "message": text})
                return

    def _stop(self, task: Task, service: Any) -> None:
        reason = f"Scaling activity initiated by (deployment {service.deployments[0]['id']})"
        self._backend.end(task, "ServiceSchedulerInitiated", reason)
