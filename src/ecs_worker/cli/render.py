"""`ecs-worker render`: what would be sent to AWS, without asking AWS."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID  # noqa: TC003 - likewise

import typer

from ecs_worker.cli.options import option
from ecs_worker.cli.pool import as_json, ecs_pool, show_difference
from ecs_worker.cli.server import prefect_api, prefect_settings
from ecs_worker.errors import JobInvalid, UserError
from ecs_worker.settings import JobDefaults, JobSettings, PrefectSettings, load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecs_worker.cli.preview import Preview, RenderJob
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import Deployment, WorkPool

_WORKER = "<worker name>"


class Format(StrEnum):
    """How the requests are written."""

    JSON = "json"
    YAML = "yaml"


def render(
    deployment: Annotated[
        str | None,
        typer.Option("--deployment", "-d", metavar="FLOW/NAME", help="Render a run of this deployment."),
    ] = None,
    flow_run: Annotated[UUID | None, typer.Option(metavar="ID", help="Render this flow run.")] = None,
    base_job_template: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Base job template (JSON or YAML) in place of the work pool's."),
    ] = None,
    job_variables: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Job variables (JSON or YAML) on top of the deployment's and the run's."),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How the requests are written.")] = Format.JSON,
    explain: Annotated[bool, typer.Option("--explain", help="Say for each value where it came from.")] = False,
    diff: Annotated[
        str | None,
        typer.Option(metavar="FLOW/NAME", help="Show how this other deployment's requests differ."),
    ] = None,
    cluster: Annotated[str | None, option("cluster")] = None,
    launch_type: Annotated[str | None, option("launch_type")] = None,
    task_role_arn: Annotated[str | None, option("task_role_arn")] = None,
    execution_role_arn: Annotated[str | None, option("execution_role_arn")] = None,
    task_definition: Annotated[str | None, option("task_definition")] = None,
    run_task_kwargs: Annotated[str | None, option("run_task_kwargs")] = None,
    env: Annotated[list[str] | None, option("env", "--env", "-e")] = None,
    labels: Annotated[list[str] | None, option("labels", "--label")] = None,
    inherit_network: Annotated[bool | None, option("inherit_network", "--inherit-network")] = None,
) -> None:
    """Print the ECS requests of a job (RegisterTaskDefinition and RunTask), secrets masked, without asking AWS.

    Of a deployment or a flow run on the Prefect server; or offline, of --base-job-template (default: ours) and
    --job-variables alone. Exit code 1 if the job is invalid, with all that is wrong.
    """
    defaults = load(
        JobSettings,
        cluster=cluster,
        launch_type=launch_type,
        task_role_arn=task_role_arn,
        execution_role_arn=execution_role_arn,
        task_definition=task_definition,
        run_task_kwargs=run_task_kwargs,
        env=env or None,
        labels=labels or None,
        inherit_network=inherit_network,
    )
    if deployment and flow_run:
        raise UserError("--deployment and --flow-run exclude each other: give one of them.")
    if not (deployment or flow_run or base_job_template or job_variables):
        raise UserError("Say what to render: --deployment, --flow-run, --base-job-template or --job-variables.")
    wanted = Wanted(
        deployment, flow_run, _read(base_job_template, "--base-job-template"), _read(job_variables, "--job-variables")
    )
    import anyio  # noqa: PLC0415 - `--help` needs none of this

    try:
        texts, notes = anyio.run(_render, wanted, diff, defaults, form, explain)
    except JobInvalid as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(1) from None
    for note in notes:
        typer.echo(f"Note: {note}", err=True)
    if diff:
        show_difference(texts[0], texts[1], str(deployment or flow_run or "offline"), diff)
    else:
        typer.echo(texts[0])


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to render: of the server, or neither of `deployment` and `flow_run`."""

    deployment: str | None
    flow_run: UUID | None
    template: Mapping[str, Any] | None
    variables: Mapping[str, Any] | None


async def _render(
    wanted: Wanted, diff: str | None, defaults: JobDefaults, form: Format, explain: bool
) -> tuple[list[str], list[str]]:
    """The text of what is wanted, then that of `diff`; and the notes."""
    from ecs_worker.cli.preview import Preview  # noqa: PLC0415 - `--help` needs none of this

    online = wanted.deployment or wanted.flow_run or diff
    if not online:
        sources = Preview(None)
        asked = _offline(wanted, defaults, load(PrefectSettings))
        return [await _text(asked, sources, form, explain)], list(sources.notes)
    settings = prefect_settings()
    async with prefect_api(settings) as api:
        sources = Preview(api)
        jobs = [
            await of_server(wanted, api, defaults, settings)
            if wanted.deployment or wanted.flow_run
            else _offline(wanted, defaults, settings)
        ]
        if diff:
            other = Wanted(diff, None, wanted.template, wanted.variables)
            jobs.append(await of_server(other, api, defaults, settings))
        return [await _text(asked, sources, form, explain) for asked in jobs], list(sources.notes)


