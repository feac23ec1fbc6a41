"""What AWS refuses, in AWS's own words where those are known. Pure: values in, `Refused` out.

Codes and limits: API_RunTask, API_RegisterTaskDefinition, API_DescribeTasks, API_ListTasks, API_StopTask. AWS documents
few message texts. Those that were seen in real answers are repeated here word for word; the others only resemble AWS's.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from moto.core.exceptions import ServiceException

from ecs_worker.job.names import LONGEST_NAME, LONGEST_TAG_KEY, LONGEST_TAG_VALUE
from ecs_worker.job.sizes import fargate_runs
from ecs_worker.verdicts.codes import CLIENT_ERROR, INVALID_PARAMETER

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

MAX_DESCRIBED = 100
MAX_COUNT = 10
MAX_PAGE = 100
MAX_OVERRIDES = 8192
MAX_TAGS = 50
MAX_CONTAINERS = 10
MAX_STOP_TIMEOUT = 120  # seconds, on Fargate
FARGATE_PROVIDERS = frozenset({"FARGATE", "FARGATE_SPOT"})
FARGATE_DRIVERS = frozenset({"awslogs", "splunk", "awsfirelens"})
MANAGED_INSTANCES = "MANAGED_INSTANCES"

_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{LONGEST_NAME}}}")
_STARTED_BY = re.compile(r"[A-Za-z0-9_/-]{1,128}")
_CLIENT_TOKEN = re.compile(r"[\x21-\x7e]{1,64}")
_TAG_TEXT = re.compile(r"[\w\s.:/=+\-@]*")
_ECR_IMAGE = re.compile(r"\d{12}\.dkr\.ecr\.")


class Refused(ServiceException):  # type: ignore[misc]  # moto has no types
    """An AWS error answer. `members` become members of it, where AWS's model of the error has them (`resource_ids`)."""

    def __init__(self, code: str, message: str, **members: object) -> None:
        super().__init__(code, message)
        for name, value in members.items():
            setattr(self, name, value)


def invalid(message: str) -> Refused:
    """InvalidParameterException."""
    return Refused(INVALID_PARAMETER, message)


def client_error(message: str) -> Refused:
    """ClientException."""
    return Refused(CLIENT_ERROR, message)


def number(value: object, unit_words: Mapping[str, int]) -> int | None:
    """A task's `cpu` or `memory`: '1024', '1 vCPU', '2 GB'. None if it is written in another way."""
    match = re.fullmatch(r"([\d.]+)\s*([A-Za-z]*)", str(value).strip())
    if not match:
        return None
    factor = unit_words.get(match[2].lower()) if match[2] else 1
    try:
        return int(float(match[1]) * factor) if factor else None
    except ValueError:
        return None


def cpu_units(value: object) -> int | None:
    """CPU units, of which 1024 are a vCPU."""
    return number(value, {"vcpu": 1024})


def memory_mib(value: object) -> int | None:
    """Memory in MiB."""
    return number(value, {"gb": 1024, "mb": 1})


def _on_windows(definition: Mapping[str, Any]) -> bool:
    return str((definition.get("runtimePlatform") or {}).get("operatingSystemFamily")).startswith("WINDOWS")


def check_register(request: Mapping[str, Any]) -> None:
    """Refuse a RegisterTaskDefinition request that AWS refuses."""
    family = str(request.get("family") or "")
    if not _NAME.fullmatch(family):
        raise client_error(
            "Family contains invalid characters. Allowed: upper and lowercase letters, numbers, hyphens, underscores."
            if family
            else "Family should not be null or empty."
        )
    containers = request.get("containerDefinitions") or []
    if not containers:
        raise client_error("Container list cannot be empty.")
    if len(containers) > MAX_CONTAINERS:
        raise client_error(f"Containers list cannot have more than {MAX_CONTAINERS} elements.")
    _check_containers(containers, task_memory=request.get("memory"))
    _check_tags(request.get("tags") or ())
    if _on_windows(request) and any(container.get("linuxParameters") for container in containers):
        raise client_error("linuxParameters is not supported for Windows containers.")
    if any(container.get("secrets") for container in containers) and not request.get("executionRoleArn"):
        raise client_error(
            "When you are specifying container secrets, you must also specify a value for 'executionRoleArn'."
        )
    for kind in request.get("requiresCompatibilities") or ():
        if kind in _CHECKS:
            _CHECKS[kind](request, containers)


