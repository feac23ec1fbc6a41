"""`ecs-worker deploy`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotations
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


class What(StrEnum):
    """What a template makes."""

    SERVICE = "service"
    EVENTS = "events"


class Form(StrEnum):
    """How a template is written."""

    YAML = "yaml"
    JSON = "json"
    TERRAFORM = "terraform"


@app.command()
def template(
    what: Annotated[
        What,
        typer.Option("--type", help="The worker as a service, or only a queue of task events for --events-queue."),
    ] = What.SERVICE,
    form: Annotated[
        Form, typer.Option("--format", help="CloudFormation's YAML or JSON, or a Terraform module around it.")
    ] = Form.YAML,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIRECTORY", help="Where to write it (default: print it).", show_default=False
        ),
    ] = None,
) -> None:
    """Print the CloudFormation template of a deployed worker, or write a Terraform module around it.

    So workers can be deployed by other tools, too: with the same parameters, roles and network as by this command.
    """
    from ecs_worker.cli import template as work

    work.export(what.value, form.value, output)
