"""Render: from a claimed run to the requests that launch it.

What the job's pure functions need is read here: deployment, flow, blocks, variables, a reused definition, subnets.
Nothing is written, so a process that dies here leaves only the claim.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from ecs_worker.errors import EcsWorkerError, JobInvalid, PrefectNotFound
from ecs_worker.job.assembly import draft, in_network, usable
from ecs_worker.job.attached import (
    document_origins,
    documents,
    ignored_warning,
    with_default_arguments,
    with_documents,
)
from ecs_worker.job.checks.rules import problems_of
from ecs_worker.job.configuration import (
    MOST_NESTED,
    JobConfiguration,
    check_nesting,
    merge_job_variables,
    nested_deeply,
    origins,
    render_configuration,
    unread_environment,
)
from ecs_worker.job.context import FlowRunContext, option_origins
from ecs_worker.job.masking import Redactor
from ecs_worker.job.requests import flow_container_name, log_streams, network_need
from ecs_worker.job.template import UNSET, references, resolve_blocks, resolve_variables
from ecs_worker.job.unread import unknown_variables
from ecs_worker.lifecycle.rendering.lookups import Lookups
from ecs_worker.lifecycle.rendering.sources import WorkerSources
from ecs_worker.model import DEFAULT_CLUSTER, LaunchRequest, Placement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from ecs_worker.aws.session import Aws
    from ecs_worker.job.job import Job
    from ecs_worker.lifecycle.rendering.sources import Sources
    from ecs_worker.model import ClaimedRun
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import Deployment, Flow, WorkPool
    from ecs_worker.settings import JobDefaults, PrefectSettings, WorkerSettings

log = logging.getLogger(__name__)

TAKEN_AS_READ = 10.0  # seconds for a deployment or flow: a burst of its runs asks once


class PoolView(Protocol):
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
        pool_view: PoolView,
    ) -> None:
        self._api = api
        self._settings = settings
        self._prefect = prefect
        self._pool_view = pool_view
        self._sources = WorkerSources(api, aws)
        self._deployments: Lookups[UUID, Deployment | None] = Lookups(TAKEN_AS_READ)
        self._flows: Lookups[UUID, Flow] = Lookups(TAKEN_AS_READ)

    async def render(self, run: ClaimedRun) -> LaunchRequest:
        """The run's requests. Raises JobInvalid, PrefectNotFound (deployment deleted), PrefectError or AwsError."""
        flow = await self._flows.get(run.flow_id, lambda: self._api.read_flow(run.flow_id))
        deployment = await self._deployment(run)
        defaults: JobDefaults = self._settings
        if run.claimed_in is not None and run.claimed_in.cluster != (defaults.cluster or DEFAULT_CLUSTER):
            # Another worker claimed it, and its own default says where the task is, or goes.
            defaults = defaults.model_copy(update={"cluster": run.claimed_in.cluster})
        context = flow_run_context(run, flow, deployment, self._pool_view, self._settings.name, defaults, self._prefect)
        deployed = deployment.job_variables if deployment is not None else {}
        job = await render_job(self._pool_view.pool.base_job_template, deployed, context, self._sources)
        configuration = job.configuration
        return LaunchRequest(
            placement=replace(_placement(job), flow_name=flow.name, deployment_name=context.deployment_name),
            definition=configuration.reused_definition or job.definition,
            run_task=job.run_task,
            deregister=not configuration.reused_definition and configuration.auto_deregister_task_definition,
            match_latest=configuration.match_latest_revision_in_family,
            warnings=tuple(warnings_of(job, self._pool_view.pool.base_job_template, deployed)),
        )

    async def _deployment(self, run: ClaimedRun) -> Deployment | None:
        if run.deployment_id is None:
            return None
        deployment_id = run.deployment_id
        deployment = await self._deployments.get(deployment_id, lambda: self._api.read_deployment(deployment_id))
        if deployment is None:
            raise PrefectNotFound(f"Its deployment {deployment_id} does not exist any more.")
        return deployment


