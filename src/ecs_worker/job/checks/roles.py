"""Roles and other names of things in the account, and what needs a role.

Source of the shapes: RegisterTaskDefinition and RunTask of the ECS API reference.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ecs_worker.job.job import Job

# Every partition's ARNs start with arn:aws, arn:aws-cn, arn:aws-us-gov …
_ROLE = re.compile(r"[\w+=,.@-]+|arn:aws[a-z-]*:iam::\d*:role/\S+", re.ASCII)
_CLUSTER = re.compile(r"[\w-]{1,255}|arn:aws[a-z-]*:ecs:[\w-]+:\d*:cluster/[\w-]+", re.ASCII)
_DEFINITION = re.compile(r"[\w-]+(:\d+)?|arn:aws[a-z-]*:ecs:[\w-]+:\d*:task-definition/[\w-]+(:\d+)?", re.ASCII)
_ECR_IMAGE = re.compile(r"\d{12}\.dkr\.ecr\.")


def arns(job: Job) -> Iterator[str]:
    """Names and ARNs have the shapes that ECS takes."""
    given = (
        ("task_role_arn", _task_role(job), _ROLE, "a role's name or ARN"),
        ("execution_role_arn", job.execution_role, _ROLE, "a role's name or ARN"),
        ("cluster", job.run_task.get("cluster"), _CLUSTER, "a cluster's name or ARN"),
        ("task_definition_arn", job.configuration.reused_definition, _DEFINITION, "a family, family:revision or ARN"),
    )
    for name, value, shape, wanted in given:
        if value and not shape.fullmatch(str(value)):
            yield f"{name} is {value!r}{job.origin(name)}, which is not {wanted}; correct it."


def execute_command(job: Job) -> Iterator[str]:
    """ECS Exec works with the task's role."""
    if job.run_task.get("enableExecuteCommand") and not _task_role(job):
        yield (
            f"enable_execute_command is on{job.origin('enable_execute_command')}, which needs a task role; set "
            "task_role_arn."
        )


def secrets_and_images(job: Job) -> Iterator[str]:
    """ECS reads secrets, and Fargate fetches images from ECR, with the execution role."""
    if job.execution_role:
        return
    for container in job.containers:
        name = container.get("name")
        if container.get("secrets"):
            yield f"Container {name!r} has secrets, which needs an execution role; {job.role_remedy}."
        if job.made_for_fargate and _ECR_IMAGE.match(str(container.get("image"))):
            yield (
                f"Container {name!r} has an image on ECR{job.origin('image')}, which on Fargate needs an execution "
                f"role; {job.role_remedy}."
            )


def _task_role(job: Job) -> object:
    return job.overrides.get("taskRoleArn") or job.definition.get("taskRoleArn")
