"""ECS's answers over HTTP: moto's, and those that differ from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult
from moto.ecs.responses import EC2ContainerServiceResponse

from ecs_worker.local import rules
from ecs_worker.local.rules import Refused, invalid
from ecs_worker.verdicts.codes import UNSUPPORTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ecs_worker.local.tasks import Task


class EcsResponse(EC2ContainerServiceResponse):  # type: ignore[misc]  # moto has no types
    """The answers that differ from moto's. A method's name is an AWS action's.

    Tasks are turned into JSON here: moto's serialiser takes 50 ms for a hundred of them.
    """

    def run_task(self) -> str:
        """RunTask, idempotent by clientToken."""
        tasks, failures, again = self.ecs_backend.run(self.params)
        documents = [_replayed(task) if again and task.stopped else task.document() for task in tasks]
        return self._json({"tasks": documents, "failures": failures})

    def describe_tasks(self) -> str:
        """DescribeTasks."""
        tasks, failures = self.ecs_backend.find(self.params, self.params.get("tasks") or [])
        documents = [task.document() for task in tasks]
        if "TAGS" not in (self.params.get("include") or ()):
            documents = [{**document, "tags": []} for document in documents]
        return self._json({"tasks": documents, "failures": failures})

    def list_tasks(self) -> str:
        """ListTasks, paged."""
        arns = [task.arn for task in self.ecs_backend.matching(self.params)]
        page, token = _page(arns, self.params)
        return self._json({"taskArns": page, "nextToken": token})

    def stop_task(self) -> str:
        """StopTask."""
        return self._json({"task": self.ecs_backend.stop(self.params).document()})

    def start_task(self) -> str:
        """StartTask places tasks by hand, which this package never does."""
        raise Refused(UNSUPPORTED, "The embedded AWS has no StartTask: use RunTask.")

    def create_capacity_provider(self) -> ActionResult:
        """CreateCapacityProvider; moto knows Auto Scaling groups only."""
        if "managedInstancesProvider" not in self.params:
            return super().create_capacity_provider()
        return ActionResult({"capacityProvider": self.ecs_backend.open_managed_instances(self.params)})

    def create_service(self) -> ActionResult:
        """CreateService."""
        return ActionResult({"service": self.ecs_backend.open_service(self.params)})

    def update_service(self) -> ActionResult:
        """UpdateService."""
        return ActionResult({"service": self.ecs_backend.change_service(self.params)})

    def register_task_definition(self) -> ActionResult:
        """RegisterTaskDefinition; the tags stand beside the definition."""
        result = super().register_task_definition()
        return ActionResult({**result.result, "tags": self.params.get("tags") or []})

    def list_task_definitions(self) -> str:
        """ListTaskDefinitions, sorted and paged."""
        rules.check_page(self.params)
        family, status = self.params.get("familyPrefix"), self.params.get("status", "ACTIVE")
        definitions = [
            each.arn
            for name, revisions in self.ecs_backend.task_definitions.items()
            if family in {None, name}
            for each in revisions.values()
            if each.status == status
        ]
        newest_first = self.params.get("sort") == "DESC"
        page, token = _page(definitions, self.params, order=_family_and_revision, newest_first=newest_first)
        return self._json({"taskDefinitionArns": page, "nextToken": token})

    def list_task_definition_families(self) -> str:
        """ListTaskDefinitionFamilies, by status, paged."""
        rules.check_page(self.params)
        prefix, status = self.params.get("familyPrefix") or "", self.params.get("status", "ALL")
        families = [
            name
            for name, revisions in self.ecs_backend.task_definitions.items()
            if name.startswith(prefix) and status in {"ALL", _family_status(each.status for each in revisions.values())}
        ]
        page, token = _page(families, self.params)
        return self._json({"families": page, "nextToken": token})

    def _json(self, answer: Mapping[str, Any]) -> str:
        self.response_headers["Content-Type"] = "application/x-amz-json-1.1"
        return json.dumps({name: value for name, value in answer.items() if value is not None})


def _family_status(statuses: Iterable[str]) -> str:
    return "ACTIVE" if "ACTIVE" in statuses else "INACTIVE"


def _replayed(task: Task) -> dict[str, Any]:
    """A stopped task in the answer to a repeated RunTask (ECS developer guide, "Ensuring idempotency")."""
    return {"taskArn": task.arn, "lastStatus": task.last_status, "desiredStatus": task.desired_status}


def _page(
    items: Iterable[str],
    request: Mapping[str, Any],
    *,
    order: Callable[[str], Any] = str,
    newest_first: bool = False,
) -> tuple[list[str], str | None]:
    """One page, and the token of the next: this page's last item, so that changes between two calls shift nothing."""
    token = request.get("nextToken")
    rest = sorted(items, key=order, reverse=newest_first)
    if token:
        try:
            last = order(token)
        except ValueError:
            raise invalid("Invalid token.") from None
        rest = [item for item in rest if (order(item) < last if newest_first else order(item) > last)]
    size = int(request.get("maxResults", rules.MAX_PAGE))
    return rest[:size], rest[size - 1] if len(rest) > size else None


def _family_and_revision(arn: str) -> tuple[str, int]:
    family, _, revision = arn.rpartition("/")[2].partition(":")
    return family, int(revision)
