"""ECS's state: moto's backend, with what moto lacks or gets wrong corrected from outside.

moto keeps clusters, task definitions and container instances. Tasks are ours (`tasks.py`), and so are the refusals
(`rules.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from moto.core.utils import utcnow
from moto.ecs.models import EC2ContainerServiceBackend

from ecs_worker.local import rules
from ecs_worker.local.account import Account
from ecs_worker.local.placing import awsvpc, choose_place, described, needed_room, new_task
from ecs_worker.local.rules import Refused, client_error, invalid
from ecs_worker.local.scheduler import Scheduler
from ecs_worker.local.tasks import STATE_LOCK, now
from ecs_worker.verdicts.codes import CONFLICT, NO_CLUSTER, NO_SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from ecs_worker.local.placing import Place
    from ecs_worker.local.tasks import Engine, Task

_PENDING = frozenset({"PROVISIONING", "PENDING", "ACTIVATING"})
_TOKEN_SECONDS = 3600  # a client token lives as long as its tasks and an hour more, at most 24 h (API_RunTask)


@dataclass(frozen=True, slots=True)
class _Answered:
    """A RunTask call and its answer, which a repetition with the same client token gets again."""

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
        """Forget everything, and stop running containers. moto calls it for `POST /moto-api/reset`."""
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

    def create_capacity_provider(
        self, name: str, asg_details: dict[str, Any] | None, tags: list[dict[str, str]] | None
    ) -> Any:
        """moto's, with its type."""
        made = super().create_capacity_provider(name, asg_details or {}, tags)
        made.type = "EC2_AUTOSCALING"
        return made

    def open_managed_instances(self, request: Mapping[str, Any]) -> Any:
        """CreateCapacityProvider for Managed Instances: it is its cluster's alone, and needs no instances here."""
        cluster = self._active_cluster(request)
        made = self.create_capacity_provider(request["name"], None, request.get("tags"))
        made.type = rules.MANAGED_INSTANCES
        made.auto_scaling_group_provider = None
        made.managed_instances_provider = request["managedInstancesProvider"]
        made.cluster = cluster.name
        cluster.capacity_providers = [*(cluster.capacity_providers or ()), made.name]
        return made

    # Task definitions

    def register_task_definition(self, family: str, container_definitions: Any, **given: Any) -> Any:
        """Register, unless AWS would refuse; with the compatibilities and the network mode that AWS answers."""
        needs = given.get("requires_compatibilities") or ()
        network_mode = given.get("network_mode") or ("awsvpc" if "FARGATE" in needs else "bridge")
        request = {
            "family": family,
            "containerDefinitions": container_definitions,
            "networkMode": network_mode,
            "requiresCompatibilities": needs,
            "executionRoleArn": given.get("execution_role_arn"),
            "runtimePlatform": given.get("runtime_platform"),
            **{name: given.get(name) for name in ("cpu", "memory", "tags", "volumes")},
        }
        rules.check_register(request)
        with STATE_LOCK:
            made = super().register_task_definition(family, container_definitions, **given)
            made.network_mode = network_mode
            made.compatibilities = rules.compatibilities(request)
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
        text = json.dumps({**request, "clientToken": None}, sort_keys=True, default=str)
        before = self.answered.get((cluster.name, token)) if token else None
        if before and before.valid():
            if before.request != text:
                raise Refused(
                    CONFLICT,
                    "The specified client token was used by an earlier request with other parameters.",
                    resource_ids=[task.arn for task in before.tasks],
                )
            return list(before.tasks), list(before.failures), True
        tasks, failures = self._run_in(cluster, request)
        if token:
            self.answered[cluster.name, token] = _Answered(text, tuple(tasks), tuple(failures), now())
        return tasks, failures, False

    def run_new(self, request: Mapping[str, Any]) -> tuple[list[Task], list[dict[str, str]]]:
        """Run tasks, whatever ran before: the tasks and the failures."""
        return self._run_in(self._active_cluster(request), request)

    def _run_in(self, cluster: Any, request: Mapping[str, Any]) -> tuple[list[Task], list[dict[str, str]]]:
        definition = self._definition_to_run(request["taskDefinition"])
        place = self._place(request, cluster, definition)
        if network := awsvpc(request):
            self.account.check_network(network)
        if place.on_own_instances and not self.container_instances.get(cluster.name):
            raise invalid("No Container Instances were found in your cluster.")
        tasks: list[Task] = []
        failures: list[dict[str, str]] = []
        for _ in range(request.get("count", 1)):
            instance, failure = self._take_room(cluster, definition) if place.on_own_instances else (None, {})
            if failure:
                failures.append(failure)
            else:
                tasks.append(self._begin(request, definition, replace(place, instance=instance)))
        return tasks, failures

    def _place(self, request: Mapping[str, Any], cluster: Any, definition: Any) -> Place:
        """Where the request's tasks run. Refused, if they or their definition don't fit there."""
        known = described(definition)
        managed = {name for name, each in self.capacity_providers.items() if each.type == rules.MANAGED_INSTANCES}
        place = choose_place(request, cluster, known, managed)
        rules.check_fit(request, known, launch_type=place.launch_type)
        return place

    def _begin(self, request: Mapping[str, Any], definition: Any, place: Place) -> Task:
        task = new_task(request, definition, place, self.account)
        task.on_changed = partial(self._changed, task)
        task.on_stopped = partial(self._stopped, task, definition, place)
        self.running[task.arn] = task
        self.engine.begin(task)
        return task

    def _definition_to_run(self, name: str) -> Any:
        try:
            definition = self.describe_task_definition(name)
        except Refused:
            raise client_error("TaskDefinition not found.") from None
        if definition.status != "ACTIVE":
            raise client_error("TaskDefinition is inactive")
        return definition

    def _take_room(self, cluster: Any, definition: Any) -> tuple[Any, dict[str, str]]:
        """A container instance whose room is now taken for the task; or None, and the failure for RunTask's answer."""
        needed = needed_room(definition)
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

    def _stopped(self, task: Task, definition: Any, place: Place) -> None:
        """A task has stopped: its room is free again, and its service, if it has one, may want another task."""
        if place.instance is not None:
            self.update_container_instance_resources(place.instance, needed_room(definition), removing=True)
        if service := self._service_of(task):
            self.scheduler.ended(service, task)

    def _changed(self, task: Task) -> None:
        """A task runs, or its health is another."""
        if service := self._service_of(task):
            self.scheduler.changed(service, task)

    def _service_of(self, task: Task) -> Any:
        service = self.services.get(f"{task.cluster_name}:{task.service}") if task.service else None
        return service if service and service.status == "ACTIVE" else None

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` after a while, with the state lock held."""
        self.engine.later(seconds, action)

    def find(self, request: Mapping[str, Any], task_ids: Sequence[str]) -> tuple[list[Task], list[dict[str, str]]]:
        """DescribeTasks: the tasks in the order asked, and MISSING for those this cluster doesn't know."""
        cluster = self._get_cluster(rules.cluster_named(request))
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
        """ListTasks: every task that matches the filters, oldest first."""
        cluster = self._get_cluster(rules.cluster_named(request))
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
        """StopTask: the containers get SIGTERM a step later. Harmless when repeated."""
        cluster = self._get_cluster(rules.cluster_named(request))
        rules.check_task_id(request["task"])
        task = self._known(self._task_arn(cluster, request["task"]))
        if task is None:
            raise invalid("The referenced task was not found.")
        if task.desired_status != "STOPPED":
            task.tags = []  # "StopTask deletes tags"
        self.end(task, "UserInitiated", request.get("reason") or "Task stopped by user")
        return task

    def end(self, task: Task, code: str, reason: str) -> None:
        """Stop a task. Nothing happens if it was to stop before."""
        task.stop(code, reason)
        self.engine.wake(task)

    # Services

    def open_service(self, request: Mapping[str, Any]) -> Any:
        """CreateService: moto's record of the service, and its tasks."""
        cluster = self._active_cluster(request)
        name = request["serviceName"]
        existing = self.services.get(f"{cluster.name}:{name}")
        if existing and existing.status == "ACTIVE":
            raise invalid("Creation of service was not idempotent.")
        definition = self._definition_to_run(request["taskDefinition"])
        place = self._place(request, cluster, definition)
        network = awsvpc(request)
        service = self.create_service(
            cluster.name,
            name,
            int(request.get("desiredCount", 1)),
            definition.arn,
            tags=request.get("tags"),
            launch_type=place.launch_type,
            platform_version=request.get("platformVersion"),
            propagate_tags=request.get("propagateTags") or "NONE",
            # moto can't do without security groups
            network_configuration={"awsvpcConfiguration": {"securityGroups": [], **network}} if network else None,
        )
        service.created_at = utcnow()
        service.deployment_configuration = rules.deployment_configuration(request, {})
        self._keep(service, request)
        self.scheduler.opened(service, request)
        return self._counted(service)

    def change_service(self, request: Mapping[str, Any]) -> Any:
        """UpdateService: what the request names changes; if tasks are to be others, they are replaced one by one."""
        service = self._get_service(rules.cluster_named(request), request["service"].rpartition("/")[2])
        if service.status != "ACTIVE":
            raise Refused(NO_SERVICE, "Service was not ACTIVE.")
        if request.get("taskDefinition"):
            service.task_definition = self._definition_to_run(request["taskDefinition"]).arn
        if request.get("desiredCount") is not None:
            service.desired_count = int(request["desiredCount"])
        service.deployment_configuration = rules.deployment_configuration(request, service.deployment_configuration)
        self._keep(service, request)
        self.scheduler.updated(service, request)
        return self._counted(service)

    @staticmethod
    def _keep(service: Any, request: Mapping[str, Any]) -> None:
        """Keep what moto's record of a service doesn't."""
        if request.get("networkConfiguration"):
            service.network_configuration = request["networkConfiguration"]
        for name, member in (
            ("enableExecuteCommand", "enable_execute_command"),
            ("enableECSManagedTags", "enable_ecs_managed_tags"),
            ("capacityProviderStrategy", "capacity_provider_strategy"),
        ):
            if request.get(name) is not None:
                setattr(service, member, request[name])
        if request.get("capacityProviderStrategy"):
            service.launch_type = None  # ECS names only one of them

    def delete_service(self, cluster_name: str, service_name: str, force: bool) -> Any:
        """DeleteService: moto's, and the service's tasks stop."""
        service = super().delete_service(cluster_name, service_name.rsplit("/", maxsplit=1)[-1], force)
        service.desired_count = 0
        self.scheduler.closed(service)
        return self._counted(service)

    def list_services(self, cluster_str: str, scheduling_strategy: Any = None, launch_type: Any = None) -> list[str]:
        """ListServices: those that were not deleted."""
        active = {service.arn for service in self.services.values() if service.status == "ACTIVE"}
        return [arn for arn in super().list_services(cluster_str, scheduling_strategy, launch_type) if arn in active]

    def describe_services(self, cluster_str: str, service_names_or_arns: list[str]) -> Any:
        """The services, with how many of their tasks run and wait."""
        services, failures = super().describe_services(cluster_str, service_names_or_arns)
        return [self._counted(service) for service in services], failures

    def _counted(self, service: Any) -> Any:
        statuses = [task.last_status for task in self.scheduler.tasks(service)]
        service.running_count = statuses.count("RUNNING")
        service.pending_count = len(statuses) - service.running_count
        service.deployments = self.scheduler.deployments(service)
        return service

    def _active_cluster(self, request: Mapping[str, Any]) -> Any:
        cluster = self._get_cluster(rules.cluster_named(request))
        if cluster.status != "ACTIVE":
            raise Refused(NO_CLUSTER, "Cluster not found.")
        return cluster