def flow_run_context(
    run: ClaimedRun,
    flow: Flow,
    deployment: Deployment | None,
    pool_view: PoolView,
    worker_name: str,
    defaults: JobDefaults,
    prefect: PrefectSettings,
) -> FlowRunContext:
    """What is known of a run before its job is; the Region follows from the job."""
    updated = datetime.fromisoformat(deployment.updated) if deployment and deployment.updated else None
    return FlowRunContext(
        run=run,
        flow_name=flow.name,
        pool_id=pool_view.pool.id,
        pool_name=pool_view.pool.name,
        worker_name=worker_name,
        worker_id=pool_view.worker_id,
        region="",
        server_version=pool_view.server_version or "",
        deployment_name=deployment.name if deployment is not None else None,
        deployment_updated=updated,
        inherited_env=prefect.inherited,
        defaults=defaults,
    )


async def render_job(
    template: Mapping[str, Any], deployed: Mapping[str, Any], context: FlowRunContext, sources: Sources
) -> Job:
    """The run's job: both requests, and all they were made of.

    `deployed` are the deployment's job variables; the run's own are in `context`. Raises JobInvalid with every
    problem that could be found, and what `sources` raise.
    """
    try:
        job, problems = await assemble(template, deployed, context, sources)
        problems += broken_rules(job, sources)
    except JobInvalid as error:
        problems = [*error.problems]
    except _UNFORESEEN as error:
        problems = [_unforeseen(error)]
    if problems:  # of which a misspelt variable may be the very reason
        unknown = unknown_variables(template, deployed, context.run.job_variables, context.pool_name)
        raise JobInvalid([*problems, *unknown])
    return job


def broken_rules(job: Job, sources: Sources) -> list[str]:
    """What AWS would refuse of a job, a sentence for each; without secrets."""
    try:
        return [job.hidden.hide(problem) for problem in _tellable(problems_of(job), sources)]
    except JobInvalid as error:  # a rule can't read a size that a patch has put in
        return [job.hidden.hide(problem) for problem in error.problems]
    except _UNFORESEEN as error:
        return [_unforeseen(error)]


