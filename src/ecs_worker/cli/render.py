"""`ecs-worker render`: what would be sent to AWS, without asking AWS."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import typer
import yaml

from ecs_worker.cli.explain import explain
from ecs_worker.cli.jobs import Given, Jobs, read_mapping
from ecs_worker.cli.pool import as_json, show_difference
from ecs_worker.cli.preview import Preview, rendered, shown
from ecs_worker.cli.server import prefect_api, prefect_settings
from ecs_worker.errors import JobInvalid, UserError
from ecs_worker.settings import PrefectSettings, load
from ecs_worker.spelling import unknown_settings

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from ecs_worker.cli.jobs import RenderJob
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.settings import JobDefaults


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to render: of the server, or of the files alone if neither `deployment` nor `flow_run` is given.

    `template` and `variables` are files with a mapping, `diff` is another deployment to compare with.
    """

    deployment: str | None
    flow_run: UUID | None
    template: Path | None
    variables: Path | None
    diff: str | None


def render(wanted: Wanted, defaults: JobDefaults, *, as_yaml: bool, explained: bool) -> None:
    """Print the requests, or how two jobs' requests differ. Raises UserError; exits with 1 if the job is invalid."""
    if wanted.deployment and wanted.flow_run:
        raise UserError("--deployment and --flow-run exclude each other: give one of them.")
    if not (wanted.deployment or wanted.flow_run or wanted.template or wanted.variables):
        raise UserError("Say what to render: --deployment, --flow-run, --base-job-template or --job-variables.")
    given = Given(
        read_mapping(wanted.template, "--base-job-template"),
        read_mapping(wanted.variables, "--job-variables") or {},
    )
    try:
        texts, notes = anyio.run(_texts, wanted, defaults, given, as_yaml, explained)
    except JobInvalid as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(1) from None
    for note in [*unknown_settings(os.environ), *notes]:
        typer.echo(f"Note: {note}", err=True)
    if wanted.diff:
        show_difference(texts[0], texts[1], str(wanted.deployment or wanted.flow_run or "offline"), wanted.diff)
    else:
        typer.echo(texts[0])


async def _texts(
    wanted: Wanted, defaults: JobDefaults, given: Given, as_yaml: bool, explained: bool
) -> tuple[list[str], list[str]]:
    """The text of what is wanted, then that of `diff`; and the notes."""
    if not (wanted.deployment or wanted.flow_run or wanted.diff):
        sources = Preview(None)
        job = Jobs(defaults, load(PrefectSettings), given).offline()
        return [await _text(job, sources, as_yaml, explained)], list(sources.notes)
    settings = prefect_settings()
    jobs = Jobs(defaults, settings, given)
    async with prefect_api(settings) as api:
        sources = Preview(api)
        compared = [await _wanted(wanted, jobs, api)]
        if wanted.diff:
            compared.append(await jobs.of_deployment(api, wanted.diff))
        return [await _text(job, sources, as_yaml, explained) for job in compared], list(sources.notes)


async def _wanted(wanted: Wanted, jobs: Jobs, api: PrefectClient) -> RenderJob:
    if wanted.deployment:
        return await jobs.of_deployment(api, wanted.deployment)
    if not wanted.flow_run:
        return jobs.offline()
    run = await api.read_run(wanted.flow_run)
    if run is None:
        raise UserError(f"There is no flow run {wanted.flow_run}: correct the id.")
    return await jobs.of_run(api, run)


async def _text(asked: RenderJob, sources: Preview, as_yaml: bool, explained: bool) -> str:
    job = await rendered(asked, sources)
    document = shown(job)
    if explained:
        document["origins"] = await explain(asked, job, sources)
    return yaml.safe_dump(document, allow_unicode=True).rstrip("\n") if as_yaml else as_json(document)
