"""Where containers log.

Source: the ECS developer guide, "Using the awslogs log driver"; LogConfiguration of the ECS API reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ecs_worker.job.job import Job

FARGATE_DRIVERS = ("awslogs", "splunk", "awsfirelens")


def role(job: Job) -> Iterator[str]:
    """Logs are written with the execution role."""
    if job.configuration.configure_cloudwatch_logs and not job.execution_role:
        yield (
            f"configure_cloudwatch_logs is on{job.origin('configure_cloudwatch_logs')}, but the task definition has no "
            f"execution role that may write logs; {job.role_remedy}."
        )


def options(job: Job) -> Iterator[str]:
    """Options alone configure nothing."""
    if job.configuration.cloudwatch_logs_options and not job.configuration.configure_cloudwatch_logs:
        yield (
            f"cloudwatch_logs_options is set{job.origin('cloudwatch_logs_options')}, but configure_cloudwatch_logs "
            "is off; switch it on."
        )


def driver(job: Job) -> Iterator[str]:
    """Fargate writes them with the execution role, too, where the definition configures them itself."""
    if job.execution_role or job.configuration.configure_cloudwatch_logs:
        return
    for container in _on_cloudwatch(job):
        yield (
            f"Container {container.get('name')!r} logs to CloudWatch, which on Fargate needs an execution role; "
            f"{job.role_remedy}."
        )


def driver_on_fargate(job: Job) -> Iterator[str]:
    """Fargate has three of them."""
    for container in job.containers if job.made_for_fargate else ():
        driver = (container.get("logConfiguration") or {}).get("logDriver")
        if driver and driver not in FARGATE_DRIVERS:
            yield (
                f"Container {container.get('name')!r} logs by the driver {driver!r}, which Fargate doesn't have; "
                f"choose {', '.join(FARGATE_DRIVERS[:-1])} or {FARGATE_DRIVERS[-1]}, or launch type EC2."
            )


def stream_prefix(job: Job) -> Iterator[str]:
    """Fargate has no Docker ids to name streams by."""
    for container in _on_cloudwatch(job):
        if not (container["logConfiguration"].get("options") or {}).get("awslogs-stream-prefix"):
            yield (
                f"Container {container.get('name')!r} logs to CloudWatch without awslogs-stream-prefix, which "
                "Fargate needs; add it to its log options."
            )


def _on_cloudwatch(job: Job) -> list[Mapping[str, Any]]:
    """The containers of a definition for Fargate that log there."""
    if not job.made_for_fargate:
        return []
    return [c for c in job.containers if (c.get("logConfiguration") or {}).get("logDriver") == "awslogs"]