def warnings_of(job: Job, template: Mapping[str, Any], deployed: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that was said of a valid job in vain. `template` and `deployed` as in `render_job`."""
    own = job.context.run.job_variables
    unread = unread_environment(merge_job_variables(deployed, own), job.context.defaults.lets_read)
    unknown = unknown_variables(template, deployed, own, job.context.pool_name)
    return [*filter(None, [ignored_warning(job.configuration), unread]), *unknown]


async def assemble(
    template: Mapping[str, Any], deployed: Mapping[str, Any], context: FlowRunContext, sources: Sources
) -> tuple[Job, list[str]]:
    """A job as far as it can be made, and the problems on the way; values that can't be used are left out of it.

    Raises JobInvalid, with the problems so far, where nothing can be made without what is wrong.
    """
    came_from = origins(template, deployed, context.run.job_variables, option_origins(context.defaults))
    variables = merge_job_variables(deployed, context.run.job_variables)
    check_nesting(template, variables, came_from)
    unresolved = render_configuration(template, variables, os.environ, context.defaults.lets_read)
    rendered, hidden = await _resolved(unresolved, sources)
    if context.run.claimed_in is not None:
        rendered = _in_region(rendered, context.run.claimed_in.region)
    configuration, problems = JobConfiguration.salvage(rendered, came_from, sources.unread)
    try:
        context = replace(context, region=sources.region(configuration.target))
        defaults = context.defaults
        contents = {document.path: await sources.document(document) for document in documents(configuration, defaults)}
        came_from = document_origins(configuration, contents, defaults, came_from)
        configuration = with_documents(configuration, contents, defaults)
        reused = None
        if name := configuration.reused_definition:
            reused = await sources.definition(configuration.target, name)
        configuration = with_default_arguments(configuration, contents, defaults, reused)
        configuration, unusable = usable(configuration, came_from)
        problems += unusable
        confidential = _changed(unresolved.get("env"), rendered.get("env"))
        job = draft(configuration, context, reused, confidential=confidential, came_from=came_from, hidden=hidden)
        if (need := network_need(job.configuration, context, job.definition)) is not None:
            job = in_network(job, need, await sources.network(configuration.target, need))
    except JobInvalid as error:
        found = [*problems, *error.problems]
        raise JobInvalid([hidden.hide(problem) for problem in _tellable(found, sources) or found]) from None
    except _UNFORESEEN as error:
        raise JobInvalid([*map(hidden.hide, problems), _unforeseen(error)]) from None
    except EcsWorkerError as error:
        error.hide = hidden.hide
        raise
    return job, [hidden.hide(problem) for problem in _tellable(problems, sources)]


def _in_region(rendered: dict[str, Any], region: str) -> dict[str, Any]:
    """For a claim of another worker: with the worker's own credentials, its Region says where the task is, or goes."""
    credentials = rendered.get("aws_credentials") or {}
    if not region or not isinstance(credentials, dict) or any(credentials.values()):
        return rendered
    return {**rendered, "aws_credentials": {"region_name": region}}


def _tellable(problems: Sequence[str], sources: Sources) -> list[str]:
    """Without those that are only told of a text that stands for an unknown value."""
    return [problem for problem in problems if not any(text in problem for text in sources.unread)]


# What a value in a shape that nobody thought of may raise: the last resort, as the job's author can correct it.
_UNFORESEEN = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def _unforeseen(error: Exception) -> str:
    log.debug("No request can be made of the job.", exc_info=error)
    # Not what the error says: it may quote a secret.
    return (
        f"No request can be made of the job ({type(error).__name__}): a job variable, the pool's template or a file "
        "that it names has a value of another kind than ECS takes there; compare them with ECS's API reference."
    )


async def _resolved(rendered: Any, sources: Sources) -> tuple[Any, Redactor]:
    """The second and third pass of Prefect's templating: blocks, then variables, which blocks may name too."""
    blocks, _ = references(rendered)
    data = {block: _flat(f"The block {block}", await sources.block(block)) for block in blocks}
    if data:
        rendered = resolve_blocks(rendered, data)
    _, names = references(rendered)
    values = {name: _flat(f"The Prefect variable {name}", await sources.variable(name)) for name in names}
    if values:
        rendered = resolve_variables(rendered, {name: value for name, value in values.items() if value is not UNSET})
    return rendered, Redactor(*data.values(), values, but=sources.unread)


def _flat(what: str, value: Any) -> Any:
    """The value. Raises JobInvalid if nothing can be made of it."""
    if nested_deeply(value):
        raise JobInvalid([f"{what} is nested more than {MOST_NESTED} levels deep, and no ECS request is; correct it."])
    return value


def _changed(before: Any, after: Any) -> set[str]:
    """The variables of env whose values came out of blocks and Prefect variables."""
    was = before if isinstance(before, dict) else {}
    return {name for name, value in after.items() if was.get(name) != value} if isinstance(after, dict) else set()


def _placement(job: Job) -> Placement:
    configuration, definition = job.configuration, job.definition
    log_stream, side_car_logs = log_streams(configuration, definition, job.context.region)
    return Placement(
        target=replace(configuration.target, region=job.context.region or None),
        cluster=job.run_task.get("cluster", ""),
        container=flow_container_name(configuration, definition),
        log=log_stream,
        output=configuration.output,
        side_car_logs=side_car_logs,
        start_timeout=configuration.start_timeout,
        max_runtime=configuration.max_runtime_seconds,
        watch_interval=configuration.task_watch_poll_interval or None,
        launch_timeout=configuration.launch_timeout_seconds,
        start_attempts=configuration.start_attempts,
        spot_fallback=configuration.spot_fallback,
        hide=job.hidden.hide,
    )
