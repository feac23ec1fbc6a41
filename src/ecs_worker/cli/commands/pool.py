"""`ecs-worker pool`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from ecs_worker.cli.commands import new_app

app = new_app(name="pool", help="Work pools and their base job templates.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the work pool.", show_default=False)]


@app.command()
def create(
    name: _Name,
    base_job_template: Annotated[
        Path | None, typer.Option(help="JSON file with the base job template (default: ours).", show_default=False)
    ] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Create it paused: its runs wait.")] = False,
    concurrency_limit: Annotated[
        int | None, typer.Option(min=0, help="Most runs of the pool at once (default: no limit).", show_default=False)
    ] = None,
    description: Annotated[str | None, typer.Option(help="What the pool is for.", show_default=False)] = None,
) -> None:
    """Create a work pool of type ecs."""
    from ecs_worker.cli import pool

    pool.create(name, base_job_template, paused, concurrency_limit, description)


@app.command()
def update(
    name: _Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Change the pool without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Also bring variables back that were taken out of the template.")
    ] = False,
) -> None:
    """Bring a pool's base job template up to ours, whatever worker it was made for; your own edits stay.

    Variables that it lacks are added. What differs from the default template that the pool was made from (prefect-aws's
    0.4 to 0.7, or ours) counts as yours: your own variables, also if ours have the same names; defaults; what you have
    taken out. Runs that set nothing new get the same requests as before. Shows the difference, says what was left
    alone, and asks before it changes the pool.
    """
    from ecs_worker.cli import pool

    pool.update(name, yes=yes, dry_run=dry_run, restore=restore)


@app.command()
def template() -> None:
    """Print our base job template (JSON), to be changed and given to `pool create` or `prefect work-pool create`."""
    from ecs_worker.cli import pool

    pool.print_template()
