"""What AWS would refuse, found before it is asked. One small function per rule; each yields sentences.

A sentence names the field, the value, where it came from and the remedy. Source of the limits: the ECS API
reference and developer guide.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ecs_worker.errors import JobInvalid
from ecs_worker.job import container_rules
from ecs_worker.job.container_rules import repeated
from ecs_worker.job.masking import Redactor
from ecs_worker.job.names import LONGEST_TAG_KEY, LONGEST_TAG_VALUE, container_slug
from ecs_worker.job.requests import (
    CAPACITY,
    DEFAULT_CONTAINER,
    DEFAULT_CPU,
    DEFAULT_MEMORY,
    FARGATE_PROVIDERS,
    MOST_OVERRIDES,
    MOST_SUBNETS,
    flow_container_name,
    launch_type_of,
    overrides_length,
    runs_on_fargate,
    words,
)
from ecs_worker.job.sizes import FARGATE, cpu_units, memory_mib, next_fargate_pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ecs_worker.job.configuration import JobConfiguration
    from ecs_worker.job.context import FlowRunContext

LAUNCH_TYPES = ("FARGATE", "EC2", "EXTERNAL")
MOST_CONTAINERS = 10
MOST_PROVIDERS = 20
MOST_WEIGHT = 1000
MOST_BASE = 100_000
MOST_SECURITY_GROUPS = 5
MOST_TAGS = 50
MOST_DEFINITION = 65_536  # bytes

# Every partition's ARNs start with arn:aws, arn:aws-cn, arn:aws-us-gov …
_ROLE = re.compile(r"[\w+=,.@-]+|arn:aws[a-z-]*:iam::\d*:role/\S+", re.ASCII)
_CLUSTER = re.compile(r"[\w-]{1,255}|arn:aws[a-z-]*:ecs:[\w-]+:\d*:cluster/[\w-]+", re.ASCII)
_DEFINITION = re.compile(r"[\w-]+(:\d+)?|arn:aws[a-z-]*:ecs:[\w-]+:\d*:task-definition/[\w-]+(:\d+)?", re.ASCII)
_TAG_TEXT = re.compile(r"[\w\s.:/=+\-@]*")
_ENVIRONMENT_FILE = re.compile(r"arn:aws[a-z-]*:s3:::\S+\.env")
_SECRET = re.compile(r"arn:aws[a-z-]*:(secretsmanager|ssm):\S+")


@dataclass(frozen=True, slots=True)
class Job:
    """All that the rules look at. `definition` is our request, or the description of a reused one.

    `described` False: nobody has asked ECS for the reused definition, and `definition` is only presumed. `hidden` is
    what no message may tell: the values of blocks and variables.
    """

    configuration: JobConfiguration
    context: FlowRunContext
    definition: Mapping[str, Any]
    run_task: Mapping[str, Any]
    came_from: Mapping[str, str] = field(default_factory=dict)
    described: bool = True
    hidden: Redactor = field(default_factory=Redactor)

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """The definition's containers."""
        return list(self.definition.get("containerDefinitions") or [])

    @property
    def on_fargate(self) -> bool:
        """Whether the task is for Fargate."""
        return runs_on_fargate(self.run_task)

    @property
    def made_for_fargate(self) -> bool:
        """Whether the definition must do for Fargate, wherever the task runs."""
        return self.on_fargate or "FARGATE" in (self.definition.get("requiresCompatibilities") or [])

    def origin(self, variable: str) -> str:
        """Where the job variable came from, as a bracket for messages."""
        return _origin(self.came_from, variable)

    def source(self, *variables: str) -> str:
        """The origin of the first of the variables that somebody has set, else the template."""
        return next(filter(None, map(self.origin, variables)), " (from the work pool's template)")


