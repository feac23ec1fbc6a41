"""The task's network: its mode, subnets, security groups and public address.

Source of the limits: AwsVpcConfiguration of the ECS API reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecs_worker.job.requests import CAPACITY, MOST_SUBNETS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ecs_worker.job.job import Job

MOST_SECURITY_GROUPS = 5


def mode(job: Job) -> Iterator[str]:
    """Tasks have subnets in network mode awsvpc, and only there."""
    found = job.definition.get("networkMode")
    if found == "awsvpc" and "networkConfiguration" in job.run_task and not job.network.get("subnets"):
        yield "The task needs subnets: set subnets, network_configuration or vpc_id."
    if found != "awsvpc" and (job.configuration.subnets or job.configuration.security_groups):
        yield (
            f"subnets and security_groups{job.origin('subnets')} need network mode 'awsvpc', but the task definition "
            f"has {found or 'bridge'!r}; change the one or leave out the other."
        )
    elif found != "awsvpc" and job.network:
        yield (
            f"RunTask's networkConfiguration{job.origin('run_task_kwargs')} needs network mode 'awsvpc', but the task "
            f"definition has {found or 'bridge'!r}; change the one or leave out the other."
        )


def public_address(job: Job) -> Iterator[str]:
    """ECS takes two words for yes and no."""
    public = job.network.get("assignPublicIp", "DISABLED")
    if public not in {"ENABLED", "DISABLED"}:
        yield f"assignPublicIp is {public!r}{job.origin('network_configuration')}; write ENABLED or DISABLED."


def public_address_on_fargate(job: Job) -> Iterator[str]:
    """Tasks elsewhere get none. Which capacity the cluster's default is, nobody knows."""
    asked = job.run_task.keys() & CAPACITY
    if asked and not job.on_fargate and job.network.get("assignPublicIp") == "ENABLED":
        yield (
            f"The task gets a public address{job.origin('assign_public_ip') or job.origin('network_configuration')}, "
            "which ECS gives only to tasks on Fargate; set assign_public_ip to false."
        )


def not_too_many(job: Job) -> Iterator[str]:
    """Of subnets and security groups."""
    limits = (("subnets", "subnets", MOST_SUBNETS), ("securityGroups", "security_groups", MOST_SECURITY_GROUPS))
    for key, variable, most in limits:
        came_from = job.source(variable, "network_configuration", "run_task_kwargs", "run_task_patch")
        given = job.network.get(key) or []
        if len(given) > most:
            yield f"The network configuration has {len(given)} {key}{came_from}, but ECS allows {most}; name fewer."
