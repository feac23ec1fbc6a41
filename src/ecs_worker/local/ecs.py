"""ECS: moto's backend and its answers, with what moto lacks or gets wrong put right from outside.

moto keeps clusters, task definitions and container instances; tasks are ours (`tasks.py`), and so are the refusals
(`rules.py`). The seams: the class that moto makes backends of, and the class that its URL answers with (`install`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import moto.ecs.models
import moto.ecs.urls
from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ecs.models import EC2ContainerServiceBackend
from moto.ecs.responses import EC2ContainerServiceResponse

import ecs_worker.local.cloudformation  # noqa: F401 - its classes count from here on
from ecs_worker.local import rules
from ecs_worker.local.containers import Container, plan
from ecs_worker.local.rules import Refused, client_error, invalid
from ecs_worker.local.scheduler import RESTART_SECONDS, Scheduler
from ecs_worker.local.services import Account
from ecs_worker.local.tasks import STATE_LOCK, Task, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from ecs_worker.local.tasks import Engine

_PENDING = frozenset({"PROVISIONING", "PENDING", "ACTIVATING"})
_TOKEN_SECONDS = 3600  # a client token lives as long as its tasks and an hour more, at most 24 h (API_RunTask)


@dataclass(frozen=True, slots=True)
class _Answered:
    """A RunTask call that was answered: what a repetition with its client token gets."""

    request: str
    tasks: tuple[Task, ...]
    failures: tuple[dict[str, str], ...]
    at: datetime

    def valid(self) -> bool:
        ends = [task.times.get("stoppedAt", now()) for task in self.tasks] or [self.at]
        return (now() - max(ends)).total_seconds() < _TOKEN_SECONDS and (now() - self.at).days < 1


class EcsBackend(EC2ContainerServiceBackend):  # type: ignore[misc]  # moto has no types
    """One account's ECS in one Region. `retention`: seconds a stopped task can still be described."""

    __module__ = "moto.ecs.models"  # moto derives the service from it

    def __init__(self, region_name: str, account_id: str, *, engine: Engine, retention: float) -> None:
        super().__init__(region_name, account_id)
        self.engine = engine
        self.retention = retention
        self.account = Account(account_id, region_name)
        self.running: dict[str, Task] = {}  # by ARN, stopped ones included
        self.answered: dict[tuple[str, str], _Answered] = {}  # by cluster and client token
        self.scheduler = Scheduler(self)
        self.create_cluster("default", capacity_providers=sorted(rules.FARGATE_PROVIDERS))

    def reset(self) -> None:
        """Forget everything; running containers are stopped. moto asks for it (`POST /moto-api/reset`)."""
        with STATE_LOCK:
            for task in self.running.values():
                self.end(task, "UserInitiated", "The embedded AWS was reset.")
            region, account, engine, retention = self.region_name, self.account_id, self.engine, self.retention
            self.__dict__ = {}
            self.__init__(region, account, engine=engine, retention=retention)  # type: ignore[misc]

    def describe_clusters(self, cluster_names: list[str]) -> Any:
        """The clusters, with how many tasks run and wait in each."""
        clusters, failures = super().describe_clusters(cluster_names)
        for cluster in clusters:
            statuses = [task.last_status for task in self.running.values() if task.cluster_name == cluster.name]
            cluster.running_tasks_count = statuses.count("RUNNING")
            cluster.pending_tasks_count = sum(status in _PENDING for status in statuses)
        return clusters, failures

    # Task definitions

    def register_task_definition(self, family: str, container_definitions: Any, **given: Any) -> Any:
        """Register, after AWS's refusals; tell the compatibilities and network mode that AWS tells."""
        rules.check_register(
            {
                "family": family,
                "containerDefinitions": container_definitions,
                "networkMode": given.get("network_mode") or "awsvpc",
                "requiresCompatibilities": given.get("requires_compatibilities"),
                "executionRoleArn": given.get("execution_role_arn"),
                **{name: given.get(name) for name in ("cpu", "memory", "tags")},
            }
        )
        with STATE_LOCK:
            made = super().register_task_definition(family, container_definitions, **given)
            needs = given.get("requires_compatibilities") or ()
            made.network_mode = given.get("network_mode") or ("awsvpc" if "FARGATE" in needs else "bridge")
            made.compatibilities = ["EC2"] + ["FARGATE"] * (
                made.network_mode == "awsvpc" and rules.fargate_size_exists(made.cpu, made.memory)
            )
            made.registered_at = utcnow()
            return made

    def describe_task_definition(self, task_definition_str: str) -> Any:
        """A family without revision means its newest ACTIVE one."""
        name = task_definition_str.rsplit("/", maxsplit=1)[-1]
        family, _, revision = name.partition(":")
        revisions = self.task_definitions.get(family, {})
        if revision and not revision.isdigit():
            raise client_error(f"Invalid revision number. Number: {revision}")
        number = (
            int(revision) if revision else max((n for n, d in revisions.items() if d.status == "ACTIVE"), default=0)
        )
        found = revisions.get(number)
        if found is None:
            raise client_error("Unable to describe task definition.")
        return found

    def deregister_task_definition(self, task_definition_str: str) -> Any:
        """Only ACTIVE ones can be deregistered."""
        if ":" in task_definition_str.rsplit("/", maxsplit=1)[-1]:
            found = self.describe_task_definition(task_definition_str)
            if found.status != "ACTIVE":
                raise client_error("The specified task definition is inactive. Specify an active task definition.")
            found.deregistered_at = utcnow()
        return super().deregister_task_definition(task_definition_str)

    # Tasks

    def run(self, request: Mapping[str, Any]) -> tuple[list[Task], list[dict[str, str]], bool]:
        """RunTask: the tasks, the failures, and whether this repeats an earlier call with the same client token."""
        rules.check_run(request)
        cluster = self._active_cluster(request)
        token = request.get("clientToken")
        said = json.dumps({**request, "clientToken": None}, sort_keys=True, default=str)
        before = self.answered.get((cluster.name, token)) if token else None
        if before and before.valid():
            if before.request != said:
                raise Refused(
                    "ConflictException",
                    "The specified client token was used by an earlier request with other parameters.",
                    resource_ids=[task.arn for task in before.tasks],
                )
            return list(before.tasks), list(before.failures), True
        tasks, failures = self._run_in(cluster, request)
        if token:
            self.answered[cluster.name, token] = _Answered(said, tuple(tasks), tuple(failures), now())
        return tasks, failures, False

    def run_new(self, request: Mapping[str, Any]) -> tuple[list[Task], list[dict[str, str]]]:
        """Run tasks, whatever ran before: the tasks and the failures."""
        return self._run_in(self._active_cluster(request), request)

    def _run_in(self, cluster: Any, request: Mapping[str, Any]) -> tuple[list[Task], list[dict[str, str]]]:
        definition = self._definition_to_run(request["taskDefinition"])
        launch_type, provider = self._launch_type(request, cluster)
        rules.check_fit(request, _told(definition), fargate=launch_type == "FARGATE")
        network = (request.get("networkConfiguration") or {}).get("awsvpcConfiguration")
        if network:
            self.account.check_network(network)
        if launch_type != "FARGATE" and not self.container_instances.get(cluster.name):
            raise invalid("No Container Instances were found in your cluster.")
        tasks: list[Task] = []
        failures: list[dict[str, str]] = []
        for _ in range(request.get("count", 1)):
            instance = None
            if launch_type != "FARGATE":
                instance, why = self._place(cluster, definition)
                if instance is None:
                    failures.append(why)
                    continue
            task = self._task(request, cluster, definition, (launch_type, provider), instance)
            self.running[task.arn] = task
            tasks.append(task)
            self.engine.begin(task)
        return tasks, failures

    def _definition_to_run(self, name: str) -> Any:
        try:
            definition = self.describe_task_definition(name)
        except Refused:
            raise client_error("TaskDefinition not found.") from None
        if definition.status != "ACTIVE":
            raise client_error("TaskDefinition is inactive")
        return definition

    def _launch_type(self, request: Mapping[str, Any], cluster: Any) -> tuple[str, str | None]:
        """The launch type, and the capacity provider when one was chosen; EC2 when nobody says anything."""
        if request.get("launchType"):
            return request["launchType"], None
        strategy = request.get("capacityProviderStrategy") or cluster.default_capacity_provider_strategy
        if not strategy:
            return "EC2", None
        rules.check_strategy(strategy, cluster.capacity_providers or ())
        # With `base` and `weight` AWS spreads tasks; one task goes where the base is, else where the most weight is.
        chosen = max(strategy, key=lambda item: (item.get("base", 0), item.get("weight", 0)))["capacityProvider"]
        return ("FARGATE" if chosen in rules.FARGATE_PROVIDERS else "EC2"), chosen

    def _place(self, cluster: Any, definition: Any) -> tuple[Any, dict[str, str]]:
        """A container instance with room, its room taken; or None and the failure that RunTask tells."""
        needed = _needed(definition)
        failure = {}
        for instance in self.container_instances[cluster.name].values():
            if instance.status != "ACTIVE":
                failure = {"arn": instance.container_instance_arn, "reason": "INACTIVE"}
            elif self._can_be_placed(instance, needed):
                self.update_container_instance_resources(instance, needed)
                return instance, {}
            else:
                left = {item["name"]: item.get("integerValue", 0) for item in instance.remaining_resources}
                short = next((name for name in ("CPU", "MEMORY") if needed[name] > left[name]), "PORTS")
                failure = {"arn": instance.container_instance_arn, "reason": f"RESOURCE:{short}"}
        return None, failure

    def _task(
        self,
        request: Mapping[str, Any],
        cluster: Any,
        definition: Any,
        launch: tuple[str, str | None],
        instance: Any,
    ) -> Task:
        launch_type, provider = launch
        task_id = uuid4().hex
        prefix = f"arn:{self.partition}:ecs:{self.region_name}:{self.account_id}"
        arn = f"{prefix}:task/{cluster.name}/{task_id}"
        overrides = request.get("overrides") or {}
        by_name = {item["name"]: item for item in overrides.get("containerOverrides") or ()}
        containers = tuple(
            Container(
                plan(container, by_name.get(container["name"], {})),
                f"{prefix}:container/{cluster.name}/{task_id}/{uuid4()}",
            )
            for container in definition.container_definitions
        )
        network = (request.get("networkConfiguration") or {}).get("awsvpcConfiguration")
        interface = self.account.attach_interface(network) if network else None
        group = request.get("group") or f"family:{definition.family}"
        facts = {
            "clusterArn": cluster.arn,
            "taskDefinitionArn": definition.arn,
            "group": group,
            "startedBy": request.get("startedBy"),
            "launchType": launch_type,
            "capacityProviderName": provider,
            "containerInstanceArn": instance.container_instance_arn if instance else None,
            "overrides": {"containerOverrides": [], "inferenceAcceleratorOverrides": [], **overrides},
            "cpu": overrides.get("cpu") or definition.cpu,
            "memory": overrides.get("memory") or definition.memory,
            "enableExecuteCommand": request.get("enableExecuteCommand", False),
            "availabilityZone": interface.zone if interface else None,
            "healthStatus": "UNKNOWN",
            "attributes": [{"name": "ecs.cpu-architecture", "value": "x86_64"}],
        }
        if launch_type == "FARGATE":
            storage = overrides.get("ephemeralStorage") or definition.ephemeral_storage or {"sizeInGiB": 20}
            asked = request.get("platformVersion") or "LATEST"
            facts |= {
                "platformVersion": "1.4.0" if asked == "LATEST" else asked,
                "platformFamily": "Linux",
                "ephemeralStorage": storage,
                "fargateEphemeralStorage": storage,
            }
        return Task(
            arn=arn,
            cluster_name=cluster.name,
            family=definition.family,
            started_by=request.get("startedBy") or "",
            launch_type=launch_type,
            account=self.account,
            facts=facts,
            containers=containers,
            interface=interface,
            tags=_tags(request, cluster, definition),
            service=group.removeprefix("service:") if group.startswith("service:") else None,
            on_stopped=partial(self._stopped, cluster, group, definition, instance),
        )

    def _stopped(self, cluster: Any, group: str, definition: Any, instance: Any) -> None:
        """A task has stopped: its room is free again, and its service, if any, may want another."""
        if instance is not None:
            self.update_container_instance_resources(instance, _needed(definition), removing=True)
        service = self.services.get(f"{cluster.name}:{group.removeprefix('service:')}")
        if service and group.startswith("service:"):
            self.engine.later(RESTART_SECONDS, partial(self.scheduler.reconcile, service))

    def find(self, request: Mapping[str, Any], task_ids: Sequence[str]) -> tuple[list[Task], list[dict[str, str]]]:
        """DescribeTasks: the tasks in the order asked, and MISSING for those this cluster doesn't know."""
        cluster = self._get_cluster(request.get("cluster") or "default")
        rules.check_describe(task_ids)
        found: dict[str, Task] = {}
        missing: dict[str, dict[str, str]] = {}
        for task_id in task_ids:
            arn = self._task_arn(cluster, task_id)
            task = self._known(arn)
            if task:
                found[arn] = task
            else:
                missing[arn] = {"arn": arn, "reason": "MISSING"}
        return list(found.values()), list(missing.values())

    def _task_arn(self, cluster: Any, task_id: str) -> str:
        *place, name = task_id.split("/")
        if len(place) > 1 and place[-1] != cluster.name:
            raise invalid(f"Invalid identifier: Identifier is for {place[-1]}. Your cluster is {cluster.name}")
        return f"arn:{self.partition}:ecs:{self.region_name}:{self.account_id}:task/{cluster.name}/{name}"

    def _known(self, arn: str) -> Task | None:
        task = self.running.get(arn)
        if task and task.expired(self.retention):
            del self.running[arn]
            return None
        return task

    def matching(self, request: Mapping[str, Any]) -> list[Task]:
        """ListTasks: every task that the filters let through, oldest first."""
        cluster = self._get_cluster(request.get("cluster") or "default")
        rules.check_list(request)
        wanted = {
            "cluster_name": cluster.name,
            "desired_status": request.get("desiredStatus", "RUNNING"),
            "started_by": request.get("startedBy"),
            "family": request.get("family"),
            "launch_type": request.get("launchType"),
            "service": (request.get("serviceName") or "").split("/")[-1] or None,
        }
        wanted = {name: value for name, value in wanted.items() if value is not None}
        instance = (request.get("containerInstance") or "").split("/")[-1]
        return [
            task
            for task in list(self.running.values())
            if self._known(task.arn)
            and all(getattr(task, name) == value for name, value in wanted.items())
            and (not instance or str(task.facts["containerInstanceArn"]).endswith(f"/{instance}"))
        ]

    def stop(self, request: Mapping[str, Any]) -> Task:
        """StopTask: asks for the end; the containers get SIGTERM a step later. Harmless when repeated."""
        cluster = self._get_cluster(request.get("cluster") or "default")
        rules.check_task_id(request["task"])
        task = self._known(self._task_arn(cluster, request["task"]))
        if task is None:
            raise invalid("The referenced task was not found.")
        if task.desired_status != "STOPPED":
            task.tags = []  # "StopTask deletes tags"
        self.end(task, "UserInitiated", request.get("reason") or "Task stopped by user")
        return task

    def end(self, task: Task, code: str, reason: str) -> None:
        """Ask for a task's end; nothing happens when it was asked for before."""
        task.stop(code, reason)
        self.engine.wake(task)

    # Services

    def open_service(self, request: Mapping[str, Any]) -> Any:
        """CreateService: moto's record of it, and its tasks."""
        cluster = self._active_cluster(request)
        name = request["serviceName"]
        existing = self.services.get(f"{cluster.name}:{name}")
        if existing and existing.status == "ACTIVE":
            raise invalid("Creation of service was not idempotent.")
        definition = self._definition_to_run(request["taskDefinition"])
        launch_type, _ = self._launch_type(request, cluster)
        rules.check_fit(request, _told(definition), fargate=launch_type == "FARGATE")
        network = (request.get("networkConfiguration") or {}).get("awsvpcConfiguration")
        service = self.create_service(
            cluster.name,
            name,
            int(request.get("desiredCount", 1)),
            definition.arn,
            tags=request.get("tags"),
            launch_type=launch_type,
            platform_version=request.get("platformVersion"),
            propagate_tags=request.get("propagateTags") or "NONE",
            # moto can't do without security groups
            network_configuration={"awsvpcConfiguration": {"securityGroups": [], **network}} if network else None,
        )
        service.created_at = utcnow()
        self.scheduler.opened(service, request)
        return self._counted(service)

    def change_service(self, request: Mapping[str, Any]) -> Any:
        """UpdateService: what is given changes; tasks of what was before are replaced."""
        service = self._get_service(request.get("cluster") or "default", request["service"])
        if request.get("taskDefinition"):
            service.task_definition = self._definition_to_run(request["taskDefinition"]).arn
        if request.get("desiredCount") is not None:
            service.desired_count = int(request["desiredCount"])
        if request.get("networkConfiguration"):
            service.network_configuration = request["networkConfiguration"]
        self.scheduler.updated(service, request)
        return self._counted(service)

    def delete_service(self, cluster_name: str, service_name: str, force: bool) -> Any:
        """Its tasks stop."""
        service = super().delete_service(cluster_name, service_name.rsplit("/", maxsplit=1)[-1], force)
        self.scheduler.reconcile(service)
        return service

    def describe_services(self, cluster_str: str, service_names_or_arns: list[str]) -> Any:
        """The services, with how many of their tasks run and wait."""
        services, failures = super().describe_services(cluster_str, service_names_or_arns)
        return [self._counted(service) for service in services], failures

    def _counted(self, service: Any) -> Any:
        statuses = [task.last_status for task in self.scheduler.tasks(service)]
        service.running_count = statuses.count("RUNNING")
        service.pending_count = len(statuses) - service.running_count
        service.deployments[0] |= {
            "desiredCount": service.desired_count,
            "runningCount": service.running_count,
            "pendingCount": service.pending_count,
            "taskDefinition": service.task_definition,
            "rolloutState": "COMPLETED" if service.running_count == service.desired_count else "IN_PROGRESS",
        }
        return service

    def _active_cluster(self, request: Mapping[str, Any]) -> Any:
        cluster = self._get_cluster(request.get("cluster") or "default")
        if cluster.status != "ACTIVE":
            raise Refused("ClusterNotFoundException", "Cluster not found.")
        return cluster