def usable(configuration: JobConfiguration, came_from: Mapping[str, str]) -> tuple[JobConfiguration, list[str]]:
    """The configuration without the values that no request can be made of, and what is wrong with them.

    So that what is wrong elsewhere is found at once, too.
    """
    problems: dict[str, None] = {}  # in their order, each once: a size stands in both requests
    wrong: set[str] = set()

    def without_unusable(item: Mapping[str, Any]) -> dict[str, Any]:
        kept = dict(item)
        for name, read in _READ.items():
            if kept.get(name) and not isinstance(kept[name], list):
                try:
                    read(kept[name], _origin(came_from, name))
                except JobInvalid as error:
                    problems.update(dict.fromkeys(error.problems))
                    wrong.add(name)
                    del kept[name]
        return kept

    def all_without(items: Any) -> list[dict[str, Any]]:
        return [without_unusable(item) for item in items or []]

    definition = without_unusable(configuration.task_definition)
    definition["containerDefinitions"] = all_without(definition.get("containerDefinitions"))
    overrides = without_unusable(configuration.task_run_request.get("overrides") or {})
    overrides["containerOverrides"] = all_without(overrides.get("containerOverrides"))
    if wrong & _SIZES:  # half a pair can't be judged
        definition, overrides = ({k: v for k, v in item.items() if k not in _SIZES} for item in (definition, overrides))
    kept = without_unusable({"command": configuration.command})
    changes: dict[str, Any] = {
        "command": kept.get("command"),
        "task_definition": definition,
        "task_run_request": {**configuration.task_run_request, "overrides": overrides},
    }
    if (problem := _lost_container(configuration, came_from)) is not None:
        problems[problem] = None
        changes["container_name"] = None
    return configuration.model_copy(update=changes), list(problems)


_SIZES = {"cpu", "memory"}
_READ = {"cpu": cpu_units, "memory": memory_mib, "command": words}


def _lost_container(configuration: JobConfiguration, came_from: Mapping[str, str]) -> str | None:
    given = configuration.container_name or DEFAULT_CONTAINER
    name = container_slug(given)
    containers = configuration.task_definition.get("containerDefinitions") or []
    names = [container_slug(str(item["name"])) for item in containers if item.get("name")]
    if configuration.reused_definition or name == DEFAULT_CONTAINER or name in names:
        return None
    return (
        f"container_name is {given!r}{_origin(came_from, 'container_name')}, but the task definition has only "
        f"{', '.join(names) or 'containers without names'}; name one that it has."
    )


def _origin(came_from: Mapping[str, str], variable: str) -> str:
    return f" (from {came_from[variable]})" if variable in came_from else ""


def check(job: Job) -> None:
    """Raises JobInvalid with every problem of `job`."""
    if problems := problems_of(job):
        raise JobInvalid(problems)


def problems_of(job: Job) -> list[str]:
    """A sentence for each problem that can be told."""
    rules = RULES if job.described else _OF_THE_RUN
    own = () if job.configuration.reused_definition else _OF_OUR_DEFINITION
    return [problem for rule in (*rules, *own) for problem in rule(job)]


def _essential_container(job: Job) -> Iterator[str]:
    if job.containers and all(container.get("essential") is False for container in job.containers):
        yield "No container of the task definition is essential; leave `essential` out for the one that runs the flow."


def _flow_container_exists(job: Job) -> Iterator[str]:
    name = flow_container_name(job.configuration, job.definition)
    names = [str(container["name"]) for container in job.containers if container.get("name")]
    if name not in names:
        given = job.configuration.container_name or name
        yield (
            f"container_name is {given!r}{job.origin('container_name')}, but the task definition has only "
            f"{', '.join(names) or 'none'}; name one of these."
        )


def _logs_need_execution_role(job: Job) -> Iterator[str]:
    if job.configuration.configure_cloudwatch_logs and not job.definition.get("executionRoleArn"):
        yield (
            f"configure_cloudwatch_logs is on{job.origin('configure_cloudwatch_logs')}, but the task definition has no "
            "execution role that may write logs; set execution_role_arn."
        )


def _log_options_need_logs(job: Job) -> Iterator[str]:
    if job.configuration.cloudwatch_logs_options and not job.configuration.configure_cloudwatch_logs:
        yield (
            f"cloudwatch_logs_options is set{job.origin('cloudwatch_logs_options')}, but configure_cloudwatch_logs "
            "is off; switch it on."
        )


def _launch_type(job: Job) -> Iterator[str]:
    launch_type = job.run_task.get("launchType")
    if launch_type is None:
        return
    if launch_type not in LAUNCH_TYPES:
        yield (
            f"launch_type is {launch_type!r}{job.origin('launch_type')}, which ECS doesn't know; choose "
            f"{', '.join(LAUNCH_TYPES)} or FARGATE_SPOT."
        )
    if job.run_task.get("capacityProviderStrategy"):
        yield (
            f"run_task_patch{job.origin('run_task_patch')} has both launchType and capacityProviderStrategy, which "
            "exclude each other; leave one out."
        )


