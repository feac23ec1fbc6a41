"""`ecs-worker deploy`."""

from __future__ import annotations

from typing import Annotated

import typer

from ecs_worker.cli.commands import new_app
from ecs_worker.cli.options import with_settings
from ecs_worker.deploy.wishes import Wishes
from ecs_worker.errors import UserError

app = new_app(name="deploy", invoke_without_command=True, subcommand_metavar="[COMMAND]")

_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and leave nothing.")]
_Wait = Annotated[
    bool,
    typer.Option("--wait/--no-wait", help="Wait until the worker serves the pool. Else the pool gets no defaults yet."),
]


@app.callback()
@with_settings
def deploy(
    context: typer.Context,
    wishes: Wishes,
    yes: _Yes = False,
    dry_run: _DryRun = False,
    wait: _Wait = True,
) -> None:
    """Run a worker for a work pool as an ECS service, in a CloudFormation stack of its own.

    Finds the network and the cluster, shows what will be made and changed, asks, and tells what comes of it. Then it
    fills the pool's empty defaults, so that deployments with nothing but an image run. Given again it changes what is
    asked and keeps the rest.
    """
    if context.invoked_subcommand is not None:
        if wishes != Wishes() or yes or dry_run or not wait:
            raise UserError(f"Options go after the command: ecs-worker deploy {context.invoked_subcommand} …")
        return
    from ecs_worker.cli import deploy as work

    work.deploy(wishes, work.How(yes=yes, dry_run=dry_run, wait=wait))
