"""The requests of one run: RegisterTaskDefinition and RunTask, as prefect-aws sends them where it is right.

Pure and deterministic: equal arguments give equal requests, so that a retry with the same clientToken never
conflicts. Source for names, lists and defaults: prefect-aws 0.7.12; limits: the ECS API reference.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shlex
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from ecs_worker.errors import JobInvalid
from ecs_worker.job.names import (
    LONGEST_TAG_KEY,
    LONGEST_TAG_VALUE,
    container_slug,
    ecs_name,
    generated_family,
    tag_text,
)
from ecs_worker.job.options import (
    add_to_definition,
    add_to_overrides,
    add_to_run_task,
    given_network,
    patch,
    wanted_network,
)
from ecs_worker.job.prepared import prepare
from ecs_worker.job.sizes import cpu_units, memory_mib, next_fargate_pair
from ecs_worker.model import FARGATE_PROVIDERS, LogStream

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ecs_worker.job.configuration import JobConfiguration
    from ecs_worker.job.context import FlowRunContext
    from ecs_worker.job.prepared import Prepared

DEFAULT_CONTAINER = "prefect"
DEFAULT_CPU = 1024  # CPU units
DEFAULT_MEMORY = 2048  # MiB
MOST_SUBNETS = 16  # RunTask, awsvpcConfiguration
MOST_OVERRIDES = 8192  # characters; RunTask, `overrides`
# The claim's tag on the task: like startedBy, it leads whoever finds the task to the claim.
CLAIM_TAG = "ecs-worker/claim-id"

CAPACITY = {"launchType", "capacityProviderStrategy"}  # which exclude each other
MANAGED_INSTANCES = "MANAGED_INSTANCES"  # reached by a capacity provider only; as a launch type, what a definition fits
_SECRETS = {
    "PREFECT_API_KEY": "prefect_api_key_secret_arn",
    "PREFECT_API_AUTH_STRING": "prefect_api_auth_string_secret_arn",
}
# Lists of objects whose order ECS heeds: earlier files and hosts win.
_ORDERED = {"environmentFiles", "extraHosts"}


def default_image(server_version: str, python_version: str) -> str:
    """The Prefect image that fits the server; the newest 3.x when its version is unknown (Prefect Cloud)."""
    release = re.match(r"\d+\.\d+\.\d+[a-z0-9.]*", server_version)
    return f"prefecthq/prefect:{release[0]}-python{python_version}" if release else "prefecthq/prefect:3-latest"


def flow_container_name(configuration: JobConfiguration, definition: Mapping[str, Any] | None) -> str:
    """The container that runs the flow: as configured, else `prefect`, else the definition's first."""
    if configuration.container_name:
        return container_slug(configuration.container_name)
    for source in (configuration.task_definition, definition or {}):
        names = [container.get("name") for container in source.get("containerDefinitions") or [] if container]
        if DEFAULT_CONTAINER in names:
            return DEFAULT_CONTAINER
        if names and names[0]:
            return container_slug(str(names[0]))
    return DEFAULT_CONTAINER