def _launch_type_fits_definition(job: Job) -> Iterator[str]:
    wanted = "FARGATE" if job.on_fargate else job.run_task.get("launchType")
    if wanted is None:
        return
    if any(job.configuration.run_task_patch.get(key) for key in CAPACITY):
        said = f"run_task_patch{job.origin('run_task_patch')} chooses {wanted}"
    elif job.configuration.task_run_request.get("capacityProviderStrategy"):
        said = f"capacity_provider_strategy{job.origin('capacity_provider_strategy')} is for Fargate"
    else:
        launch_type = launch_type_of(job.configuration, job.context, job.definition)
        said = f"launch_type is {launch_type!r}{job.origin('launch_type')}"
    required = job.definition.get("requiresCompatibilities") or []
    # Definitions made for Fargate also run on EC2.
    if required and wanted not in required and not (wanted == "EC2" and "FARGATE" in required):
        yield (
            f"{said}, but the task definition requires {', '.join(required)}; change the one or its "
            "requiresCompatibilities."
        )
    network_mode = job.definition.get("networkMode")
    if wanted == "FARGATE" and network_mode != "awsvpc":
        yield (
            f"{said}, which needs network mode 'awsvpc', but the task definition has {network_mode or 'bridge'!r}; "
            "leave networkMode out or choose launch type EC2."
        )
    if wanted == "EXTERNAL" and network_mode == "awsvpc":
        yield f"{said}, which has no network mode 'awsvpc': leave out networkMode, subnets and security_groups."


def _fargate_pair(job: Job) -> Iterator[str]:
    if not job.on_fargate:
        return
    overrides = job.run_task.get("overrides") or {}
    cpu = cpu_units(overrides.get("cpu") or job.definition.get("cpu") or DEFAULT_CPU)
    memory = memory_mib(overrides.get("memory") or job.definition.get("memory") or DEFAULT_MEMORY)
    if memory in FARGATE.get(cpu, ()):
        return
    pair = next_fargate_pair(cpu, memory)
    remedy = (
        f"take cpu {pair[0]} with memory {pair[1]}, the next that it runs, or set round_up_resources"
        if pair
        else "take less, or another launch type"
    )
    yield (
        f"cpu {cpu}{job.origin('cpu')} with memory {memory}{job.origin('memory')} is no pair that Fargate runs: "
        f"{remedy}."
    )


def _one_task(job: Job) -> Iterator[str]:
    if (count := job.run_task.get("count", 1)) != 1:
        yield f"RunTask's count is {count!r}{job.origin('run_task_kwargs')}, but a flow run is one task; leave it out."


def _at_most_ten_containers(job: Job) -> Iterator[str]:
    if len(job.containers) > MOST_CONTAINERS:
        came_from = job.source("task_definition_path", "task_definition", "task_definition_patch")
        yield (
            f"The task definition{came_from} has {len(job.containers)} containers, but ECS allows {MOST_CONTAINERS}; "
            "leave some out."
        )


def _log_driver_needs_execution_role(job: Job) -> Iterator[str]:
    if job.definition.get("executionRoleArn") or job.configuration.configure_cloudwatch_logs:
        return
    if not job.made_for_fargate:
        return
    for container in job.containers:
        if (container.get("logConfiguration") or {}).get("logDriver") == "awslogs":
            yield (
                f"Container {container.get('name')!r} logs to CloudWatch, which on Fargate needs an execution "
                "role; set execution_role_arn."
            )


def _strategy(job: Job) -> Iterator[str]:
    strategy = job.run_task.get("capacityProviderStrategy") or []
    came_from = job.origin("capacity_provider_strategy")
    names = {str(item.get("capacityProvider")) for item in strategy}
    for item in strategy:
        if not item.get("capacityProvider"):
            yield f"capacity_provider_strategy{came_from} has an item without capacityProvider; name one in each."
        for key, most in (("weight", MOST_WEIGHT), ("base", MOST_BASE)):
            value = item.get(key, 0)
            if type(value) is not int or not 0 <= value <= most:
                yield (
                    f"capacity_provider_strategy{came_from} has an item with {key} {value!r}; write a number from 0 to "
                    f"{most}."
                )
    if len(strategy) > MOST_PROVIDERS:
        yield f"capacity_provider_strategy{came_from} has {len(strategy)} items; ECS allows {MOST_PROVIDERS}."
    if names & FARGATE_PROVIDERS and names - FARGATE_PROVIDERS:
        yield (
            f"capacity_provider_strategy{came_from} mixes Fargate with {', '.join(sorted(names - FARGATE_PROVIDERS))}; "
            "ECS wants one kind."
        )
    if strategy and not any(item.get("weight") for item in strategy):
        yield f"capacity_provider_strategy{came_from} has no item with a weight above 0; give one."
    if sum(bool(item.get("base")) for item in strategy) > 1:
        yield f"capacity_provider_strategy{came_from} has several items with a base; ECS allows one."