def _told(definition: Any) -> dict[str, Any]:
    return {
        "containerDefinitions": definition.container_definitions,
        "networkMode": definition.network_mode,
        "compatibilities": definition.compatibilities,
        "cpu": definition.cpu,
        "memory": definition.memory,
        "taskRoleArn": getattr(definition, "task_role_arn", None),
    }


def _needed(definition: Any) -> dict[str, Any]:
    """What a task takes of a container instance: the task's own size, else the sum of its containers'."""
    containers = definition.container_definitions
    ports = [
        mapping["hostPort"] for c in containers for mapping in c.get("portMappings") or () if mapping.get("hostPort")
    ]
    return {
        "CPU": rules.cpu_units(definition.cpu) if definition.cpu else sum(c.get("cpu") or 0 for c in containers),
        "MEMORY": rules.memory_mib(definition.memory)
        if definition.memory
        else sum(c.get("memoryReservation") or c.get("memory") or 0 for c in containers),
        "PORTS": ports,
        "PORTS_UDP": [],
    }


def _tags(request: Mapping[str, Any], cluster: Any, definition: Any) -> list[dict[str, str]]:
    tags = {tag["key"]: tag.get("value", "") for tag in request.get("tags") or ()}
    if request.get("propagateTags") == "TASK_DEFINITION":
        tags = {tag["key"]: tag.get("value", "") for tag in definition.tags} | tags
    if request.get("enableECSManagedTags"):
        tags["aws:ecs:clusterName"] = cluster.name
    return [{"key": key, "value": value} for key, value in tags.items()]


