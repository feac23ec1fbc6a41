"""`ecs-worker render`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated
from uuid import UUID  # noqa: TC003 - likewise

import typer

from ecs_worker.cli.commands import new_app
from ecs_worker.cli.options import with_settings
from ecs_worker.settings import JobSettings  # noqa: TC001 - its fields become options

app = new_app()


class Format(StrEnum):
    """How the requests are written."""

    JSON = "json"
    YAML = "yaml"


@app.command()
@with_settings
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
    *,
    defaults: JobSettings,
) -> None:
    """Print the ECS requests of a job (RegisterTaskDefinition and RunTask), secrets masked, without asking AWS.

    Of a deployment or a flow run on the Prefect server; or offline, of --base-job-template (default: ours) and
    --job-variables alone. Exit code 1 if the job is invalid, with all that is wrong.
    """
    from ecs_worker.cli import render as work

    wanted = work.Wanted(deployment, flow_run, base_job_template, job_variables, diff)
    work.render(wanted, defaults, as_yaml=form is Format.YAML, explained=explain)
