"""`ecs-worker pool`: make work pools with our base job template, bring others up to it, and print it."""

from __future__ import annotations

import difflib
import json
import sys
from typing import TYPE_CHECKING, Any

import anyio
import typer
from rich.console import Console
from rich.text import Text

from ecs_worker.cli.server import prefect_api, prefect_settings
from ecs_worker.errors import UserError
from ecs_worker.job.upgrade import upgraded
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.ops.heartbeat import read_template

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ecs_worker.job.upgrade import Upgrade
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import WorkPool
    from ecs_worker.settings import PrefectSettings


def create(
    name: str, base_job_template: Path | None, paused: bool, concurrency_limit: int | None, description: str | None
) -> None:
    """Create a work pool of type ecs. Raises UserError if there is one of that name."""
    template = read_template(base_job_template) or default_base_job_template()
    given: dict[str, Any] = {"is_paused": paused, "concurrency_limit": concurrency_limit, "description": description}
    fields = {field: value for field, value in given.items() if value is not None}
    settings = prefect_settings()

    async def create_new() -> None:
        async with prefect_api(settings) as api:
            if await api.read_pool(name) is not None:
                raise UserError(
                    f"There is a work pool {name!r} already; `ecs-worker pool update {name}` brings its base job "
                    "template up to date."
                )
            await api.create_pool(name, template, **fields)

    anyio.run(create_new)
    typer.echo(f"Created work pool {name}. `ecs-worker start --pool {name}` serves it.", err=True)


def update(name: str, *, yes: bool, dry_run: bool, restore: bool) -> None:
    """Bring a pool's base job template up to ours, after showing the difference and asking.

    `restore`: also what its users have taken out. Raises UserError if there is no such pool, nobody to ask, or the
    pool was changed meanwhile.
    """
    settings = prefect_settings()
    found = anyio.run(_read, settings, name)
    new = upgraded(found.base_job_template, restore=restore)
    for note in _notes(name, new):
        typer.echo(f"Note: {note}", err=True)
    if new.template == found.base_job_template:
        typer.echo(f"The base job template of work pool {name} is up to date{_but_for(new)}.", err=True)
        return
    show_difference(as_json(found.base_job_template), as_json(new.template), f"{name} now", f"{name} updated")
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("There is nobody to ask: give --yes to change the pool, or --dry-run only to look.")
        typer.confirm(f"Change the base job template of work pool {name}?", abort=True, err=True)

    async def change() -> None:
        async with prefect_api(settings) as api:
            # The API has no conditional write: between these two calls an edit can still be lost, but not while asking.
            if (await ecs_pool(api, name)).base_job_template != found.base_job_template:
                raise UserError(
                    f"Somebody has changed the base job template of work pool {name} meanwhile, so it was left alone: "
                    "give the command again to see what would change now."
                )
            await api.update_pool(name, base_job_template=new.template)

    anyio.run(change)
    typer.echo(f"Updated work pool {name}. Workers use it within one heartbeat.", err=True)


def _notes(name: str, new: Upgrade) -> Iterator[str]:
    """What of ours the pool doesn't get, and why."""
    if new.own:
        yield (
            f"Work pool {name} has variables of its own that bear names of ours, and they stay as they are: "
            f"{', '.join(new.own)}. To have ours, rename them first."
        )
    if new.taken_out:
        yield (
            f"These variables were taken out of the template of work pool {name}, and stay out: "
            f"{', '.join(new.taken_out)}. --restore brings them back."
        )


def _but_for(new: Upgrade) -> str:
    return ", but for these variables" if new.own or new.taken_out else ""


def print_template() -> None:
    """Print our base job template (JSON)."""
    typer.echo(json.dumps(default_base_job_template(), indent=2))


async def _read(settings: PrefectSettings, name: str) -> WorkPool:
    async with prefect_api(settings) as api:
        return await ecs_pool(api, name)


async def ecs_pool(api: PrefectClient, name: str) -> WorkPool:
    """The work pool. Raises UserError if there is none of that name, or it is of another type."""
    found = await api.read_pool(name)
    if found is None:
        raise UserError(f"There is no work pool {name!r}: correct the name, or `ecs-worker pool create {name}`.")
    return of_type_ecs(found)


def of_type_ecs(found: WorkPool) -> WorkPool:
    """The work pool itself. Raises UserError if it is of another type."""
    if found.type != "ecs":
        raise UserError(f"The work pool {found.name!r} is of type {found.type!r}, not 'ecs': name one of type 'ecs'.")
    return found


def as_json(document: Any) -> str:
    """A document as text that differs only where the document does."""
    return json.dumps(document, indent=2, sort_keys=True)


def show_difference(before: str, after: str, name: str, other: str) -> None:
    """Print a unified diff of two texts to standard output, in colours on a terminal."""
    console = Console(soft_wrap=True)
    for line in difflib.unified_diff(before.splitlines(), after.splitlines(), name, other, lineterm=""):
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        console.print(Text(line, style="bold" if line[:3] in {"+++", "---"} else style))
