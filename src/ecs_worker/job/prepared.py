"""What one run's container gets from Prefect and the worker: its command, environment and labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecs_worker.job.configuration import JobConfiguration
    from ecs_worker.job.context import FlowRunContext

DEFAULT_COMMAND = "prefect flow-run execute"
RUN_ID = "PREFECT__FLOW_RUN_ID"  # the variable that tells a container which flow run it is to execute


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one run's container gets. `unset` are the variables that the job's env sets to null."""

    command: str
    env: Mapping[str, str] = field(repr=False)
    labels: Mapping[str, str]
    unset: frozenset[str]


def prepare(configuration: JobConfiguration, context: FlowRunContext) -> Prepared:
    """Command, env and labels of one run, in the peer's order; the job's own values win.

    env: inherited PREFECT_ settings < the worker's defaults < the run's identity < the job's env. A null unsets.
    """
    env: dict[str, str | None] = {
        **context.inherited_env,
        **context.defaults.env,
        **_identity_env(context),
        **configuration.env,
    }
    labels = {**context.defaults.labels, **_identity_labels(context), **configuration.labels}
    return Prepared(
        command=configuration.command or DEFAULT_COMMAND,
        env={name: value for name, value in env.items() if value is not None},
        labels={key: value for key, value in labels.items() if value is not None},
        unset=frozenset(name for name, value in configuration.env.items() if value is None),
    )


def _identity_env(context: FlowRunContext) -> dict[str, str]:
    run = context.run
    env = {
        RUN_ID: str(run.run_id),
        "PREFECT__WORKER_NAME": context.worker_name,
        "PREFECT__FLOW_ID": str(run.flow_id),
        "PREFECT__FLOW_NAME": context.flow_name,
    }
    if context.worker_id:
        env["PREFECT__WORKER_ID"] = str(context.worker_id)
    if run.deployment_id:
        env["PREFECT__DEPLOYMENT_ID"] = str(run.deployment_id)
    if context.deployment_name:
        env["PREFECT__DEPLOYMENT_NAME"] = context.deployment_name
    return env


def _identity_labels(context: FlowRunContext) -> dict[str, str]:
    run = context.run
    labels = {
        "prefect.io/flow-run-id": str(run.run_id),
        "prefect.io/flow-run-name": run.name,
        "prefect.io/work-pool-name": context.pool_name,
        "prefect.io/work-pool-id": str(context.pool_id),
        "prefect.io/worker-name": context.worker_name,
        "prefect.io/flow-id": str(run.flow_id),
        "prefect.io/flow-name": context.flow_name,
    }
    if context.server_version:
        labels["prefect.io/version"] = context.server_version
    if run.deployment_id and context.deployment_name:
        labels["prefect.io/deployment-id"] = str(run.deployment_id)
        labels["prefect.io/deployment-name"] = context.deployment_name
        if context.deployment_updated:
            labels["prefect.io/deployment-updated"] = context.deployment_updated.astimezone(UTC).isoformat()
    return labels
