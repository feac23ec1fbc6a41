"""`ecs-worker doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from ecs_worker.cli.commands import new_app
from ecs_worker.cli.options import with_settings
from ecs_worker.settings import JobSettings  # noqa: TC001 - its fields become options

app = new_app()


@app.command()
@with_settings
def doctor(
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool", "-p", metavar="NAME", envvar="ECS_WORKER_POOL", help="The work pool.", show_default=False
        ),
    ] = None,
    deployment: Annotated[
        str | None,
        typer.Option(
            "--deployment", "-d", metavar="FLOW/NAME", help="Only this deployment (default: all of the pool)."
        ),
    ] = None,
    worker_role: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE",
            help="The worker's role, whose rights are looked at (default: those of whoever gives the command).",
            show_default=False,
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Launch one real task of the deployment, which asks the Prefect API and ends."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    *,
    defaults: JobSettings,
) -> None:
    """Look for what keeps a pool's runs from starting: in Prefect, AWS, rights, networks, images and jobs.

    One line for each check: what it is about, how it is (ok, warning, failed, skipped), and what to do about it. Exit
    code 1 if a check has failed. Nothing is changed. Give the worker's own options, too, so that jobs are made as it
    makes them. With --probe a task is launched, told step by step, and ended; that takes the worker's rights.
    """
    from ecs_worker.cli import doctor as work

    work.doctor(work.Asked(pool, deployment, worker_role, probe, as_json), defaults)
