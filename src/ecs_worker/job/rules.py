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
from ecs_worker.job.masking import Hidden
from ecs_worker.job.names import ecs_name
from ecs_worker.job.requests import (
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
    from collections.abc import Iterator, Mapping

    from ecs_worker.job.configuration import FlowRunContext, JobConfiguration

MOST_CONTAINERS = 10
MOST_PROVIDERS = 20
MOST_SECURITY_GROUPS = 5
MOST_TAGS = 50
MOST_DEFINITION = 65_536  # bytes

# Every partition's ARNs start with arn:aws, arn:aws-cn, arn:aws-us-gov …
_ROLE = re.compile(r"[\w+=,.@-]+|arn:aws[a-z-]*:iam::\d*:role/\S+", re.ASCII)
_CLUSTER = re.compile(r"[\w-]{1,255}|arn:aws[a-z-]*:ecs:[\w-]+:\d*:cluster/[\w-]+", re.ASCII)
_DEFINITION = re.compile(r"[\w-]+(:\d+)?|arn:aws[a-z-]*:ecs:[\w-]+:\d*:task-definition/[\w-]+(:\d+)?", re.ASCII)
_ENVIRONMENT_FILE = re.compile(r"arn:aws[a-z-]*:s3:::\S+\.env")
_SECRET = re.compile(r"arn:aws[a-z-]*:(secretsmanager|ssm):\S+")


@dataclass(frozen=True, slots=True)
class Job:
    """All that the rules look at. `definition` is our request, or the description of a reused one.

    `described` False: nobody has asked ECS for the reused definition, and `definition` is only presumed. `hidden` is
    what no message may tell: the values of blocks and variables. `sized` False: cpu or memory could not be used.
    """

    configuration: JobConfiguration
    context: FlowRunContext
    definition: Mapping[str, Any]
    run_task: Mapping[str, Any]
    came_from: Mapping[str, str] = field(default_factory=dict)
    described: bool = True
    hidden: Hidden = field(default_factory=Hidden)
    sized: bool = True

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """The definition's containers."""
        return list(self.definition.get("containerDefinitions") or [])

    def origin(self, variable: str) -> str:
        """Where the job variable came from, as a bracket for messages."""
        return _origin(self.came_from, variable)


def usable(configuration: JobConfiguration, came_from: Mapping[str, str]) -> tuple[JobConfiguration, list[str]]:
    """The configuration without the values that no request can be made of, and what is wrong with them.

    So that what is wrong elsewhere is found at once, too.
    """
    problems: dict[str, None] = {}  # in their order, each once: a size stands in both requests

    def without_unusable(item: Mapping[str, Any]) -> dict[str, Any]:
        kept = dict(item)
        for name, read in _READ.items():
            if kept.get(name) and not isinstance(kept[name], list):
                try:
                    read(kept[name], _origin(came_from, name))
                except JobInvalid as error:
                    problems.update(dict.fromkeys(error.problems))
                    del kept[name]
        return kept

    def all_without(items: Any) -> list[dict[str, Any]]:
        return [without_unusable(item) for item in items or []]

    definition = without_unusable(configuration.task_definition)
    definition["containerDefinitions"] = all_without(definition.get("containerDefinitions"))
    overrides = without_unusable(configuration.task_run_request.get("overrides") or {})
    overrides["containerOverrides"] = all_without(overrides.get("containerOverrides"))
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


_READ = {"cpu": cpu_units, "memory": memory_mib, "command": words}


def _lost_container(configuration: JobConfiguration, came_from: Mapping[str, str]) -> str | None:
    name = ecs_name(configuration.container_name or DEFAULT_CONTAINER)
    containers = configuration.task_definition.get("containerDefinitions") or []
    names = [ecs_name(str(item["name"])) for item in containers if item.get("name")]
    if configuration.reused_definition or name == DEFAULT_CONTAINER or name in names:
        return None
    return (
        f"container_name is {name!r}{_origin(came_from, 'container_name')}, but the task definition has only "
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
    return [problem for rule in rules for problem in rule(job)]


def _essential_container(job: Job) -> Iterator[str]:
    if job.containers and all(container.get("essential") is False for container in job.containers):
        yield "No container of the task definition is essential; leave `essential` out for the one that runs the flow."


def _flow_container_exists(job: Job) -> Iterator[str]:
    name = flow_container_name(job.configuration, job.definition)
    names = [str(container.get("name")) for container in job.containers]
    if name not in names:
        yield (
            f"container_name is {name!r}{job.origin('container_name')}, but the task definition has only "
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


def _launch_type_fits_definition(job: Job) -> Iterator[str]:
    if job.configuration.task_run_request.get("capacityProviderStrategy"):
        return
    launch_type = launch_type_of(job.configuration, job.context, job.definition)
    if launch_type is None:
        return
    wanted = "FARGATE" if launch_type == "FARGATE_SPOT" else launch_type
    required = job.definition.get("requiresCompatibilities") or []
    # Definitions made for Fargate also run on EC2.
    if required and wanted not in required and not (wanted == "EC2" and "FARGATE" in required):
        yield (
            f"launch_type is {launch_type!r}{job.origin('launch_type')}, but the task definition requires "
            f"{', '.join(required)}; change launch_type or requiresCompatibilities."
        )
    network_mode = job.definition.get("networkMode")
    if wanted == "FARGATE" and network_mode != "awsvpc":
        yield (
            f"launch_type is {launch_type!r}{job.origin('launch_type')}, which needs network mode 'awsvpc', but the "
            f"task definition has {network_mode or 'bridge'!r}; leave networkMode out or choose launch type EC2."
        )


def _fargate_pair(job: Job) -> Iterator[str]:
    if not job.sized or not runs_on_fargate(job.configuration, job.context, job.definition):
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
        yield f"The task definition has {len(job.containers)} containers; ECS allows {MOST_CONTAINERS}."


def _log_driver_needs_execution_role(job: Job) -> Iterator[str]:
    if job.definition.get("executionRoleArn") or job.configuration.configure_cloudwatch_logs:
        return
    if not runs_on_fargate(job.configuration, job.context, job.definition):
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
    for key, most in (("subnets", MOST_SUBNETS), ("securityGroups", MOST_SECURITY_GROUPS)):
        if len(vpc.get(key) or []) > most:
            yield f"The network configuration has {len(vpc[key])} {key}; ECS allows {most}."


def _fargate_refuses(job: Job) -> Iterator[str]:
    if not runs_on_fargate(job.configuration, job.context, job.definition):
        return
    for name in ("gpu", "placement_constraints", "placement_strategy"):
        if getattr(job.configuration, name):
            yield f"{name}{job.origin(name)} has no use on Fargate, which refuses it; choose launch type EC2."


def _only_on_fargate(job: Job) -> Iterator[str]:
    if runs_on_fargate(job.configuration, job.context, job.definition):
        return
    for name in ("ephemeral_storage_gib", "platform_version"):
        if getattr(job.configuration, name):
            yield f"{name}{job.origin(name)} is only for Fargate; leave it out or choose launch type FARGATE."


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
    tags = [str(tag.get("key")) for tag in job.run_task.get("tags") or []]
    if len(tags) > MOST_TAGS:
        yield (
            f"The task would have {len(tags)} tags{job.origin('labels')}, but ECS allows {MOST_TAGS}: "
            "give fewer labels."
        )
    for tag in tags:
        if tag.lower().startswith("aws:"):
            yield f"The label {tag!r}{job.origin('labels')} starts with 'aws:', which is AWS's own; rename it."


def _overrides_fit(job: Job) -> Iterator[str]:
    length = overrides_length(job.run_task)
    if length <= MOST_OVERRIDES:
        return
    overrides = job.run_task["overrides"]
    sizes = {
        str(item.get("name")): len(str(item.get("value")))
        for container in overrides.get("containerOverrides") or []
        for item in container.get("environment") or []
    }
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:3]
    listed = ", ".join(f"{name} ({sizes[name]})" for name in largest)
    yield (
        f"The task's overrides have {length} characters; ECS allows {MOST_OVERRIDES}. The largest variables of env"
        f"{job.origin('env')} are {listed}: set them on the deployment or the pool, or keep them in a secret or file."
    )


def _definition_fits(job: Job) -> Iterator[str]:
    if job.configuration.reused_definition:
        return
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
    _launch_type_fits_definition,
    _fargate_pair,
    _fargate_refuses,
    _only_on_fargate,
    _strategy,
    _network,
    _execute_command_needs_task_role,
    _arns,
    _tags,
    _overrides_fit,
    _definition_fits,
)

# These don't look at the task definition.
_OF_THE_RUN = (_one_task, _log_options_need_logs, _strategy, _tags, _overrides_fit)
