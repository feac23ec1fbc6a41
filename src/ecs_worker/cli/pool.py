"""`ecs-worker pool`: make work pools with our base job template, bring others up to it, and print it."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecs_worker.cli.server import prefect_api, prefect_settings
from ecs_worker.errors import UserError

if TYPE_CHECKING:
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import WorkPool
    from ecs_worker.settings import PrefectSettings

pool = typer.Typer(
    name="pool", help="Work pools and their base job templates.", no_args_is_help=True, rich_markup_mode=None
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the work pool.", show_default=False)]


@pool.command()
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
    from ecs_worker.job.variables import default_base_job_template  # noqa: PLC0415 - `--help` needs none of this
    from ecs_worker.ops.heartbeat import read_template  # noqa: PLC0415 - likewise

    template = read_template(base_job_template) or default_base_job_template()
    given: dict[str, Any] = {"is_paused": paused, "concurrency_limit": concurrency_limit, "description": description}
    fields = {field: value for field, value in given.items() if value not in (None, False)}
    settings = prefect_settings()

    async def create_new() -> None:
        async with prefect_api(settings) as api:
            if await api.read_pool(name) is not None:
                raise UserError(
                    f"There is a work pool {name!r} already; `ecs-worker pool update {name}` brings its base job "
                    "template up to date."
                )
            await api.create_pool(name, template, **fields)

    _run(create_new)
    typer.echo(f"Created work pool {name}. `ecs-worker start --pool {name}` serves it.", err=True)


@pool.command()
def update(
    name: _Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Change the pool without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
) -> None:
    """Bring a pool's base job template up to ours, whatever worker it was made for; your own edits stay.

    What differs from the default template that the pool was made from (prefect-aws's 0.4 to 0.7, or ours) counts as
    yours. Shows the difference, and asks before it changes the pool.
    """
    from ecs_worker.job.upgrade import upgraded  # noqa: PLC0415 - `--help` needs none of this

    settings = prefect_settings()
    found = _run(_read, settings, name)
    new = upgraded(found.base_job_template)
    if new == found.base_job_template:
        typer.echo(f"The base job template of work pool {name} is up to date.", err=True)
        return
    show_difference(as_json(found.base_job_template), as_json(new), f"{name} now", f"{name} updated")
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("There is nobody to ask: give --yes to change the pool, or --dry-run only to look.")
        typer.confirm(f"Change the base job template of work pool {name}?", abort=True, err=True)

    async def change() -> None:
        async with prefect_api(settings) as api:
            await api.update_pool(name, base_job_template=new)

    _run(change)
    typer.echo(f"Updated work pool {name}. Workers use it within one heartbeat.", err=True)


@pool.command()
def template() -> None:
    """Print our base job template (JSON), to be changed and given to `pool create` or `prefect work-pool create`."""
    from ecs_worker.job.variables import default_base_job_template  # noqa: PLC0415 - `--help` needs none of this

    typer.echo(json.dumps(default_base_job_template(), indent=2))


async def _read(settings: PrefectSettings, name: str) -> WorkPool:
    async with prefect_api(settings) as api:
        return await ecs_pool(api, name)


async def ecs_pool(api: PrefectClient, name: str) -> WorkPool:
    """The work pool. Raises UserError if there is none of that name, or it is of another type."""
    found = await api.read_pool(name)
    if found is None:
        raise UserError(f"There is no work pool {name!r}: correct the name, or `ecs-worker pool create {name}`.")
    if found.type != "ecs":
        raise UserError(f"The work pool {name!r} is of type {found.type!r}, not 'ecs': name one of type 'ecs'.")
    return found


def as_json(document: Any) -> str:
    """A document as text that differs only where the document does."""
    return json.dumps(document, indent=2, sort_keys=True)


def show_difference(before: str, after: str, name: str, other: str) -> None:
    """Print a unified diff of two texts to standard output, in colours on a terminal."""
    import difflib  # noqa: PLC0415 - `--help` needs none of this

    from rich.console import Console  # noqa: PLC0415 - likewise
    from rich.text import Text  # noqa: PLC0415 - likewise

    console = Console(soft_wrap=True)
    for line in difflib.unified_diff(before.splitlines(), after.splitlines(), name, other, lineterm=""):
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        console.print(Text(line, style="bold" if line[:3] in {"+++", "---"} else style))


def _run(ask: Any, *arguments: Any) -> Any:
    import anyio  # noqa: PLC0415 - `--help` needs none of this

    return anyio.run(ask, *arguments)