def compatibilities(request: Mapping[str, Any]) -> list[str]:
    """The launch types that a RegisterTaskDefinition request fits, as AWS answers them."""
    found = ["EC2"]
    for kind, check in _CHECKS.items():
        with suppress(Refused):
            check(request, request["containerDefinitions"])
            found.append(kind)
    return found


def _check_containers(containers: Sequence[Mapping[str, Any]], *, task_memory: object) -> None:
    names = [str(container.get("name") or "") for container in containers]
    for name, container in zip(names, containers, strict=True):
        if not name:
            raise client_error("Container.name should not be null or empty.")
        if not _NAME.fullmatch(name):
            raise client_error(
                f"Invalid container name '{name}'. Up to 255 letters (uppercase and lowercase), numbers, hyphens, and"
                " underscores are allowed."
            )
        if not container.get("image"):
            raise client_error("Container.image should not be null or empty.")
        if not (container.get("memory") or container.get("memoryReservation") or task_memory):
            raise client_error(
                f"Invalid setting for container '{name}'. At least one of 'memory' or 'memoryReservation' must be"
                " specified."
            )
        for dependency in container.get("dependsOn") or ():
            if dependency.get("containerName") not in names:
                raise client_error(f"Invalid 'dependsOn' setting for container '{name}': unknown container.")
    if len(set(names)) < len(names):
        raise client_error("Container names must be unique within a task definition.")
    if not any(container.get("essential", True) for container in containers):
        raise client_error("At least one container must be marked essential.")
    _check_cycles({str(container["name"]): container for container in containers})


def _check_cycles(containers: Mapping[str, Mapping[str, Any]]) -> None:
    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            raise client_error(f"Invalid 'dependsOn' setting for container '{name}': dependencies form a cycle.")
        for dependency in containers[name].get("dependsOn") or ():
            visit(dependency["containerName"], (*way, name))

    for name in containers:
        visit(name, ())


def _check_fargate(request: Mapping[str, Any], containers: Sequence[Mapping[str, Any]]) -> None:
    if request.get("networkMode", "awsvpc") != "awsvpc":
        raise client_error(
            "Fargate only supports network mode \N{LEFT SINGLE QUOTATION MARK}awsvpc\N{RIGHT SINGLE QUOTATION MARK}."
        )
    for size in ("cpu", "memory"):
        if not request.get(size):
            raise client_error(f"Fargate requires that '{size}' be defined at the task level.")
    _check_fargate_size(request["cpu"], request["memory"], windows=_on_windows(request))
    _check_no_host_paths("Fargate", request)
    for container in containers:
        _check_on_fargate(container, execution_role=request.get("executionRoleArn"))


def _check_on_fargate(container: Mapping[str, Any], *, execution_role: object) -> None:
    driver = (container.get("logConfiguration") or {}).get("logDriver")
    if driver and driver not in FARGATE_DRIVERS:
        raise client_error(f"Fargate does not support log driver {driver}.")
    if container.get("privileged"):
        raise client_error("Fargate does not support privileged containers.")
    if driver == "awslogs" and not execution_role:
        raise client_error("Fargate requires task definition to have execution role ARN to support log driver awslogs.")
    if _ECR_IMAGE.match(container["image"]) and not execution_role:
        raise client_error("Fargate requires task definition to have execution role ARN to support ECR images.")
    if driver == "awslogs" and not container["logConfiguration"].get("options", {}).get("awslogs-stream-prefix"):
        raise client_error(
            "Log driver awslogs requires options: awslogs-group, awslogs-region, awslogs-stream-prefix on Fargate."
        )
    if int(container.get("stopTimeout") or 0) > MAX_STOP_TIMEOUT:
        raise client_error(f"Fargate supports stopTimeout of at most {MAX_STOP_TIMEOUT} seconds.")


def _check_managed_instances(request: Mapping[str, Any], _: Sequence[Mapping[str, Any]]) -> None:
    if request.get("networkMode") not in {"awsvpc", "host"}:
        raise client_error("Managed Instances only support network modes awsvpc and host.")
    _check_no_host_paths("Managed Instances", request)


def _check_no_host_paths(where: str, request: Mapping[str, Any]) -> None:
    if any((volume.get("host") or {}).get("sourcePath") for volume in request.get("volumes") or ()):
        raise client_error(f"host.sourcePath is not supported for volumes of tasks on {where}.")


