"""`ecs-worker deploy`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from ecs_worker.cli.commands import new_app
from ecs_worker.cli.options import with_settings
from ecs_worker.deploy.wishes import EventsWishes, Where, Which, Wishes
from ecs_worker.errors import UserError

app = new_app(name="deploy", invoke_without_command=True, subcommand_metavar="[COMMAND]")


class Format(StrEnum):
    """How something is printed."""

    TEXT = "text"
    JSON = "json"


class Listing(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"


_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and leave nothing.")]
_Wait = Annotated[
    bool,
    typer.Option("--wait/--no-wait", help="Wait until the worker serves the pool. Else the pool gets no defaults yet."),
]


_Stack = Annotated[
    str | None,
    typer.Argument(
        metavar="STACK",
        help="The stack (default: that of --pool; else the only one of the account in the Region).",
        show_default=False,
    ),
]
_Json = Annotated[Format, typer.Option("--format", help="How it is printed.")]


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


@app.command()
@with_settings
def upgrade(
    wishes: Wishes,
    stack: _Stack = None,
    yes: _Yes = False,
    dry_run: _DryRun = False,
    wait: _Wait = True,
) -> None:
    """Change a deployed worker: its image, or any option. All that is not given stays as it is.

    The new worker takes over from the old one: flow runs that are on their way go on.
    """
    from ecs_worker.cli import deploy as work

    work.upgrade(wishes, stack, work.How(yes=yes, dry_run=dry_run, wait=wait))


@app.command()
@with_settings
def rollback(
    which: Which,
    stack: _Stack = None,
    yes: _Yes = False,
    dry_run: _DryRun = False,
    wait: _Wait = True,
) -> None:
    """Bring a deployed worker back to the options that it had before its last change. Given twice, it comes back.

    The values of secrets are not among them.
    """
    from ecs_worker.cli import deploy as work

    work.rollback(which, stack, work.How(yes=yes, dry_run=dry_run, wait=wait))


@app.command()
@with_settings
def diff(wishes: Wishes, stack: _Stack = None) -> None:
    """Show what `deploy upgrade` would change with these options, and change nothing. Exit code 1 if anything."""
    from ecs_worker.cli import deploy as work

    work.diff(wishes, stack)


@app.command()
@with_settings
def status(which: Which, stack: _Stack = None, form: _Json = Format.TEXT) -> None:
    """Tell how a deployed worker is: its stack, its service and what happened to it, its image, its heartbeat."""
    from ecs_worker.cli import deployed

    deployed.status(which, stack, as_json=form is Format.JSON)


@app.command("list")
@with_settings
def list_stacks(
    where: Where, form: Annotated[Listing, typer.Option("--format", help="How it is printed.")] = Listing.TABLE
) -> None:
    """List the deployed workers of the account in the Region."""
    from ecs_worker.cli import deployed

    deployed.list_stacks(where, as_json=form is Listing.JSON)


@app.command()
@with_settings
def delete(
    which: Which,
    stack: Annotated[
        str | None, typer.Argument(metavar="STACK", help="The stack (default: that of --pool).", show_default=False)
    ] = None,
    yes: _Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Also while flow runs of the pool are under way.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the worker's log, and the secrets that deploy has made.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is gone.")] = True,
) -> None:
    """Delete a deployed worker. Its log and its secrets stay without --all; what stays is named.

    The pool's defaults that are the stack's own are taken out. It is refused while flow runs of the pool are under way.
    """
    from ecs_worker.cli import undeploy

    undeploy.delete(which, stack, undeploy.Removal(yes=yes, force=force, everything=everything, wait=wait))


@app.command()
@with_settings
def events(
    wishes: EventsWishes,
    yes: _Yes = False,
    dry_run: _DryRun = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is there.")] = True,
) -> None:
    """Make only a queue of task events, for a worker that runs elsewhere, and print what to give to --events-queue."""
    from ecs_worker.cli import events_queue
    from ecs_worker.cli.deploy import How

    events_queue.make(wishes, How(yes=yes, dry_run=dry_run, wait=wait))


@app.command("import")
@with_settings
def take_over(
    wishes: Wishes,
    stack: Annotated[str, typer.Argument(metavar="STACK", help="The stack of prefect-aws's.", show_default=False)],
    yes: _Yes = False,
    dry_run: _DryRun = False,
    wait: _Wait = True,
) -> None:
    """Deploy a worker with the values of one that `prefect-aws ecs-worker deploy-service` has deployed.

    Shows the `ecs-worker deploy` that it amounts to. Options that are given win; --image is needed. The pool's defaults
    that are the old stack's become the new one's. The old stack stays: delete it when its runs have ended.
    """
    from ecs_worker.cli import takeover
    from ecs_worker.cli.deploy import How

    takeover.take_over(wishes, stack, How(yes=yes, dry_run=dry_run, wait=wait))


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