def _network(job: Job) -> Iterator[str]:
    vpc = (job.run_task.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}
    mode = job.definition.get("networkMode")
    if mode == "awsvpc" and "networkConfiguration" in job.run_task and not vpc.get("subnets"):
        yield "The task needs subnets: set subnets, network_configuration or vpc_id."
    if mode != "awsvpc" and (job.configuration.subnets or job.configuration.security_groups):
        yield (
            f"subnets and security_groups{job.origin('subnets')} need network mode 'awsvpc', but the task definition "
            f"has {mode or 'bridge'!r}; change the one or leave out the other."
        )
    elif mode != "awsvpc" and vpc:
        yield (
            f"RunTask's networkConfiguration{job.origin('run_task_kwargs')} needs network mode 'awsvpc', but the task "
            f"definition has {mode or 'bridge'!r}; change the one or leave out the other."
        )
    public = vpc.get("assignPublicIp", "DISABLED")
    if public not in {"ENABLED", "DISABLED"}:
        yield f"assignPublicIp is {public!r}{job.origin('network_configuration')}; write ENABLED or DISABLED."
    limits = (("subnets", "subnets", MOST_SUBNETS), ("securityGroups", "security_groups", MOST_SECURITY_GROUPS))
    for key, variable, most in limits:
        came_from = job.source(variable, "network_configuration", "run_task_kwargs", "run_task_patch")
        given = vpc.get(key) or []
        if len(given) > most:
            yield f"The network configuration has {len(given)} {key}{came_from}, but ECS allows {most}; name fewer."


def _fargate_refuses(job: Job) -> Iterator[str]:
    refused = ["gpu"] * job.made_for_fargate + ["placement_constraints", "placement_strategy"] * job.on_fargate
    for name in refused:
        if getattr(job.configuration, name):
            yield f"{name}{job.origin(name)} has no use on Fargate, which refuses it; choose launch type EC2."


def _only_on_fargate(job: Job) -> Iterator[str]:
    if job.on_fargate:
        return
    for name in ("ephemeral_storage_gib", "platform_version"):
        if getattr(job.configuration, name):
            yield f"{name}{job.origin(name)} is only for Fargate; leave it out or choose launch type FARGATE."


def _public_addresses_are_fargate_s(job: Job) -> Iterator[str]:
    vpc = (job.run_task.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}
    asked = job.run_task.keys() & CAPACITY
    if asked and not job.on_fargate and vpc.get("assignPublicIp") == "ENABLED":
        yield (
            f"The task gets a public address{job.origin('assign_public_ip') or job.origin('network_configuration')}, "
            "which ECS gives only to tasks on Fargate; set assign_public_ip to false."
        )


def _execute_command_needs_task_role(job: Job) -> Iterator[str]:
    overrides = job.run_task.get("overrides") or {}
    role = overrides.get("taskRoleArn") or job.definition.get("taskRoleArn")
    if job.run_task.get("enableExecuteCommand") and not role:
        yield (
            f"enable_execute_command is on{job.origin('enable_execute_command')}, which needs a task role; set "
            "task_role_arn."
        )


def _arns(job: Job) -> Iterator[str]:
    overrides = job.run_task.get("overrides") or {}
    definition = job.definition
    given = [
        ("task_role_arn", overrides.get("taskRoleArn") or definition.get("taskRoleArn"), _ROLE, "a role's name or ARN"),
        ("execution_role_arn", definition.get("executionRoleArn"), _ROLE, "a role's name or ARN"),
        ("cluster", job.run_task.get("cluster"), _CLUSTER, "a cluster's name or ARN"),
        ("task_definition_arn", job.configuration.reused_definition, _DEFINITION, "a family, family:revision or ARN"),
    ]
    given += [
        ("environment_files", file, _ENVIRONMENT_FILE, "the S3 ARN of a file that ends in .env")
        for file in job.configuration.environment_files
    ]
    for name, value, shape, wanted in given:
        if value and not shape.fullmatch(str(value)):
            yield f"{name} is {value!r}{job.origin(name)}, which is not {wanted}; correct it."
    for container in job.containers:
        for secret in container.get("secrets") or []:
            if str(secret.get("valueFrom", "")).startswith("arn:") and not _SECRET.fullmatch(secret["valueFrom"]):
                yield (
                    f"The secret {secret.get('name')} does not come from an ARN of Secrets Manager or of the SSM "
                    "Parameter Store; correct it."
                )