_CHECKS = {"FARGATE": _check_fargate, MANAGED_INSTANCES: _check_managed_instances}


def _check_fargate_size(cpu: object, memory: object, *, windows: bool) -> None:
    if not fargate_runs(cpu_units(cpu) or 0, memory_mib(memory) or 0, windows=windows):
        raise client_error(
            f"No Fargate configuration exists for given values: {cpu} CPU, {memory} memory."
            " See the Amazon ECS documentation for the valid values."
        )


def check_run(request: Mapping[str, Any]) -> None:
    """Refuse a RunTask request that no cluster and no task definition could make right."""
    count = request.get("count", 1)
    if not 1 <= count <= MAX_COUNT:
        raise invalid(f"Count should be between 1 and {MAX_COUNT}.")
    if request.get("launchType") not in {None, "EC2", "FARGATE", "EXTERNAL"}:
        raise invalid("launch type should be one of [EC2,FARGATE,EXTERNAL]")
    if request.get("launchType") and request.get("capacityProviderStrategy"):
        raise invalid("Specify either Launch Type or Capacity Provider Strategy, but not both.")
    started_by = request.get("startedBy")
    if started_by is not None and not _STARTED_BY.fullmatch(started_by):
        raise invalid("startedBy should have at most 128 letters, numbers, hyphens, slashes or underscores.")
    client_token = request.get("clientToken")
    if client_token is not None and not _CLIENT_TOKEN.fullmatch(client_token):
        raise invalid("clientToken should have at most 64 ASCII characters between 33 and 126.")
    _check_tags(request.get("tags") or ())
    # AWS counts the characters of the overrides' JSON without spaces.
    if len(json.dumps(request.get("overrides") or {}, separators=(",", ":"))) > MAX_OVERRIDES:
        raise invalid(f"Container Overrides length must be at most {MAX_OVERRIDES}")


