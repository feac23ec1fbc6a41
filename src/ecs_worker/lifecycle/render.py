"""Render: from a claimed run to the requests that launch it.

What the job's pure functions need is read here: deployment, flow, blocks, variables, a reused definition, subnets.
Nothing is written, so a process that dies here leaves only the claim.
"""

from __future__ import annotations

import logging
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from ecs_worker.errors import JobInvalid, PrefectNotFound
from ecs_worker.job.configuration import (
    FlowRunContext,
    JobConfiguration,
    WorkerDefaults,
    merge_job_variables,
    origins,
    render_configuration,
)
from ecs_worker.job.documents import derived, ignored_variables
from ecs_worker.job.requests import (
    flow_container_name,
    log_stream,
    network_configuration,
    network_need,
    prepare_definition,
    prepare_run_task,
)
from ecs_worker.job.rules import Job, check
from ecs_worker.job.template import references, resolve_blocks, resolve_variables
from ecs_worker.lifecycle.cache import Lookups
from ecs_worker.model import LaunchRequest, Placement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from ecs_worker.aws.ecs import Definition
    from ecs_worker.aws.session import Aws
    from ecs_worker.job.requests import NetworkNeed
    from ecs_worker.job.template import BlockReference
    from ecs_worker.model import ClaimedRun
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import Deployment, Flow, WorkPool
    from ecs_worker.settings import PrefectSettings, WorkerSettings

log = logging.getLogger(__name__)

FRESH = 10.0  # seconds that a deployment or flow is taken as read: a burst of its runs asks once
NETWORK_FRESH = 300.0  # seconds for subnets and reused definitions, which hardly change


class Surroundings(Protocol):
    """What is known of the pool and the server; the heartbeat keeps it fresh."""

    @property
    def pool(self) -> WorkPool:
        """The pool, with its base job template."""

    @property
    def server_version(self) -> str | None:
        """None on Cloud."""

    @property
    def worker_id(self) -> UUID | None:
        """Only Cloud tells it."""