def _tags(job: Job) -> Iterator[str]:
    yield from _wrong_tags("The task", job.origin("labels"), job.run_task.get("tags") or [], MOST_TAGS)


def _definition_tags(job: Job) -> Iterator[str]:
    # One more is the digest's.
    yield from _wrong_tags("The task definition", "", job.definition.get("tags") or [], MOST_TAGS - 1)


def _wrong_tags(where: str, came_from: str, tags: Sequence[Mapping[str, Any]], most: int) -> Iterator[str]:
    if len(tags) > most:
        yield f"{where} would have {len(tags)} tags{came_from}, but ECS allows {most}: give fewer labels."
    for key in repeated(str(tag.get("key", "")) for tag in tags):
        yield f"{where} has the label {key!r} several times{came_from}; leave one."
    for tag in tags:
        key, value = str(tag.get("key", "")), str(tag.get("value", ""))
        label = f"{where} has the label {key!r}{came_from}, which"
        if key.lower().startswith("aws:"):
            yield f"{label} starts with 'aws:', AWS's own prefix; rename it."
        if not 1 <= len(key) <= LONGEST_TAG_KEY or len(value) > LONGEST_TAG_VALUE:
            yield (
                f"{label} is too long: a key has 1 to {LONGEST_TAG_KEY} characters and a value at most "
                f"{LONGEST_TAG_VALUE}; shorten it."
            )
        if not (_TAG_TEXT.fullmatch(key) and _TAG_TEXT.fullmatch(value)):
            yield f"{label} has other characters than letters, digits, spaces and _ . : / = + - @; change it."


def _overrides_fit(job: Job) -> Iterator[str]:
    length = overrides_length(job.run_task)
    if length <= MOST_OVERRIDES:
        return
    parts: dict[str, int] = {}
    variables: set[str] = set()
    for container in job.run_task["overrides"].get("containerOverrides") or []:
        env = {str(item.get("name")): len(str(item.get("value"))) for item in container.get("environment") or []}
        variables |= env.keys()
        parts |= {name: len(json.dumps(value)) for name, value in container.items() if name != "environment"} | env
    first, *others = sorted(parts, key=lambda name: (-parts[name], name))[:3]
    listed = ", ".join(f"{name} ({parts[name]})" for name in (first, *others) if parts[name] * 10 >= parts[first])
    if first not in variables:
        remedy = "shorten it, or keep it in a file"
    elif job.configuration.reused_definition:
        remedy = "set derive_task_definition, so that they fit into a definition, or keep them in a secret or file"
    else:
        remedy = "set them on the deployment or the pool, or keep them in a secret or file"
    yield (
        f"The task's overrides have {length} characters; ECS allows {MOST_OVERRIDES}. Most take "
        f"{listed}{job.origin('env' if first in variables else first)}: {remedy}."
    )


def _definition_fits(job: Job) -> Iterator[str]:
    length = len(json.dumps(job.definition, separators=(",", ":")).encode())
    if length > MOST_DEFINITION:
        yield f"The task definition has {length} bytes; ECS allows {MOST_DEFINITION}: set less env or a smaller patch."


RULES = (
    _essential_container,
    _flow_container_exists,
    _at_most_ten_containers,
    _one_task,
    _logs_need_execution_role,
    _log_options_need_logs,
    _log_driver_needs_execution_role,
    _launch_type,
    _launch_type_fits_definition,
    _fargate_pair,
    _fargate_refuses,
    _only_on_fargate,
    _public_addresses_are_fargate_s,
    _strategy,
    _network,
    _execute_command_needs_task_role,
    _arns,
    _tags,
    _overrides_fit,
    container_rules.overrides_have_containers,
    container_rules.platform,
    container_rules.environment_files,
    container_rules.volumes_made_at_launch,
)

# ECS has judged a reused definition by these.
_OF_OUR_DEFINITION = (
    _definition_fits,
    _definition_tags,
    container_rules.complete_containers,
    container_rules.dependencies,
    container_rules.need_execution_role,
    container_rules.log_streams_have_names,
    container_rules.volumes,
)

# These don't look at the task definition.
_OF_THE_RUN = (
    _one_task,
    _log_options_need_logs,
    _launch_type,
    _strategy,
    _public_addresses_are_fargate_s,
    _tags,
    _overrides_fit,
    container_rules.platform,
    container_rules.environment_files,
    container_rules.volumes_made_at_launch,
)
