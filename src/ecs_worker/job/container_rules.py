"""Rules of containers, their environment and their volumes, as `rules` has them: each yields sentences.

Source of the limits: API_ContainerDefinition, API_Volume, API_TaskManagedEBSVolumeConfiguration of the ECS API
reference.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from ecs_worker.job.requests import flow_container_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ecs_worker.job.rules import Job

MOST_ENVIRONMENT_FILES = 10
STOP_TIMEOUTS = (2, 120)  # seconds, on Fargate
EPHEMERAL_STORAGE = (21, 200)  # GiB

_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_ECR_IMAGE = re.compile(r"\d{12}\.dkr\.ecr\.")


def complete_containers(job: Job) -> Iterator[str]:
    """Each needs a name of its own, an image, and, where the task has none, memory."""
    if any(not container.get("name") for container in job.containers):
        yield "A container of the task definition has no name; give each one."
    names = [str(container["name"]) for container in job.containers if container.get("name")]
    for same in repeated(names):
        yield f"The task definition has several containers named {same!r}; rename all but one."
    for container in job.containers:
        name = container.get("name")
        if name and not _NAME.fullmatch(str(name)):
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
        yield f"The containers {', '.join(stuck)} wait for each other; mend their dependsOn."


def overrides_have_containers(job: Job) -> Iterator[str]:
    """RunTask changes only containers that are there."""
    names = [str(container.get("name")) for container in job.containers]
    flow = flow_container_name(job.configuration, job.definition)  # is judged by another rule
    for override in (job.run_task.get("overrides") or {}).get("containerOverrides") or []:
        if override.get("name") not in {*names, flow}:
            which = f"for container {override['name']!r}" if override.get("name") else "without a container's name"
            yield (
                f"The RunTask request{_request_origin(job)} has an override {which}; name one of the task "
                f"definition's, {', '.join(names)}, or leave it out."
            )


def need_execution_role(job: Job) -> Iterator[str]:
    """Who reads secrets, fetches images and writes logs for the container is the execution role."""
    if job.definition.get("executionRoleArn"):
        return
    for container in job.containers:
        name = container.get("name")
        if container.get("secrets"):
            yield f"Container {name!r} has secrets, which takes an execution role; set execution_role_arn."
        if job.made_for_fargate and _ECR_IMAGE.match(str(container.get("image"))):
            yield (
                f"Container {name!r} has an image on ECR{job.origin('image')}, which on Fargate takes an execution "
                "role; set execution_role_arn."
            )


def log_streams_have_names(job: Job) -> Iterator[str]:
    """Fargate has no Docker ids to name streams by."""
    if not job.made_for_fargate:
        return
    for container in job.containers:
        log = container.get("logConfiguration") or {}
        if log.get("logDriver") == "awslogs" and not (log.get("options") or {}).get("awslogs-stream-prefix"):
            yield (
                f"Container {container.get('name')!r} logs to CloudWatch without awslogs-stream-prefix, which "
                "Fargate needs; add it to its log options."
            )


def platform(job: Job) -> Iterator[str]:
    """What Fargate gives a container."""
    low, high = STOP_TIMEOUTS
    for container in job.containers if job.made_for_fargate else ():
        seconds = container.get("stopTimeout", low)
        if not _between(seconds, low, high):
            yield (
                f"stop_timeout_seconds is {seconds!r}{job.origin('stop_timeout_seconds')} for container "
                f"{container.get('name')!r}, but Fargate allows {low} to {high}; correct it."
            )
    low, high = EPHEMERAL_STORAGE
    for request in (job.definition, job.run_task.get("overrides") or {}):
        size = (request.get("ephemeralStorage") or {}).get("sizeInGiB", low)
        if not _between(size, low, high):
            yield f"ephemeralStorage is {size!r} GiB, but ECS gives {low} to {high}; correct sizeInGiB."
    family = (job.definition.get("runtimePlatform") or {}).get("operatingSystemFamily", "LINUX")
    if not re.fullmatch(r"LINUX|WINDOWS_SERVER_[A-Z0-9_]+", str(family)):
        yield (
            f"operating_system_family is {family!r}{job.origin('operating_system_family')}, which ECS doesn't know; "
            "write LINUX or, say, WINDOWS_SERVER_2022_CORE."
        )


def environment_files(job: Job) -> Iterator[str]:
    """Of a container's files in the definition and in the overrides."""
    overrides = (job.run_task.get("overrides") or {}).get("containerOverrides") or []
    for container in [*job.containers, *overrides]:
        files = container.get("environmentFiles") or []
        if len(files) > MOST_ENVIRONMENT_FILES:
            yield (
                f"Container {container.get('name')!r} has {len(files)} environment files"
                f"{job.origin('environment_files')}; ECS allows {MOST_ENVIRONMENT_FILES}: join some."
            )


def volumes(job: Job) -> Iterator[str]:
    """Volumes have proper names, and one path holds one of them."""
    came_from = job.origin("volumes")
    names = [str(volume.get("name")) for volume in job.definition.get("volumes") or []]
    for name in names:
        if not _NAME.fullmatch(name):
            yield (
                f"The volume name {name!r}{came_from} has other characters than letters, digits, - and _, or too "
                "many; rename it."
            )
    for name in repeated(names):
        yield f"The task definition has several volumes named {name!r}{came_from}; rename all but one."
    for container in job.containers:
        mounts = container.get("mountPoints") or []
        for path in repeated(str(mount.get("containerPath")) for mount in mounts):
            yield (
                f"Container {container.get('name')!r} mounts several volumes at {path!r}{came_from}; give each its own "
                "mount_path."
            )
        for volume in sorted({str(mount.get("sourceVolume")) for mount in mounts} - set(names)):
            yield (
                f"Container {container.get('name')!r} mounts the volume {volume!r}, which the task definition "
                "doesn't have; add it to its volumes."
            )


def volumes_made_at_launch(job: Job) -> Iterator[str]:
    """ECS makes EBS volumes with a role, of a size or from a snapshot."""
    for volume in job.run_task.get("volumeConfigurations") or []:
        made = volume.get("managedEBSVolume") or {}
        missing = ["roleArn"] * (not made.get("roleArn"))
        missing += ["sizeInGiB or snapshotId"] * (not (made.get("sizeInGiB") or made.get("snapshotId")))
        if missing:
            yield (
                f"The volume {volume.get('name')!r}{job.origin('volumes')} has no {' and no '.join(missing)}; add it "
                "to its managedEBSVolume."
            )


def _request_origin(job: Job) -> str:
    return job.origin("run_task_kwargs") or job.origin("run_task_patch")


def repeated(texts: Iterable[str]) -> list[str]:
    """Those that are there more than once."""
    return [text for text, count in Counter(texts).items() if count > 1]


def _between(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high
