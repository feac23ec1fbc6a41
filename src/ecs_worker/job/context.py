"""What is known about a run beside its job, and what the worker gives its jobs."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ecs_worker.settings import JobDefaults, option

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from ecs_worker.model import ClaimedRun

# Options that name a file are job variables of another name: there, the plain one holds the content itself.
_VARIABLES = {"task_definition": "task_definition_path", "run_task_kwargs": "run_task_kwargs_path"}


@dataclass(frozen=True, slots=True)
class FlowRunContext:
    """What is known about a run beside its job: who runs what, and where.

    `inherited_env` are the worker's PREFECT_ settings. `server_version` may be empty: unknown. `region` is where
    the task runs. A default in the pool's template beats `defaults`: their `launch_type` only counts where the
    template has none, or a job sets null.
    """

    run: ClaimedRun
    flow_name: str
    pool_id: UUID
    pool_name: str
    worker_name: str
    region: str
    server_version: str = ""
    worker_id: UUID | None = None
    deployment_name: str | None = None
    deployment_updated: datetime | None = None
    inherited_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    defaults: JobDefaults = field(default_factory=JobDefaults)
    python_version: str = f"{sys.version_info.major}.{sys.version_info.minor}"


def given_options(defaults: JobDefaults) -> dict[str, str]:
    """The worker's options that give its jobs something: setting → the option, in words for messages."""
    given = (name for name in JobDefaults.model_fields if getattr(defaults, name))
    return {name: f"the worker's {option(JobDefaults, name)}" for name in given}


def option_origins(defaults: JobDefaults) -> dict[str, str]:
    """Job variable → the worker's option that gives it, in words for messages."""
    return {_VARIABLES.get(name, name): words for name, words in given_options(defaults).items()}