class Render:
    """Renders one run at a time; look-ups are shared between runs for a moment."""

    def __init__(
        self,
        api: PrefectClient,
        aws: Aws,
        settings: WorkerSettings,
        prefect: PrefectSettings,
        surroundings: Surroundings,
    ) -> None:
        self._api = api
        self._aws = aws
        self._settings = settings
        self._prefect = prefect
        self._surroundings = surroundings
        self._deployments: Lookups[UUID, Deployment | None] = Lookups(FRESH)
        self._flows: Lookups[UUID, Flow] = Lookups(FRESH)
        self._definitions: Lookups[tuple[tuple[str, str], str], Definition] = Lookups(NETWORK_FRESH)
        self._subnets: Lookups[tuple[tuple[str, str], str | None], list[str]] = Lookups(NETWORK_FRESH)

    async def once(self, run: ClaimedRun) -> LaunchRequest:
        """The run's requests. Raises JobInvalid, PrefectNotFound (deployment deleted), PrefectError or AwsError."""
        flow = await self._flows.get(run.flow_id, lambda: self._api.read_flow(run.flow_id))
        deployment = await self._deployment(run)
        configuration, came_from = await self._configure(run, deployment)
        context = self._context(run, flow, deployment, configuration)

        reused = await self._reused(configuration)
        if reused is not None and configuration.derive_task_definition:
            container = flow_container_name(configuration, reused)
            configuration, reused = derived(configuration, reused, container), None
        prepared = prepare_definition(configuration, context) if reused is None else None
        definition = reused if prepared is None else prepared
        assert definition is not None, "a definition is either reused or prepared"
        if ignored := ignored_variables(configuration):
            log.warning("%s reuses a task definition as it is: %s have no effect.", run.name, ", ".join(ignored))

        need = network_need(configuration, definition)
        network = network_configuration(need, await self._subnets_of(configuration, need)) if need else None
        run_task = prepare_run_task(configuration, context, definition, network)
        check(Job(configuration, context, definition, run_task, came_from))
        return LaunchRequest(
            placement=_placement(configuration, context, definition, run_task),
            definition=configuration.reused_definition or definition,
            run_task=run_task,
            deregister=prepared is not None and configuration.auto_deregister_task_definition,
            match_latest=configuration.match_latest_revision_in_family,
        )

    async def _deployment(self, run: ClaimedRun) -> Deployment | None:
        if run.deployment_id is None:
            return None
        deployment_id = run.deployment_id
        deployment = await self._deployments.get(deployment_id, lambda: self._api.read_deployment(deployment_id))
        if deployment is None:
            raise PrefectNotFound(f"Its deployment {deployment_id} does not exist any more.")
        return deployment

    async def _configure(
        self, run: ClaimedRun, deployment: Deployment | None
    ) -> tuple[JobConfiguration, dict[str, str]]:
        """The three passes of Prefect's templating, then validation; and where each variable came from."""
        template = self._surroundings.pool.base_job_template
        deployed = deployment.job_variables if deployment is not None else {}
        variables = merge_job_variables(deployed, run.job_variables)
        rendered: Any = render_configuration(template, variables, os.environ)
        blocks, _ = references(rendered)
        if blocks:
            rendered = resolve_blocks(rendered, {block: await self._read_block(block) for block in blocks})
        _, names = references(rendered)
        if names:
            values = {name: value for name in names if (value := await self._api.read_variable(name)) is not None}
            rendered = resolve_variables(rendered, values)
        came_from = origins(template, deployed, run.job_variables)
        return JobConfiguration.load(rendered, came_from), came_from

    async def _read_block(self, block: BlockReference) -> dict[str, Any]:
        """A block's data, secrets included: it is never logged."""
        try:
            if block.document_id:
                return await self._api.read_block_document(block.document_id)
            return await self._api.read_block_document_by_name(block.type_slug, block.name)
        except PrefectNotFound:
            raise JobInvalid(
                [f"The block {block} that the job's template or variables name does not exist; create or correct it."]
            ) from None

    def _context(
        self, run: ClaimedRun, flow: Flow, deployment: Deployment | None, configuration: JobConfiguration
    ) -> FlowRunContext:
        around = self._surroundings
        return FlowRunContext(
            run=run,
            flow_name=flow.name,
            flow=flow.document,
            pool_id=around.pool.id,
            pool_name=around.pool.name,
            worker_name=self._settings.name,
            worker_id=around.worker_id,
            region=self._aws.region(configuration.target) or "",
            server_version=around.server_version or "",
            deployment_name=deployment.name if deployment is not None else None,
            deployment_updated=datetime.fromisoformat(deployment.updated)
            if deployment and deployment.updated
            else None,
            inherited_env=self._prefect.inherited,
            defaults=WorkerDefaults(cluster=self._settings.cluster),
        )

    async def _reused(self, configuration: JobConfiguration) -> Mapping[str, Any] | None:
        """The definition that the job reuses, if it does; ECS knows its containers and its network mode."""
        name = configuration.reused_definition
        if name is None:
            return None
        ecs = await self._aws.ecs(configuration.target)
        found = await self._definitions.get((configuration.target.key, name), lambda: ecs.describe_definition(name))
        return found.request

    async def _subnets_of(self, configuration: JobConfiguration, need: NetworkNeed) -> list[str]:
        ec2 = await self._aws.ec2(configuration.target)

        async def ask() -> list[str]:
            vpc_id = need.vpc_id or await ec2.default_vpc()
            return await ec2.subnets(vpc_id) if vpc_id else []

        return await self._subnets.get((configuration.target.key, need.vpc_id), ask)


def _placement(
    configuration: JobConfiguration,
    context: FlowRunContext,
    definition: Mapping[str, Any],
    run_task: Mapping[str, Any],
) -> Placement:
    return Placement(
        target=configuration.target,
        cluster=run_task.get("cluster", ""),
        container=flow_container_name(configuration, definition),
        log=log_stream(configuration, definition, context.region),
        output=configuration.output,
        start_timeout=configuration.start_timeout,
        max_runtime=configuration.max_runtime_seconds,
        watch_interval=configuration.task_watch_poll_interval or None,
        launch_timeout=configuration.launch_timeout_seconds,
        start_attempts=configuration.start_attempts,
        spot_fallback=configuration.spot_fallback,
    )
