"""The jobs that `ecs-worker render` and `ecs-worker logs` look at: of the Prefect server, or of files alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ecs_worker.cli.pool import ecs_pool
from ecs_worker.errors import UserError
from ecs_worker.job.configuration import merge_job_variables
from ecs_worker.job.context import FlowRunContext
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.lifecycle.rendering.files import parsed
from ecs_worker.lifecycle.rendering.render import flow_run_context
from ecs_worker.model import ClaimedRun
from ecs_worker.prefect_api.schemas import Flow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import Deployment, FlowRun, WorkPool
    from ecs_worker.settings import JobDefaults, PrefectSettings

# They stand for ids that only a run has, and are shown as what they are.
_CLAIM, _RUN, _FLOW, _DEPLOYMENT, _POOL = (UUID(int=number) for number in range(1, 6))
PLACEHOLDERS = {
    str(_CLAIM): "<claim id>",
    str(_RUN): "<flow run id>",
    str(_FLOW): "<flow id>",
    str(_DEPLOYMENT): "<deployment id>",
    str(_POOL): "<work pool id>",
}
"""Id → the text to show in its place."""
_WORKER = "<worker name>"
_SOME_RUN = ClaimedRun(
    run_id=_RUN,
    name="<flow run name>",
    claim_id=_CLAIM,
    flow_id=_FLOW,
    deployment_id=_DEPLOYMENT,
    job_variables={},
)


_SOME_FLOW = Flow(_FLOW, "<flow name>")


@dataclass(frozen=True, slots=True)
class RenderJob:
    """One job to render. `deployed` are the deployment's variables; the run's are in `context`."""

    template: Mapping[str, Any]
    deployed: Mapping[str, Any]
    context: FlowRunContext


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line gives in place of the work pool's template, and on top of the job's variables."""

    template: Mapping[str, Any] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Jobs:
    """Makes jobs as a worker with these settings would."""

    defaults: JobDefaults
    prefect: PrefectSettings
    given: Given = Given()

    def offline(self) -> RenderJob:
        """The job of what is given alone, in place of a deployment's."""
        context = FlowRunContext(
            run=_SOME_RUN,
            flow_name="<flow name>",
            pool_id=_POOL,
            pool_name="<work pool name>",
            worker_name=_WORKER,
            region="",
            deployment_name="<deployment name>",
            inherited_env=self.prefect.inherited,
            defaults=self.defaults,
        )
        return RenderJob(self.given.template or default_base_job_template(), self.given.variables, context)

    async def of_run(self, api: PrefectClient, found: FlowRun) -> RenderJob:
        """The flow run's job. Raises UserError if it belongs to no pool of ours, and PrefectError."""
        deployment = await api.read_deployment(found.deployment_id) if found.deployment_id else None
        run = replace(
            _SOME_RUN,
            run_id=found.id,
            name=found.name,
            flow_id=found.flow_id,
            deployment_id=found.deployment_id,
            job_variables=merge_job_variables(found.job_variables, self.given.variables),
        )
        return await self._job(api, run, deployment, found.work_pool_name, str(found.id))

    async def of_deployment(self, api: PrefectClient, name: str) -> RenderJob:
        """The job of a new run of the deployment `flow/deployment`. Raises as `of_run`, and if there is no such one."""
        deployment = await api.deployment_by_name(name)
        if deployment is None:
            raise UserError(f"There is no deployment {name!r}: write it as flow/deployment.")
        run = replace(
            _SOME_RUN, flow_id=deployment.flow_id, deployment_id=deployment.id, job_variables=self.given.variables
        )
        return await self._job(api, run, deployment, deployment.work_pool_name, name)

    async def of_pool(self, api: PrefectClient, name: str) -> dict[str, RenderJob]:
        """The jobs of new runs of all the pool's deployments, by what they are called in messages.

        Without deployments: that of a run to which the pool's defaults give all. Raises as `of_run`.
        """
        pool, version = await ecs_pool(api, name), await api.server_version()
        return {
            f"the deployment {each.name} ({each.id})" if each is not None else "the pool's defaults": job
            for each, job in self.in_pool(pool, version, await api.deployments(name))
        }

    def in_pool(
        self, pool: WorkPool, server_version: str | None, deployments: Sequence[Deployment]
    ) -> list[tuple[Deployment | None, RenderJob]]:
        """The same, of a pool and deployments as read before; None stands for the pool's defaults."""
        view = _PoolNow(pool, server_version)
        jobs: list[tuple[Deployment | None, RenderJob]] = []
        for deployment in deployments:
            run = replace(
                _SOME_RUN, flow_id=deployment.flow_id, deployment_id=deployment.id, job_variables=self.given.variables
            )
            jobs.append((deployment, self._in(view, run, _SOME_FLOW, deployment)))
        return jobs or [(None, self._in(view, _SOME_RUN, _SOME_FLOW, None))]

    async def _job(
        self, api: PrefectClient, run: ClaimedRun, deployment: Deployment | None, pool: str | None, words: str
    ) -> RenderJob:
        if not pool:
            raise UserError(f"{words} belongs to no work pool: give it one of type 'ecs'.")
        view = _PoolNow(await ecs_pool(api, pool), await api.server_version())
        return self._in(view, run, await api.read_flow(run.flow_id), deployment)

    def _in(self, view: _PoolNow, run: ClaimedRun, flow: Flow, deployment: Deployment | None) -> RenderJob:
        context = flow_run_context(run, flow, deployment, view, _WORKER, self.defaults, self.prefect)
        deployed = deployment.job_variables if deployment is not None else {}
        return RenderJob(self.given.template or view.pool.base_job_template, deployed, context)


@dataclass(frozen=True, slots=True)
class _PoolNow:
    """The pool as just read."""

    pool: WorkPool
    server_version: str | None
    worker_id: UUID | None = None


def read_mapping(path: Path | None, option: str) -> Mapping[str, Any] | None:
    """A file with a mapping in JSON or YAML, named by an option. Raises UserError that says what is wrong with it."""
    if path is None:
        return None
    try:
        document = parsed(path.read_bytes())
    except OSError as error:
        raise UserError(f"{option} {path} can't be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{option} {path} {error}: correct it.") from None
    if not isinstance(document, dict):
        raise UserError(f"{option} {path} holds no mapping: write names and values, as JSON or YAML.")
    return document
