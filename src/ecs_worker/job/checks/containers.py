"""The containers of the task definition, and what RunTask changes of them.

Source of the limits: RegisterTaskDefinition and ContainerDefinition of the ECS API reference.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ecs_worker.job.names import VALID_NAME, repeated
from ecs_worker.job.requests import flow_container_name
from ecs_worker.job.sizes import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ecs_worker.job.job import Job

MOST_CONTAINERS = 10
MOST_DEFINITION = 65_536  # bytes
STOP_TIMEOUT = (2, 120)  # seconds, on Fargate


def essential(job: Job) -> Iterator[str]:
    """One at least must be."""
    if job.containers and all(container.get("essential") is False for container in job.containers):
        yield "No container of the task definition is essential; leave `essential` out for the one that runs the flow."


def flow_container(job: Job) -> Iterator[str]:
    """The container that is to run the flow is there."""
    name = flow_container_name(job.configuration, job.definition)
    names = [str(container["name"]) for container in job.containers if container.get("name")]
    if name not in names:
        given = job.configuration.container_name or name
        yield (
            f"container_name is {given!r}{job.origin('container_name')}, but the task definition has only "
            f"{', '.join(names) or 'none'}; name one of these."
        )


def not_too_many(job: Job) -> Iterator[str]:
    """A task has ten at most."""
    if len(job.containers) > MOST_CONTAINERS:
        came_from = job.source("task_definition_path", "task_definition", "task_definition_patch")
        yield (
            f"The task definition{came_from} has {len(job.containers)} containers, but ECS allows {MOST_CONTAINERS}; "
            "leave some out."
        )


def complete(job: Job) -> Iterator[str]:
    """Each needs a name of its own, an image, and, where the task has none, memory."""
    if any(not container.get("name") for container in job.containers):
        yield "A container of the task definition has no name; give each one."
    names = [str(container["name"]) for container in job.containers if container.get("name")]
    for same in repeated(names):
        yield f"The task definition has several containers named {same!r}; rename all but one."
    for container in job.containers:
        name = container.get("name")
        if name and not VALID_NAME.fullmatch(str(name)):
            yield f"The container name {name!r} has other characters than letters, digits, - and _; rename it."
        if not container.get("image"):
            yield f"Container {name!r} of the task definition has no image; give it one."
        if not (container.get("memory") or container.get("memoryReservation") or job.definition.get("memory")):
            yield f"Container {name!r} has no memory, nor has the task definition; set its memory."


def dependencies(job: Job) -> Iterator[str]:
    """`dependsOn` names other containers, and never leads back."""
    after = {
        str(container.get("name")): [str(item.get("containerName")) for item in container.get("dependsOn") or []]
        for container in job.containers
    }
    unknown = {(name, other) for name, wanted in after.items() for other in wanted if other not in after}
    for name, other in sorted(unknown):
        yield f"Container {name!r} depends on {other!r}, which the task definition doesn't have; correct dependsOn."
    free: set[str] = set()
    while ready := {name for name, wanted in after.items() if name not in free and free.issuperset(wanted)}:
        free |= ready
    if not unknown and (stuck := [name for name in after if name not in free]):
        yield f"The containers {', '.join(stuck)} wait for each other; correct their dependsOn."


def overrides(job: Job) -> Iterator[str]:
    """RunTask changes only containers that are there."""
    names = [str(container.get("name")) for container in job.containers]
    flow = flow_container_name(job.configuration, job.definition)  # `flow_container` judges it
    came_from = job.origin("run_task_kwargs") or job.origin("run_task_patch")
    for override in job.container_overrides:
        if override.get("name") not in {*names, flow}:
            which = f"for container {override['name']!r}" if override.get("name") else "without a container's name"
            yield (
                f"The RunTask request{came_from} has an override {which}; name one of the task definition's, "
                f"{', '.join(names)}, or leave it out."
            )


def stop_timeout(job: Job) -> Iterator[str]:
    """What Fargate allows."""
    least, most = STOP_TIMEOUT
    for container in job.containers if job.made_for_fargate else ():
        seconds = container.get("stopTimeout", least)
        if not whole_number(seconds, least, most):
            yield (
                f"stop_timeout_seconds is {seconds!r}{job.origin('stop_timeout_seconds')} for container "
                f"{container.get('name')!r}, but Fargate allows {least} to {most}; correct it."
            )


def privileged(job: Job) -> Iterator[str]:
    """On Fargate there is no host to have rights on."""
    for container in job.containers if job.made_for_fargate else ():
        if container.get("privileged"):
            yield (
                f"Container {container.get('name')!r} is privileged, which Fargate refuses; leave that out, or choose "
                "launch type EC2."
            )


def linux_parameters(job: Job) -> Iterator[str]:
    """Windows has none."""
    flow = flow_container_name(job.configuration, job.definition)
    for container in job.containers if job.on_windows else ():
        if container.get("linuxParameters"):
            by_variable = container.get("name") == flow and job.configuration.linux_init is not None
            said = f"linux_init{job.origin('linux_init')}" if by_variable else "linuxParameters"
            yield f"Container {container.get('name')!r} has {said}, which Windows doesn't have; leave that out."


def definition_fits(job: Job) -> Iterator[str]:
    """The whole request has a limit."""
    length = len(json.dumps(job.definition, separators=(",", ":")).encode())
    if length > MOST_DEFINITION:
        yield f"The task definition has {length} bytes; ECS allows {MOST_DEFINITION}: set less env or a smaller patch."
