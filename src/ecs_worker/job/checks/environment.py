"""What containers get to read: variables, secrets, environment files.

Source of the limits: TaskOverride, ContainerDefinition and Secret of the ECS API reference.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ecs_worker.job.requests import MOST_OVERRIDES, overrides_length

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ecs_worker.job.job import Job

MOST_ENVIRONMENT_FILES = 10

_FILE = re.compile(r"arn:aws[a-z-]*:s3:::[^\s/]+/.*\.env")
_SECRET = re.compile(r"arn:aws[a-z-]*:(secretsmanager|ssm):\S+")


def overrides_fit(job: Job) -> Iterator[str]:
    """Variables, above all, may be too many for RunTask."""
    length = overrides_length(job.run_task)
    if length <= MOST_OVERRIDES:
        return
    parts: dict[str, int] = {}
    variables: set[str] = set()
    for container in job.container_overrides:
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


def files(job: Job) -> Iterator[str]:
    """They are on S3, and end in .env."""
    for file in job.configuration.environment_files:
        if file and not _FILE.fullmatch(file):
            yield (
                f"environment_files is {file!r}{job.origin('environment_files')}, which is not the S3 ARN of a file "
                "that ends in .env; correct it."
            )


def not_too_many_files(job: Job) -> Iterator[str]:
    """Of a container, in the definition and in the overrides."""
    for container in [*job.containers, *job.container_overrides]:
        given = container.get("environmentFiles") or []
        if len(given) > MOST_ENVIRONMENT_FILES:
            yield (
                f"Container {container.get('name')!r} has {len(given)} environment files"
                f"{job.origin('environment_files')}; ECS allows {MOST_ENVIRONMENT_FILES}: join some."
            )


def secrets(job: Job) -> Iterator[str]:
    """ECS reads them from two services."""
    for container in job.containers:
        for secret in container.get("secrets") or []:
            if str(secret.get("valueFrom", "")).startswith("arn:") and not _SECRET.fullmatch(secret["valueFrom"]):
                yield (
                    f"The secret {secret.get('name')} does not come from an ARN of Secrets Manager or of the SSM "
                    "Parameter Store; correct it."
                )