async def _text(asked: RenderJob, sources: Preview, form: Format, explain: bool) -> str:
    from ecs_worker.cli.explain import explain as origins_of  # noqa: PLC0415 - `--help` needs none of this
    from ecs_worker.cli.preview import preview  # noqa: PLC0415 - likewise

    document = await preview(asked, sources)
    if explain:
        document["origins"] = await origins_of(asked, sources)
    if form is Format.JSON:
        return as_json(document)
    import yaml  # noqa: PLC0415 - likewise

    return yaml.safe_dump(document, allow_unicode=True).rstrip("\n")


async def of_server(wanted: Wanted, api: PrefectClient, defaults: JobDefaults, prefect: PrefectSettings) -> RenderJob:
    """The job that the server has for it. Raises UserError where there is none, and PrefectError."""
    from ecs_worker.cli.preview import CLAIM, RUN, RenderJob  # noqa: PLC0415 - `--help` needs none of this
    from ecs_worker.job.configuration import merge_job_variables  # noqa: PLC0415 - likewise
    from ecs_worker.lifecycle.rendering.render import flow_run_context  # noqa: PLC0415 - likewise
    from ecs_worker.model import ClaimedRun  # noqa: PLC0415 - likewise

    deployment: Deployment | None
    if wanted.flow_run:
        found = await api.read_run(wanted.flow_run)
        if found is None:
            raise UserError(f"There is no flow run {wanted.flow_run}: correct the id.")
        deployment = await api.read_deployment(found.deployment_id) if found.deployment_id else None
        pool_name = found.work_pool_name
        variables = merge_job_variables(found.job_variables, wanted.variables)
        run = ClaimedRun(
            run_id=found.id,
            name=found.name,
            claim_id=CLAIM,
            flow_id=found.flow_id,
            deployment_id=found.deployment_id,
            job_variables=variables,
        )
    else:
        assert wanted.deployment, "one of both is wanted"
        deployment = await api.deployment_by_name(wanted.deployment)
        if deployment is None:
            raise UserError(f"There is no deployment {wanted.deployment!r}: write it as flow/deployment.")
        pool_name = deployment.work_pool_name
        run = ClaimedRun(
            run_id=RUN,
            name="<flow run name>",
            claim_id=CLAIM,
            flow_id=deployment.flow_id,
            deployment_id=deployment.id,
            job_variables=wanted.variables or {},
        )
    if not pool_name:
        raise UserError(f"{wanted.deployment or wanted.flow_run} belongs to no work pool: give it one of type 'ecs'.")
    around = _Around(await ecs_pool(api, pool_name), await api.server_version())
    context = flow_run_context(run, await api.read_flow(run.flow_id), deployment, around, _WORKER, defaults, prefect)
    deployed = deployment.job_variables if deployment is not None else {}
    return RenderJob(wanted.template or around.pool.base_job_template, deployed, context)


@dataclass(frozen=True, slots=True)
class _Around:
    pool: WorkPool
    server_version: str | None
    worker_id: UUID | None = None


def _offline(wanted: Wanted, defaults: JobDefaults, prefect: PrefectSettings) -> RenderJob:
    from ecs_worker.cli import preview  # noqa: PLC0415 - `--help` needs none of this
    from ecs_worker.job.context import FlowRunContext  # noqa: PLC0415 - likewise
    from ecs_worker.job.variables import default_base_job_template  # noqa: PLC0415 - likewise
    from ecs_worker.model import ClaimedRun  # noqa: PLC0415 - likewise

    run = ClaimedRun(
        run_id=preview.RUN,
        name="<flow run name>",
        claim_id=preview.CLAIM,
        flow_id=preview.FLOW,
        deployment_id=preview.DEPLOYMENT,
        job_variables={},
    )
    context = FlowRunContext(
        run=run,
        flow_name="<flow name>",
        pool_id=preview.POOL,
        pool_name="<work pool name>",
        worker_name=_WORKER,
        region="",
        server_version="",
        deployment_name="<deployment name>",
        inherited_env=prefect.inherited,
        defaults=defaults,
    )
    return preview.RenderJob(wanted.template or default_base_job_template(), wanted.variables or {}, context)


def _read(path: Path | None, name: str) -> Mapping[str, Any] | None:
    """A file with a mapping in JSON or YAML. Raises UserError naming what is wrong with it."""
    if path is None:
        return None
    from ecs_worker.lifecycle.rendering.files import parsed  # noqa: PLC0415 - `--help` needs none of this

    try:
        document = parsed(path.read_bytes())
    except OSError as error:
        raise UserError(f"{name} {path} can't be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{name} {path} {error}: correct it.") from None
    if not isinstance(document, dict):
        raise UserError(f"{name} {path} holds no mapping: write names and values, as JSON or YAML.")
    return document
