"""What AWS would refuse, found before it is asked. One small function per rule; each yields sentences.

A sentence names the field, the value, where it came from and the remedy. Source of the limits: the ECS API
reference and developer guide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ecs_worker.errors import JobInvalid
from ecs_worker.job.requests import flow_container_name, launch_type_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ecs_worker.job.configuration import FlowRunContext, JobConfiguration


@dataclass(frozen=True, slots=True)
class Job:
    """All that the rules look at. `definition` is our request, or the description of a reused one."""

    configuration: JobConfiguration
    context: FlowRunContext
    definition: Mapping[str, Any]
    run_task: Mapping[str, Any]
    came_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """The definition's containers."""
        return list(self.definition.get("containerDefinitions") or [])

    def origin(self, variable: str) -> str:
        """Where the job variable came from, as a bracket for messages."""
        return f" (from {self.came_from[variable]})" if variable in self.came_from else ""


def check(job: Job) -> None:
    """Raises JobInvalid with every problem of `job`."""
    problems = [problem for rule in RULES for problem in rule(job)]
    if problems:
        raise JobInvalid(problems)


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


RULES = (
    _essential_container,
    _flow_container_exists,
    _logs_need_execution_role,
    _log_options_need_logs,
    _launch_type_fits_definition,
)