def _check_tags(tags: Sequence[Mapping[str, str]]) -> None:
    if len(tags) > MAX_TAGS:
        raise invalid(f"Number of tags must be at most {MAX_TAGS}.")
    keys = [tag.get("key", "") for tag in tags]
    if len(set(keys)) < len(keys):
        raise invalid("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
    for tag in tags:
        key, value = tag.get("key", ""), tag.get("value", "")
        if not 1 <= len(key) <= LONGEST_TAG_KEY or len(value) > LONGEST_TAG_VALUE:
            raise invalid(
                f"Tag keys have 1 to {LONGEST_TAG_KEY} characters and tag values at most {LONGEST_TAG_VALUE}."
            )
        if not (_TAG_TEXT.fullmatch(key) and _TAG_TEXT.fullmatch(value)):
            raise invalid(f"Invalid character in tag '{key}'.")
        if key.lower().startswith("aws:"):
            raise invalid("Tag keys with prefix 'aws:' are reserved for AWS use.")


def check_fit(request: Mapping[str, Any], definition: Mapping[str, Any], *, launch_type: str) -> None:
    """Refuse a RunTask request that doesn't fit its task definition (as DescribeTaskDefinition gives it).

    `launch_type`: what it comes to, by whatever way.
    """
    overrides = request.get("overrides") or {}
    names = {container["name"] for container in definition["containerDefinitions"]}
    for override in overrides.get("containerOverrides") or ():
        if override.get("name") not in names:
            raise invalid(
                f"Override for container named {override.get('name')} is not a container in the TaskDefinition."
            )
    network = (request.get("networkConfiguration") or {}).get("awsvpcConfiguration")
    if definition.get("networkMode") == "awsvpc":
        if not network:
            raise invalid("Network Configuration must be provided when networkMode 'awsvpc' is specified.")
        _check_network(network)
    elif network:
        raise invalid("Network Configuration is not valid for the given networkMode of this task definition.")
    if launch_type in _CHECKS and launch_type not in definition["compatibilities"]:
        raise invalid(f"Task definition does not support launch_type {launch_type}.")
    if launch_type == "FARGATE":
        cpu, memory = (overrides.get(size) or definition.get(size) for size in ("cpu", "memory"))
        _check_fargate_size(cpu, memory, windows=_on_windows(definition))
    if request.get("enableExecuteCommand") and not (overrides.get("taskRoleArn") or definition.get("taskRoleArn")):
        raise invalid(
            "The service couldn't be updated because a valid taskRoleArn is not being used. Specify a valid task role"
            " in your task definition and try again."
        )


def _check_network(network: Mapping[str, Any]) -> None:
    if not network.get("subnets"):
        raise invalid("subnets can not be empty.")
    if len(network["subnets"]) > 16:  # noqa: PLR2004 - API_AwsVpcConfiguration
        raise invalid("subnets can have at most 16 items.")
    if len(network.get("securityGroups") or ()) > 5:  # noqa: PLR2004 - API_AwsVpcConfiguration
        raise invalid("securityGroups can have at most 5 items.")


def check_strategy(
    strategy: Sequence[Mapping[str, Any]], offered: Collection[str], definition: Mapping[str, Any]
) -> None:
    """Refuse a capacity provider strategy that the cluster, whose providers are `offered`, can't follow."""
    on_windows = _on_windows(definition)
    names = [str(item.get("capacityProvider")) for item in strategy]
    if any(name not in offered for name in names):
        raise invalid(
            "The specified capacity provider strategy cannot contain a capacity provider that is not associated with"
            " the cluster. Associate the capacity provider with the cluster and try again."
        )
    if FARGATE_PROVIDERS & set(names) and set(names) - FARGATE_PROVIDERS:
        raise invalid("The capacity provider strategy cannot mix Fargate and Auto Scaling group capacity providers.")
    if all(not item.get("weight") and not item.get("base") for item in strategy) and len(strategy) > 1:
        raise invalid("The capacity provider strategy needs at least one capacity provider with a weight above 0.")
    if on_windows and "FARGATE_SPOT" in names:
        raise invalid("FARGATE_SPOT does not support Windows containers.")
    if sum(bool(item.get("base")) for item in strategy) > 1:
        raise invalid("Only one capacity provider in a strategy can have a base defined.")


def cluster_named(request: Mapping[str, Any]) -> str:
    """The cluster that a request names, or the default one. Refuse an empty name."""
    name = request.get("cluster", "default")
    if not name:
        raise invalid("Cluster name can not be empty.")
    return str(name)


def check_describe(task_ids: Sequence[str]) -> None:
    """Refuse a DescribeTasks request that names no task, too many, or something that can't be a task."""
    if not task_ids:
        raise invalid("Tasks cannot be empty.")
    if len(task_ids) > MAX_DESCRIBED:
        raise invalid(f"Tasks cannot have more than {MAX_DESCRIBED} elements.")
    for task_id in task_ids:
        check_task_id(task_id)


def check_task_id(task_id: str) -> None:
    """Refuse a text that can't be a task's id or ARN."""
    if len(task_id.rpartition("/")[2]) not in {32, 36}:
        raise invalid("taskId length should be one of [32,36]")


def check_list(request: Mapping[str, Any]) -> None:
    """Refuse a ListTasks request with impossible filters."""
    if request.get("desiredStatus", "RUNNING") not in {"RUNNING", "PENDING", "STOPPED"}:
        raise invalid("desiredStatus should be one of [RUNNING,PENDING,STOPPED]")
    if request.get("startedBy") and any(
        request.get(name) for name in ("family", "serviceName", "containerInstance", "launchType")
    ):
        raise invalid("When startedBy is specified, it must be the only filter.")
    check_page(request)


def check_page(request: Mapping[str, Any]) -> None:
    """Refuse a page size that isn't 1 to 100."""
    if not 1 <= request.get("maxResults", MAX_PAGE) <= MAX_PAGE:
        raise invalid(f"maxResults should be between 1 and {MAX_PAGE}.")


def deployment_configuration(request: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """A service's deployment configuration after a CreateService or UpdateService request, with ECS's defaults."""
    known = {
        "maximumPercent": 200,
        "minimumHealthyPercent": 100,
        "deploymentCircuitBreaker": {"enable": False, "rollback": False},
    }
    wanted = {**known, **before, **(request.get("deploymentConfiguration") or {})}
    least, most = wanted["minimumHealthyPercent"], wanted["maximumPercent"]
    if not 0 <= least <= 100 <= most <= 200 or least == most:  # noqa: PLR2004 - percentages
        raise invalid(
            "minimumHealthyPercent should be from 0 to 100, maximumPercent from 100 to 200, and the latter the larger."
        )
    return wanted
