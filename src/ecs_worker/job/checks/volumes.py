"""Volumes and where containers mount them.

Source of the limits: Volume, MountPoint and TaskManagedEBSVolumeConfiguration of the ECS API reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecs_worker.job.names import VALID_NAME, repeated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ecs_worker.job.job import Job


def names(job: Job) -> Iterator[str]:
    """Each has a proper one of its own."""
    came_from = job.origin("volumes")
    given = _names(job)
    for name in given:
        if not VALID_NAME.fullmatch(name):
            yield (
                f"The volume name {name!r}{came_from} has other characters than letters, digits, - and _, or too "
                "many; rename it."
            )
    for name in repeated(given):
        yield f"The task definition has several volumes named {name!r}{came_from}; rename all but one."


def mounts(job: Job) -> Iterator[str]:
    """One path holds one volume, which is there."""
    for container in job.containers:
        points = container.get("mountPoints") or []
        for path in repeated(str(point.get("containerPath")) for point in points):
            yield (
                f"Container {container.get('name')!r} mounts several volumes at {path!r}{job.origin('volumes')}; give "
                "each its own mount_path."
            )
        for volume in sorted({str(point.get("sourceVolume")) for point in points} - set(_names(job))):
            yield (
                f"Container {container.get('name')!r} mounts the volume {volume!r}, which the task definition "
                "doesn't have; add it to its volumes."
            )


def on_hosts(job: Job) -> Iterator[str]:
    """On Fargate there is no host to share a path of."""
    for volume in (job.definition.get("volumes") or []) if job.made_for_fargate else ():
        if (volume.get("host") or {}).get("sourcePath"):
            yield (
                f"The volume {volume.get('name')!r}{job.origin('volumes')} has a host.sourcePath, which Fargate "
                "refuses; leave that out, or choose launch type EC2."
            )


def made_at_launch(job: Job) -> Iterator[str]:
    """ECS makes EBS volumes with a role, of a size or from a snapshot."""
    for volume in job.run_task.get("volumeConfigurations") or []:
        made = volume.get("managedEBSVolume") or {}
        missing = ["roleArn"] * (not made.get("roleArn"))
        missing += ["sizeInGiB or snapshotId"] * (not (made.get("sizeInGiB") or made.get("snapshotId")))
        if missing:
            role = " The role is one that ecs.amazonaws.com may assume." if missing[0] == "roleArn" else ""
            yield (
                f"The volume {volume.get('name')!r}{job.origin('volumes')} has no {' and no '.join(missing)}; add it "
                f"to its managedEBSVolume.{role}"
            )


def _names(job: Job) -> list[str]:
    return [str(volume.get("name")) for volume in job.definition.get("volumes") or []]
