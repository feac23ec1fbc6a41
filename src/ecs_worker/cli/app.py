"""`ecs-worker` and its commands. Each is imported when it is called, or asked for its own help."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ecs_worker import __version__
from ecs_worker.cli.commands import new_app
from ecs_worker.errors import DocumentUnread, UserError

if TYPE_CHECKING:
    from typer.core import TyperGroup

# Module in `commands/` → the first sentence of its help.
COMMANDS = {
    "start": "Start a worker: take the pool's scheduled flow runs and run each as an ECS task.",
    "health": "Ask a worker that runs with --with-healthcheck how it is.",
    "local": "Serve the embedded AWS.",
    "render": "Print the ECS requests of a job (RegisterTaskDefinition and RunTask), secrets masked, "
    "without asking AWS.",
    "logs": "Print the CloudWatch lines of a flow run's container, with the AWS credentials of whoever asks.",
    "deploy": "Run a worker for a work pool as an ECS service, in a CloudFormation stack of its own.",
    "demo": "See the worker do its main job.",
    "pool": "Work pools and their base job templates.",
    "iam": "The AWS rights that a work pool needs.",
}


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


root = new_app(name="ecs-worker", no_args_is_help=True)


@root.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Runs Prefect flow runs as AWS ECS tasks."""


class _Command(TyperCommand):
    """Stands for a command until it is called."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return command(str(self.name)).make_context(info_name, args, parent, **extra)


def command(name: str) -> Any:
    """The command itself, as Typer makes it, with its options."""
    return typer.main.get_command(import_module(f"ecs_worker.cli.commands.{name}").app)


def _group() -> TyperGroup:
    group = typer.main.get_group(root)
    for name, sentence in COMMANDS.items():
        group.add_command(_Command(name, help=sentence, rich_markup_mode=None))
    return group


def main() -> None:
    """Run the command line. A user's mistake is one sentence on standard error and exit code 2."""
    try:
        _group()()
    except (DocumentUnread, UserError) as error:
        sys.stderr.write(f"ecs-worker: {error}\n")
        sys.exit(2)
