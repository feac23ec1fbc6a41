"""Where the task runs: launch type, capacity providers, and what Fargate runs.

Source of the limits: RunTask and CapacityProviderStrategyItem of the ECS API reference; the developer guide on Fargate.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ecs_worker.job.requests import (
    CAPACITY,
    DEFAULT_CPU,
    DEFAULT_MEMORY,
    MANAGED_INSTANCES,
    launch_type_of,
)
from ecs_worker.job.shapes import MOST_BASE, MOST_WEIGHT
from ecs_worker.job.sizes import (
    EPHEMERAL_STORAGE,
    cpu_units,
    fargate_runs,
    memory_mib,
    next_fargate_pair,
    whole_number,
)
from ecs_worker.model import FARGATE_PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ecs_worker.job.job import Job

LAUNCH_TYPES = ("FARGATE", "EC2", "EXTERNAL")
MOST_PROVIDERS = 20

_OPERATING_SYSTEM = re.compile(r"LINUX|WINDOWS_SERVER_[A-Z0-9_]+")


def one_task(job: Job) -> Iterator[str]:
    """RunTask could launch several."""
    if (count := job.run_task.get("count", 1)) != 1:
        yield f"RunTask's count is {count!r}{job.origin('run_task_kwargs')}, but a flow run is one task; leave it out."


def launch_type(job: Job) -> Iterator[str]:
    """One that ECS knows, and no strategy beside it."""
    wanted = job.run_task.get("launchType")
    if wanted is None:
        return
    if wanted == MANAGED_INSTANCES:
        yield (
            f"launch_type is {wanted!r}{job.origin('launch_type')}, but Managed Instances are reached by a capacity "
            "provider: leave launch_type out, and name theirs in capacity_provider_strategy."
        )
    elif wanted not in LAUNCH_TYPES:
        yield (
            f"launch_type is {wanted!r}{job.origin('launch_type')}, which ECS doesn't know; choose "
            f"{', '.join(LAUNCH_TYPES)} or FARGATE_SPOT."
        )
    if job.run_task.get("capacityProviderStrategy"):
        yield (
            f"run_task_patch{job.origin('run_task_patch')} has both launchType and capacityProviderStrategy, which "
            "exclude each other; leave one out."
        )


def launch_type_fits_definition(job: Job) -> Iterator[str]:
    """What the definition requires, and its network mode."""
    wanted = "FARGATE" if job.on_fargate else job.run_task.get("launchType")
    if wanted not in LAUNCH_TYPES:
        return
    if any(job.configuration.run_task_patch.get(key) for key in CAPACITY):
        said = f"run_task_patch{job.origin('run_task_patch')} chooses {wanted}"
    elif job.configuration.task_run_request.get("capacityProviderStrategy"):
        said = f"capacity_provider_strategy{job.origin('capacity_provider_strategy')} is for Fargate"
    else:
        chosen = launch_type_of(job.configuration, job.context, job.definition)
        said = f"launch_type is {chosen!r}{job.origin('launch_type')}"
    required = job.definition.get("requiresCompatibilities") or []
    # Definitions made for Fargate also run on EC2.
    if required and wanted not in required and not (wanted == "EC2" and "FARGATE" in required):
        yield (
            f"{said}, but the task definition requires {', '.join(required)}; change the one or its "
            "requiresCompatibilities."
        )
    network_mode = job.definition.get("networkMode")
    if wanted == "FARGATE" and network_mode != "awsvpc":
        yield (
            f"{said}, which needs network mode 'awsvpc', but the task definition has {network_mode or 'bridge'!r}; "
            "leave networkMode out or choose launch type EC2."
        )
    if wanted == "EXTERNAL" and network_mode == "awsvpc":
        yield f"{said}, which has no network mode 'awsvpc': leave out networkMode, subnets and security_groups."


def fargate_pair(job: Job) -> Iterator[str]:
    """Fargate runs only some pairs of CPU and memory."""
    if not job.on_fargate:
        return
    cpu = cpu_units(job.overrides.get("cpu") or job.definition.get("cpu") or DEFAULT_CPU)
    memory = memory_mib(job.overrides.get("memory") or job.definition.get("memory") or DEFAULT_MEMORY)
    if fargate_runs(cpu, memory, windows=job.on_windows):
        return
    pair = next_fargate_pair(cpu, memory, windows=job.on_windows)
    remedy = (
        f"take cpu {pair[0]} with memory {pair[1]}, the next that it runs, or set round_up_resources"
        if pair
        else "take less, or another launch type"
    )
    yield (
        f"cpu {cpu}{job.origin('cpu')} with memory {memory}{job.origin('memory')} is no pair that Fargate runs"
        f"{' for Windows' if job.on_windows else ''}: {remedy}."
    )


def windows_on_spot(job: Job) -> Iterator[str]:
    """Only Linux is interrupted."""
    providers = {item.get("capacityProvider") for item in job.run_task.get("capacityProviderStrategy") or []}
    if job.on_windows and "FARGATE_SPOT" in providers:
        strategy = job.configuration.task_run_request.get("capacityProviderStrategy")
        patched = job.configuration.run_task_patch.get("capacityProviderStrategy")
        said_by = "run_task_patch" if patched else "capacity_provider_strategy" if strategy else "launch_type"
        yield (
            f"The task may run on FARGATE_SPOT{job.origin(said_by)}, which has no Windows"
            f"{job.origin('operating_system_family')}; choose FARGATE."
        )


def fargate_refuses(job: Job) -> Iterator[str]:
    """What only instances have."""
    refused = ["gpu"] * job.made_for_fargate + ["placement_constraints", "placement_strategy"] * job.on_fargate
    for name in refused:
        if job.configuration.says(name):
            yield f"{name}{job.origin(name)} has no use on Fargate, which refuses it; choose launch type EC2."


def only_on_fargate(job: Job) -> Iterator[str]:
    """What only Fargate has."""
    if not job.off_fargate:
        return
    for name in ("ephemeral_storage_gib", "platform_version"):
        if job.configuration.says(name):
            yield f"{name}{job.origin(name)} is only for Fargate; leave it out or choose launch type FARGATE."


def strategy(job: Job) -> Iterator[str]:
    """Each item is complete, and they go together."""
    items = job.run_task.get("capacityProviderStrategy") or []
    if not items:
        return
    said = f"capacity_provider_strategy{job.origin('capacity_provider_strategy')}"
    for item in items:
        if not item.get("capacityProvider"):
            yield f"{said} has an item without capacityProvider; name one in each."
        for key, most in (("weight", MOST_WEIGHT), ("base", MOST_BASE)):
            if not whole_number(value := item.get(key, 0), 0, most):
                yield f"{said} has an item with {key} {value!r}; write a number from 0 to {most}."
    if len(items) > MOST_PROVIDERS:
        yield f"{said} has {len(items)} items; ECS allows {MOST_PROVIDERS}."
    names = {str(item.get("capacityProvider")) for item in items}
    if names & FARGATE_PROVIDERS and names - FARGATE_PROVIDERS:
        yield f"{said} mixes Fargate with {', '.join(sorted(names - FARGATE_PROVIDERS))}; ECS wants one kind."
    if not any(item.get("weight") for item in items):
        yield f"{said} has no item with a weight above 0; give one."
    if sum(bool(item.get("base")) for item in items) > 1:
        yield f"{said} has several items with a base; ECS allows one."


def ephemeral_storage(job: Job) -> Iterator[str]:
    """Of the definition and of the overrides."""
    least, most = EPHEMERAL_STORAGE
    for request in (job.definition, job.overrides):
        size = (request.get("ephemeralStorage") or {}).get("sizeInGiB", least)
        if not whole_number(size, least, most):
            yield f"ephemeralStorage is {size!r} GiB, but ECS gives {least} to {most}; correct sizeInGiB."


def operating_system(job: Job) -> Iterator[str]:
    """One that ECS knows."""
    family = (job.definition.get("runtimePlatform") or {}).get("operatingSystemFamily", "LINUX")
    if not _OPERATING_SYSTEM.fullmatch(str(family)):
        yield (
            f"operating_system_family is {family!r}{job.origin('operating_system_family')}, which ECS doesn't know; "
            "write LINUX or, say, WINDOWS_SERVER_2022_CORE."
        )
