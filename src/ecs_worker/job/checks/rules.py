"""The list of all rules. Each rule is a function that yields sentences.

A sentence names the field, the value, where it came from and the remedy.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from ecs_worker.errors import JobInvalid
from ecs_worker.job.checks import capacity, containers, environment, logs, network, roles, tags, volumes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ecs_worker.job.job import Job


class _Of(Enum):
    """What a rule is about."""

    RUN = "what can be told without the description of a reused task definition"
    BOTH = "how the two requests go together"
    OURS = "a task definition of our own; a reused one has been judged by ECS"


RULES: tuple[tuple[_Of, Callable[[Job], Iterator[str]]], ...] = (
    (_Of.BOTH, containers.essential),
    (_Of.BOTH, containers.flow_container),
    (_Of.BOTH, containers.not_too_many),
    (_Of.RUN, capacity.one_task),
    (_Of.BOTH, logs.role),
    (_Of.RUN, logs.options),
    (_Of.BOTH, logs.driver),
    (_Of.BOTH, logs.driver_on_fargate),
    (_Of.RUN, capacity.launch_type),
    (_Of.BOTH, capacity.launch_type_fits_definition),
    (_Of.BOTH, capacity.fargate_pair),
    (_Of.BOTH, capacity.windows_on_spot),
    (_Of.BOTH, capacity.fargate_refuses),
    (_Of.BOTH, capacity.only_on_fargate),
    (_Of.RUN, network.public_address_on_fargate),
    (_Of.RUN, capacity.strategy),
    (_Of.BOTH, network.mode),
    (_Of.BOTH, network.public_address),
    (_Of.BOTH, network.not_too_many),
    (_Of.BOTH, roles.execute_command),
    (_Of.BOTH, roles.arns),
    (_Of.BOTH, environment.files),
    (_Of.BOTH, environment.secrets),
    (_Of.RUN, tags.of_task),
    (_Of.RUN, environment.overrides_fit),
    (_Of.BOTH, containers.overrides),
    (_Of.RUN, containers.stop_timeout),
    (_Of.BOTH, containers.privileged),
    (_Of.BOTH, volumes.on_hosts),
    (_Of.RUN, capacity.ephemeral_storage),
    (_Of.RUN, capacity.operating_system),
    (_Of.RUN, environment.not_too_many_files),
    (_Of.RUN, volumes.made_at_launch),
    (_Of.OURS, containers.definition_fits),
    (_Of.OURS, tags.of_definition),
    (_Of.OURS, containers.complete),
    (_Of.OURS, containers.dependencies),
    (_Of.OURS, containers.linux_parameters),
    (_Of.OURS, roles.secrets_and_images),
    (_Of.OURS, logs.stream_prefix),
    (_Of.OURS, volumes.names),
    (_Of.OURS, volumes.mounts),
)


def problems_of(job: Job) -> list[str]:
    """A sentence for each problem that can be told."""
    known = {_Of.RUN: True, _Of.BOTH: job.described, _Of.OURS: not job.configuration.reused_definition}
    return [problem for of, rule in RULES if known[of] for problem in rule(job)]


def check(job: Job) -> None:
    """Raises JobInvalid with every problem of `job`."""
    if problems := problems_of(job):
        raise JobInvalid(problems)