class EcsResponse(EC2ContainerServiceResponse):  # type: ignore[misc]  # moto has no types
    """The answers that differ from moto's. A method's name is an AWS action's.

    Tasks are put into JSON here: moto's serialiser takes 50 ms for a hundred.
    """

    def run_task(self) -> str:
        """RunTask, idempotent by clientToken."""
        tasks, failures, again = self.ecs_backend.run(self.params)
        told = [_replayed(task) if again and task.stopped else task.document() for task in tasks]
        return self._json({"tasks": told, "failures": failures})

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
        raise Refused("UnsupportedFeatureException", "The embedded AWS has no StartTask: use RunTask.")

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
    """What a repeated RunTask tells of a task that has stopped (ECS developer guide, "Ensuring idempotency")."""
    return {"taskArn": task.arn, "lastStatus": task.last_status, "desiredStatus": task.desired_status}


def _page(
    items: Iterable[str],
    request: Mapping[str, Any],
    *,
    order: Callable[[str], Any] = str,
    newest_first: bool = False,
) -> tuple[list[str], str | None]:
    """One page and the token of the next: the last item told, so that nothing that comes or goes shifts pages."""
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


def install(engine: Engine, *, retention: float) -> None:
    """Make moto use these classes, and those of `cloudformation`. Before its first request."""
    moto.ecs.models.ecs_backends.backend = partial(EcsBackend, engine=engine, retention=retention)
    moto.ecs.urls.url_paths["{0}/$"] = EcsResponse.dispatch