def prepare_requests(
    configuration: JobConfiguration,
    context: FlowRunContext,
    reused: Mapping[str, Any] | None = None,
    confidential: Collection[str] = (),
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """RegisterTaskDefinition's request, and RunTask's without taskDefinition, clientToken and startedBy.

    In place of the first, a job that reuses a definition gets `reused`, which is how ECS describes that one; None:
    what is presumed of it. A network that must be looked up is put into the second afterwards, by `with_network`.
    `confidential` are the variables of env that may not move into the definition, which many may read.
    Raises JobInvalid if the flow's container is not there, or a command or a size can't be read.
    """
    prepared = prepare(configuration, context)
    definition: Mapping[str, Any]
    if configuration.reused_definition:
        definition = reused or _presumed_definition(configuration)
    else:
        definition = _definition(configuration, context, prepared)
    request = _run_task(configuration, context, prepared, definition)
    if overrides_length(request) <= MOST_OVERRIDES:
        return definition, request
    flow = flow_container_name(configuration, definition)
    if not configuration.reused_definition:
        movable = _movable(configuration, context, prepared, confidential)
        definition = _with_moved(definition, flow, movable, _without_repeated(request, definition, flow))
    return definition, _without_repeated(request, definition, flow)


def _presumed_definition(configuration: JobConfiguration) -> dict[str, Any]:
    """What a reused definition must at least be for the job to fit it, while nobody has asked ECS."""
    presumed: dict[str, Any] = {"containerDefinitions": [{"name": flow_container_name(configuration, None)}]}
    launch_type = configuration.task_run_request.get("launchType")
    if str(launch_type) in FARGATE_PROVIDERS or wanted_network(configuration):
        presumed["networkMode"] = "awsvpc"
    return presumed


# RegisterTaskDefinition ---------------------------------------------------------------------------------------


def _definition(configuration: JobConfiguration, context: FlowRunContext, prepared: Prepared) -> dict[str, Any]:
    definition = copy.deepcopy(configuration.task_definition)
    containers = [container for container in definition.get("containerDefinitions") or [] if cleaned(container)]
    for container in containers:
        if container.get("name"):
            container["name"] = container_slug(str(container["name"]))
    definition["containerDefinitions"] = containers
    container = _flow_container(containers, flow_container_name(configuration, None))
    container["image"] = container.get("image") or default_image(context.server_version, context.python_version)
    _configure_logs(container, configuration, context)
    if not definition.get("executionRoleArn"):
        definition["executionRoleArn"] = configuration.execution_role_arn or context.defaults.execution_role_arn
    add_to_definition(configuration, definition, container)
    container["environment"] = environment_list(_pairs(container.get("environment")), without=prepared.unset)
    _add_secrets(container, configuration)
    container_name = container["name"]
    definition = patch(definition, _definition_patch(configuration, container_name))
    definition["containerDefinitions"] = [_settled(item, item) for item in definition["containerDefinitions"]]
    container = _flow_container(definition["containerDefinitions"], container_name)
    definition["family"] = _family(definition, context)
    _size(definition, container, configuration, _fit(configuration, context, definition))
    request: dict[str, Any] = cleaned(definition)
    return request


def _definition_patch(configuration: JobConfiguration, container_name: str) -> dict[str, Any]:
    """Both patches as one: the container's is the definition's for the container that runs the flow."""
    if not configuration.container_patch:
        return configuration.task_definition_patch
    for_container = {"containerDefinitions": [{**configuration.container_patch, "name": container_name}]}
    return patch(configuration.task_definition_patch, for_container)


def _flow_container(containers: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The one so named; for the default name also the first without a name, or a new one."""
    for container in containers:
        if container.get("name") == name:
            return container
    if name != DEFAULT_CONTAINER:
        raise JobInvalid(
            [f"container_name is {name!r}, but the task definition has no such container; name one that it has."]
        )
    for container in containers:
        if not container.get("name"):
            container["name"] = name
            return container
    containers.append({"name": name})
    return containers[-1]


def _owner_id(context: FlowRunContext) -> str:
    return str(context.run.deployment_id or context.run.flow_id)


def _family(definition: Mapping[str, Any], context: FlowRunContext) -> str:
    family = ecs_name(str(definition.get("family") or ""))
    return family if family.strip("-") else generated_family(context.pool_name, _owner_id(context))


def _configure_logs(container: dict[str, Any], configuration: JobConfiguration, context: FlowRunContext) -> None:
    if not configuration.configure_cloudwatch_logs:
        return
    prefix = configuration.cloudwatch_logs_prefix or f"prefect-logs_{context.pool_name}_{_owner_id(context)}"
    container["logConfiguration"] = {
        "logDriver": "awslogs",
        "options": {
            "awslogs-create-group": "true",
            "awslogs-group": "prefect",
            "awslogs-region": context.region,
            "awslogs-stream-prefix": prefix,
            **configuration.cloudwatch_logs_options,
        },
    }


def _size(definition: dict[str, Any], container: dict[str, Any], configuration: JobConfiguration, fit: _Fit) -> None:
    """Fargate wants CPU and memory of the task, and awsvpc, which all others but EXTERNAL take, too."""
    cpu = cpu_units(definition.get("cpu") or DEFAULT_CPU)
    memory = memory_mib(definition.get("memory") or DEFAULT_MEMORY)
    if fit is _Fit.CONTAINER:
        container["cpu"] = container.get("cpu") or cpu
        container["memory"] = container.get("memory") or memory
    else:
        if configuration.round_up_resources and fit in _MAYBE_FARGATE:
            cpu, memory = next_fargate_pair(cpu, memory, windows=for_windows(definition)) or (cpu, memory)
        definition |= {"cpu": cpu, "memory": memory}
        definition["networkMode"] = definition.get("networkMode") or "awsvpc"
    if fit is _Fit.FARGATE:
        compatibilities = list(definition.get("requiresCompatibilities") or [])
        definition["requiresCompatibilities"] = [*compatibilities, *({"FARGATE"} - set(compatibilities))]
    _plain_sizes(definition, definition["containerDefinitions"])


def _plain_sizes(task: dict[str, Any], containers: list[dict[str, Any]]) -> None:
    """CPU and memory without units, as ECS wants them: texts for the task, numbers for containers."""
    if task.get("cpu"):
        task["cpu"] = str(cpu_units(task["cpu"]))
    if task.get("memory"):
        task["memory"] = str(memory_mib(task["memory"]))
    for container in containers:
        if container.get("cpu"):
            container["cpu"] = cpu_units(container["cpu"])
        if container.get("memory"):
            container["memory"] = memory_mib(container["memory"])


def _add_secrets(container: dict[str, Any], configuration: JobConfiguration) -> None:
    secrets = {item["name"]: item for item in container.get("secrets") or [] if item.get("name")}
    secrets |= {name: {"name": name, "valueFrom": arn} for name, arn in configuration.secrets.items()}
    for name, source in _SECRETS.items():
        if arn := getattr(configuration, source):
            secrets[name] = {"name": name, "valueFrom": arn}
    container["secrets"] = list(secrets.values())


def _settled(container: Mapping[str, Any], defined: Mapping[str, Any]) -> dict[str, Any]:
    """A container, or its override: variables without a value are left out, and secrets win, as ECS refuses both."""
    if not container.get("environment"):
        return dict(container)
    environment = environment_list(_pairs(container["environment"]), without=_secret_names(defined))
    return {**container, "environment": environment}


def _secret_names(container: Mapping[str, Any]) -> set[str]:
    """The variables that the container of a definition gets from secrets."""
    return {str(item["name"]) for item in container.get("secrets") or [] if item.get("name")}


def definition_digest(request: Mapping[str, Any]) -> str:
    """Names a definition's content: SHA-256 (hex) of the request without tags.

    Equal for requests that differ only in an order that ECS doesn't heed.
    """
    content = {key: value for key, value in request.items() if key != "tags"}
    return hashlib.sha256(_canonical(cleaned(content)).encode()).hexdigest()


def _canonical(value: Any, key: str = "") -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_canonical(value[name], name)}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        items = [_canonical(item) for item in value]
        unordered = key == "requiresCompatibilities" or (
            key not in _ORDERED and all(isinstance(i, dict) for i in value)
        )
        return "[" + ",".join(sorted(items) if unordered else items) + "]"
    return json.dumps(value)


# Where it runs ------------------------------------------------------------------------------------------------


def launch_type_of(
    configuration: JobConfiguration, context: FlowRunContext, definition: Mapping[str, Any]
) -> str | None:
    """The launch type to ask for; FARGATE unless the job or the definition says something else.

    None: the cluster's default capacity providers, if the job says null, and for a definition that Fargate can't run.
    """
    if configured := _launch_type_said(configuration, context):
        return configured
    if leaves_to_cluster(_where_said(configuration)):
        return None
    required = set(definition.get("requiresCompatibilities") or ["FARGATE"])
    possible = set(definition.get("compatibilities") or ["FARGATE"])  # only a described definition has it
    return "FARGATE" if required == {"FARGATE"} and "FARGATE" in possible else None


def _launch_type_said(configuration: JobConfiguration, context: FlowRunContext) -> str | None:
    """The job's or the worker's, even beside a strategy."""
    said = _where_said(configuration).get("launchType") or context.defaults.launch_type
    return str(said) if said else None


def leaves_to_cluster(request: Mapping[str, Any]) -> bool:
    """Whether a RunTask request, or a part of it, says `launchType: null`, which is not the same as saying nothing."""
    return request.get("launchType", "") is None


def _where_said(configuration: JobConfiguration) -> Mapping[str, Any]:
    """What says where the task runs: the patch alone, if it names a place; else the request with the patch's nulls."""
    patched = {key: value for key, value in configuration.run_task_patch.items() if key in CAPACITY}
    below = {key: value for key, value in configuration.task_run_request.items() if key in CAPACITY}
    return patched if any(patched.values()) else {**below, **patched}


def capacity(configuration: JobConfiguration, context: FlowRunContext, definition: Mapping[str, Any]) -> dict[str, Any]:
    """RunTask's part that says where the task runs: a strategy excludes a launch type; FARGATE_SPOT is a provider."""
    if strategy := _where_said(configuration).get("capacityProviderStrategy"):
        return {"capacityProviderStrategy": strategy}
    launch_type = launch_type_of(configuration, context, definition)
    if launch_type == "FARGATE_SPOT":
        return {"capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]}
    return {"launchType": launch_type} if launch_type else {}


def runs_on_fargate(request: Mapping[str, Any]) -> bool:
    """Whether a RunTask request (or only its `capacity`) is for Fargate, as far as it says."""
    if strategy := request.get("capacityProviderStrategy"):
        return {str(item.get("capacityProvider")) for item in strategy} <= FARGATE_PROVIDERS
    return request.get("launchType") == "FARGATE"


class _Fit(Enum):
    """What our definition is made for."""

    FARGATE = "Fargate"
    ANY = "whatever the cluster's default strategy chooses"
    INSTANCES = "a capacity provider's instances: the size is the task's, and the task has a network of its own"
    CONTAINER = "instances: the size is the container's, and the network mode is left open"


_MAYBE_FARGATE = {_Fit.FARGATE, _Fit.ANY}


def _fit(configuration: JobConfiguration, context: FlowRunContext, definition: Mapping[str, Any]) -> _Fit:
    """As prefect-aws: instances get one or the other, as the launch type beside a strategy says (by default FARGATE).

    But of what the definition requires, none is added that the task doesn't run on; Managed Instances have no bridge.
    """
    asked = capacity(configuration, context, definition)
    required = set(definition.get("requiresCompatibilities") or [])
    if runs_on_fargate(asked):
        return _Fit.FARGATE
    if not asked:
        return _Fit.ANY if not required or required & {"FARGATE", MANAGED_INSTANCES} else _Fit.CONTAINER
    if "capacityProviderStrategy" not in asked:
        return _Fit.CONTAINER
    with_network = _launch_type_said(configuration, context) in {*FARGATE_PROVIDERS, MANAGED_INSTANCES}
    return _Fit.INSTANCES if with_network or MANAGED_INSTANCES in required else _Fit.CONTAINER


def for_windows(definition: Mapping[str, Any]) -> bool:
    """Whether the definition's containers are Windows's."""
    family = (definition.get("runtimePlatform") or {}).get("operatingSystemFamily")
    return str(family).startswith("WINDOWS")


# Network ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NetworkNeed:
    """What must be found out before RunTask.

    The subnets of `vpc_id`; else, with `inherit`, the worker's own network; else the subnets of the default VPC.
    `given` is the job's own awsvpcConfiguration; if it has subnets, they must be among those. `public_ip` False: the
    task can't have a public address, as only Fargate's can.
    """

    vpc_id: str | None
    given: Mapping[str, Any] = field(default_factory=dict)
    inherit: bool = False
    public_ip: bool = True

    def __str__(self) -> str:
        if self.vpc_id:
            return f"VPC {self.vpc_id}"
        return "the worker's own network" if self.inherit else "the default VPC"


@dataclass(frozen=True, slots=True)
class FoundNetwork:
    """What a look-up found. Of VPCs only subnets are asked for; their tasks get public addresses."""

    subnets: Sequence[str]
    security_groups: Sequence[str] = ()
    public_ip: bool = True


def network_need(
    configuration: JobConfiguration, context: FlowRunContext, definition: Mapping[str, Any]
) -> NetworkNeed | None:
    """What must be looked up for the task's network; None when nothing has to be.

    Given subnets pass as they are, but those of `network_configuration` must be in the `vpc_id` beside it, as
    prefect-aws has it.
    """
    if definition.get("networkMode") != "awsvpc":
        return None
    given = wanted_network(configuration)
    in_vpc = configuration.vpc_id and not configuration.subnets and given_network(configuration).get("subnets")
    if given.get("subnets") and not in_vpc:
        return None
    wished = configuration.inherit_network
    inherit = context.defaults.inherit_network if wished is None else wished
    asked = capacity(configuration, context, definition)
    # Which capacity the cluster's default is, nobody knows.
    fargate = runs_on_fargate(asked) if asked else "FARGATE" in (definition.get("requiresCompatibilities") or [])
    return NetworkNeed(configuration.vpc_id, given, inherit=inherit and not configuration.vpc_id, public_ip=fargate)


def network_configuration(need: NetworkNeed, found: FoundNetwork) -> dict[str, Any]:
    """RunTask's `networkConfiguration`, from what the look-up found. Raises JobInvalid if that doesn't do."""
    given = need.given.get("subnets") or []
    strange = [subnet for subnet in given if subnet not in found.subnets]
    if strange:
        raise JobInvalid([f"network_configuration: {', '.join(strange)} not in {need}; correct subnets or vpc_id."])
    if given:
        return {"awsvpcConfiguration": dict(need.given)}
    if not found.subnets:
        remedy = "check vpc_id and the Region" if need.vpc_id else "set vpc_id, or subnets in network_configuration"
        raise JobInvalid([f"No subnets were found in {need}: {remedy}."])
    network: dict[str, Any] = {"assignPublicIp": "ENABLED" if found.public_ip and need.public_ip else "DISABLED"}
    if found.security_groups:
        network["securityGroups"] = list(found.security_groups)
    return {"awsvpcConfiguration": {**network, **need.given, "subnets": list(found.subnets)[:MOST_SUBNETS]}}


# RunTask ------------------------------------------------------------------------------------------------------


def _run_task(
    configuration: JobConfiguration, context: FlowRunContext, prepared: Prepared, definition: Mapping[str, Any]
) -> dict[str, Any]:
    request = copy.deepcopy(configuration.task_run_request)
    request.pop("taskDefinition", None)
    request["cluster"] = request.get("cluster") or configuration.cluster or context.defaults.cluster
    request = {key: value for key, value in request.items() if key not in CAPACITY}
    request |= capacity(configuration, context, definition)
    given = wanted_network(configuration)
    if given and definition.get("networkMode") == "awsvpc":
        request["networkConfiguration"] = {"awsvpcConfiguration": given}
    request["overrides"] = _overrides(request.get("overrides") or {}, configuration, context, definition, prepared)
    request["tags"] = _tags(request.get("tags"), prepared.labels, context)
    add_to_run_task(configuration, request)
    request = patch(request, configuration.run_task_patch)
    request["overrides"] = _settled_overrides(request.get("overrides") or {}, definition)
    result: dict[str, Any] = cleaned(request)
    return result


def with_network(
    request: Mapping[str, Any], network: Mapping[str, Any], configuration: JobConfiguration
) -> dict[str, Any]:
    """The RunTask request with what `network_configuration` made of the look-up, below the job's own patch."""
    patches = {key: value for key, value in configuration.run_task_patch.items() if key == "networkConfiguration"}
    return {**request, **cleaned(patch({"networkConfiguration": network}, patches))}


def _settled_overrides(overrides: Mapping[str, Any], definition: Mapping[str, Any]) -> dict[str, Any]:
    defined = {container.get("name"): container for container in definition.get("containerDefinitions") or []}
    containers = overrides.get("containerOverrides") or []
    settled = [_settled(container, defined.get(container.get("name"), {})) for container in containers]
    result = {**overrides, "containerOverrides": settled}
    _plain_sizes(result, settled)
    return result


def without_spot(request: Mapping[str, Any]) -> dict[str, Any]:
    """The same RunTask request for On-Demand Fargate: what `spot_fallback` asks for when Spot has no capacity."""
    kept = {key: value for key, value in request.items() if key != "capacityProviderStrategy"}
    return {**kept, "launchType": "FARGATE"}


def _overrides(
    given: dict[str, Any],
    configuration: JobConfiguration,
    context: FlowRunContext,
    definition: Mapping[str, Any],
    prepared: Prepared,
) -> dict[str, Any]:
    containers = [dict(container) for container in given.get("containerOverrides") or [] if container]
    name = flow_container_name(configuration, definition)
    flow = _flow_override(containers, name)
    # What the job says about command and env holds, whatever the template puts here.
    flow["command"] = prepared.command
    for container in containers:
        if isinstance(container.get("command"), str):
            container["command"] = words(container["command"])
        environment = _pairs(container.get("environment"))
        container["environment"] = (
            environment_list({**environment, **prepared.env}, without=prepared.unset)
            if container is flow
            else environment_list(environment)
        )
    overrides = {**given, "containerOverrides": containers}
    add_to_overrides(configuration, overrides, flow)
    _plain_sizes(overrides, containers)
    if configuration.round_up_resources and _fit(configuration, context, definition) in _MAYBE_FARGATE:
        _round_up(overrides, definition)
    if not overrides.get("taskRoleArn") and not definition.get("taskRoleArn"):
        overrides["taskRoleArn"] = context.defaults.task_role_arn
    return overrides


def _round_up(overrides: dict[str, Any], definition: Mapping[str, Any]) -> None:
    """What the task gets in the end is the next pair that Fargate runs."""
    cpu, memory = overrides.get("cpu") or definition.get("cpu"), overrides.get("memory") or definition.get("memory")
    if not (cpu and memory):
        return
    pair = next_fargate_pair(cpu_units(cpu), memory_mib(memory), windows=for_windows(definition))
    for key, value in zip(("cpu", "memory"), pair or (), strict=False):
        if str(value) != (overrides.get(key) or str(definition.get(key))):
            overrides[key] = str(value)


def _flow_override(containers: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The flow container's entry among the overrides, made if it is missing.

    A first entry without a name is meant for it too, below one that has its name.
    """
    for container in containers:
        if container.get("name"):
            container["name"] = container_slug(str(container["name"]))
    meant = containers.pop(0) if containers and not containers[0].get("name") else {}
    same = [index for index, container in enumerate(containers) if container.get("name") == name]
    at = same[0] if same else 0
    named = containers.pop(at) if same else {}
    containers.insert(at, patch(meant, {**named, "name": name}))
    return containers[at]


def words(command: str, origin: str = "") -> list[str]:
    """A command as ECS takes it, split like a shell's. `origin`: where it came from, for messages. JobInvalid."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise JobInvalid(
            [f"command{origin} can't be split into words: {str(error).lower()}; correct its quotes."]
        ) from None


def environment_list(environment: Mapping[str, Any], without: Iterable[str] = ()) -> list[dict[str, str]]:
    """ECS's form of an environment, sorted, so that it is the same whichever process builds it; nulls left out."""
    left_out = set(without)
    return [
        {"name": name, "value": str(value)}
        for name, value in sorted(environment.items())
        if value is not None and name not in left_out
    ]


def _pairs(environment: Iterable[Mapping[str, Any]] | None) -> dict[str, Any]:
    return {str(item["name"]): item.get("value") for item in environment or [] if item.get("name")}


def _tags(given: Any, labels: Mapping[str, str], context: FlowRunContext) -> list[dict[str, str]]:
    """The template's tags and, over them, the labels; sorted, with characters and lengths that ECS accepts."""
    tags = {item.get("key"): item.get("value") for item in given or []}
    texts = {
        tag_text(key, LONGEST_TAG_KEY): tag_text("" if value is None else value, LONGEST_TAG_VALUE)
        for key, value in {**tags, **labels, CLAIM_TAG: str(context.run.claim_id)}.items()
    }
    return [{"key": key, "value": value} for key, value in sorted(texts.items()) if key]


# Room in the overrides ----------------------------------------------------------------------------------------


def overrides_length(request: Mapping[str, Any]) -> int:
    """Characters that RunTask counts against its limit: the overrides as JSON."""
    return len(json.dumps(request.get("overrides", {}), separators=(",", ":"), ensure_ascii=False))


def _movable(
    configuration: JobConfiguration, context: FlowRunContext, prepared: Prepared, confidential: Collection[str]
) -> dict[str, str]:
    """The deployment's own variables, the largest first.

    What differs from run to run stays out, so that the definition is still shared by the deployment's runs; so do
    the worker's own settings, which hold its API key, and what is confidential.
    """
    of_run = context.run.job_variables
    kept = {*confidential, *(name.removeprefix("env.") for name in of_run), *(of_run.get("env") or {})}
    said = {name: value for name, value in prepared.env.items() if configuration.env.get(name) == value}
    largest_first = sorted(said.items(), key=lambda item: (-len(item[1]), item[0]))
    return {name: value for name, value in largest_first if name not in kept}


def _with_moved(
    definition: Mapping[str, Any], flow: str, movable: Mapping[str, str], request: Mapping[str, Any]
) -> dict[str, Any]:
    """The definition with as many of the `movable` variables as the overrides of `request` are too long by."""
    excess = overrides_length(request) - MOST_OVERRIDES

    def filled(container: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal excess
        environment = _pairs(container.get("environment"))
        secrets = _secret_names(container)
        for name, value in movable.items():
            if excess > 0 and name not in secrets:
                environment[name] = value
                excess -= len(json.dumps({"name": name, "value": value}, separators=(",", ":"), ensure_ascii=False))
        with_moved: dict[str, Any] = cleaned({**container, "environment": environment_list(environment)})
        return with_moved

    containers = definition["containerDefinitions"]
    return {**definition, "containerDefinitions": [filled(c) if c.get("name") == flow else c for c in containers]}


def _without_repeated(request: Mapping[str, Any], definition: Mapping[str, Any], flow: str) -> dict[str, Any]:
    """RunTask's request without the variables that the definition's flow container has with the same value."""
    said = {
        pair
        for container in definition.get("containerDefinitions") or []
        if container.get("name") == flow
        for pair in _pairs(container.get("environment")).items()
    }

    def rest(override: Mapping[str, Any]) -> dict[str, Any]:
        own = dict(_pairs(override.get("environment")).items() - said)
        return {**override, "environment": environment_list(own)}

    overrides = request["overrides"]
    containers = overrides.get("containerOverrides") or []
    changed = [rest(item) if item.get("name") == flow else item for item in containers]
    return {**request, "overrides": {**overrides, "containerOverrides": changed}}


# Logs ---------------------------------------------------------------------------------------------------------


def log_streams(
    configuration: JobConfiguration, definition: Mapping[str, Any], region: str | None = None
) -> tuple[LogStream | None, tuple[LogStream, ...]]:
    """Where the flow container's output is on CloudWatch Logs, and that of the side-cars whose output is wanted."""
    containers = {c.get("name"): c for c in definition.get("containerDefinitions") or []}
    own = flow_container_name(configuration, definition)
    wanted = [name for name in configuration.stream_containers if name != own and name in containers]
    side_cars = [awslogs_stream(containers[name], region) for name in wanted]
    return (
        awslogs_stream(containers[own], region) if own in containers else None,
        tuple(stream for stream in side_cars if stream is not None),
    )


def awslogs_stream(container: Mapping[str, Any], region: str | None = None) -> LogStream | None:
    """Where a container of a task definition logs on CloudWatch; None if it doesn't, or that can't be told.

    Without `awslogs-stream-prefix` streams are named by Docker's container id, which ECS does not tell.
    """
    log = container.get("logConfiguration") or {}
    options = log.get("options") or {}
    group, prefix = options.get("awslogs-group"), options.get("awslogs-stream-prefix")
    if log.get("logDriver") != "awslogs" or not group or not prefix:
        return None
    return LogStream(group, prefix, str(container.get("name")), options.get("awslogs-region") or region)


def cleaned(value: Any) -> Any:
    """Without nulls and empty texts, lists and dicts. An empty `value` (of a variable, a tag) means something."""
    if isinstance(value, dict):
        items = {key: cleaned(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if not _empty(item) or (key == "value" and item == "")}
    if isinstance(value, list):
        return [item for item in map(cleaned, value) if item is not None and item != {}]
    return value


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)
