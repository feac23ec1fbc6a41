"""A new task: where it runs, and what its task definition and its RunTask request make of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ecs_worker.local import rules
from ecs_worker.local.containers import Container, plan
from ecs_worker.local.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ecs_worker.local.account import Account


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task runs. `cluster` is moto's, as is `instance`, which a task on Fargate does not have."""

    cluster: Any
    launch_type: str
    provider: str | None = None  # the capacity provider, if one was chosen
    instance: Any = None

    @property
    def on_own_instances(self) -> bool:
        """Whether the task runs on a container instance of the account; of AWS's none is simulated."""
        return self.launch_type in {"EC2", "EXTERNAL"}


def choose_place(
    request: Mapping[str, Any], cluster: Any, definition: Mapping[str, Any], managed: Collection[str]
) -> Place:
    """The place that a RunTask or CreateService request asks for, without its instance. EC2 if nothing is asked for.

    `definition`: as `described`. `managed`: the capacity providers of Managed Instances.
    """
    if request.get("launchType"):
        return Place(cluster, request["launchType"])
    strategy = request.get("capacityProviderStrategy") or cluster.default_capacity_provider_strategy
    if not strategy:
        return Place(cluster, "EC2")
    rules.check_strategy(strategy, cluster.capacity_providers or (), definition)
    # AWS spreads tasks by base and weight. One task goes to the provider with a base, else to the heaviest.
    chosen = max(strategy, key=lambda item: (item.get("base", 0), item.get("weight", 0)))["capacityProvider"]
    own = rules.MANAGED_INSTANCES if chosen in managed else "EC2"
    return Place(cluster, "FARGATE" if chosen in rules.FARGATE_PROVIDERS else own, chosen)


def described(definition: Any) -> dict[str, Any]:
    """The members of moto's task definition that the rules look at, by their AWS names."""
    return {
        "containerDefinitions": definition.container_definitions,
        "networkMode": definition.network_mode,
        "compatibilities": definition.compatibilities,
        "cpu": definition.cpu,
        "memory": definition.memory,
        "taskRoleArn": getattr(definition, "task_role_arn", None),
        "runtimePlatform": definition.runtime_platform,
    }


def needed_room(definition: Any) -> dict[str, Any]:
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


def awsvpc(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request's awsvpcConfiguration, if it has one."""
    found: dict[str, Any] | None = (request.get("networkConfiguration") or {}).get("awsvpcConfiguration")
    return found


def new_task(request: Mapping[str, Any], definition: Any, place: Place, account: Account) -> Task:
    """A task that has not begun yet. Its network interface exists from here on."""
    cluster = place.cluster
    task_id = uuid4().hex
    prefix = cluster.arn.partition(":cluster/")[0]
    overrides = request.get("overrides") or {}
    by_name = {item["name"]: item for item in overrides.get("containerOverrides") or ()}
    network = awsvpc(request)
    interface = account.attach_interface(network) if network else None
    group = request.get("group") or f"family:{definition.family}"
    facts = {
        "clusterArn": cluster.arn,
        "taskDefinitionArn": definition.arn,
        "group": group,
        "startedBy": request.get("startedBy"),
        "launchType": place.launch_type,
        "capacityProviderName": place.provider,
        "containerInstanceArn": place.instance.container_instance_arn if place.instance else None,
        "overrides": {"containerOverrides": [], "inferenceAcceleratorOverrides": [], **overrides},
        "cpu": overrides.get("cpu") or definition.cpu,
        "memory": overrides.get("memory") or definition.memory,
        "enableExecuteCommand": request.get("enableExecuteCommand", False),
        "availabilityZone": interface.zone if interface else None,
        "attributes": [{"name": "ecs.cpu-architecture", "value": "x86_64"}],
    }
    return Task(
        arn=f"{prefix}:task/{cluster.name}/{task_id}",
        cluster_name=cluster.name,
        family=definition.family,
        started_by=request.get("startedBy") or "",
        launch_type=place.launch_type,
        account=account,
        facts=facts | (_fargate_facts(request, definition) if place.launch_type == "FARGATE" else {}),
        containers=tuple(
            Container(
                plan(container, by_name.get(container["name"], {})),
                f"{prefix}:container/{cluster.name}/{task_id}/{uuid4()}",
            )
            for container in definition.container_definitions
        ),
        interface=interface,
        tags=_tags(request, cluster, definition),
        service=group.removeprefix("service:") if group.startswith("service:") else None,
    )


def _fargate_facts(request: Mapping[str, Any], definition: Any) -> dict[str, Any]:
    overrides = request.get("overrides") or {}
    storage = overrides.get("ephemeralStorage") or definition.ephemeral_storage or {"sizeInGiB": 20}
    version = request.get("platformVersion") or "LATEST"
    return {
        "platformVersion": "1.4.0" if version == "LATEST" else version,
        "platformFamily": "Linux",
        "ephemeralStorage": storage,
        "fargateEphemeralStorage": storage,
    }


def _tags(request: Mapping[str, Any], cluster: Any, definition: Any) -> list[dict[str, str]]:
    tags = {tag["key"]: tag.get("value", "") for tag in request.get("tags") or ()}
    if request.get("propagateTags") == "TASK_DEFINITION":
        tags = {tag["key"]: tag.get("value", "") for tag in definition.tags} | tags
    if request.get("enableECSManagedTags"):
        tags["aws:ecs:clusterName"] = cluster.name
    return [{"key": key, "value": value} for key, value in tags.items()]
