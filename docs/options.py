"""Writes options.md from `WorkerSettings` and `Wishes`: `make docs`. A test holds them together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ecs_worker.cli.app import command
from ecs_worker.deploy.wishes import Wishes
from ecs_worker.settings import WorkerSettings, aliases, meaning, prefect_variable, spellings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

PAGE = Path(__file__).with_name("options.md")
HEAD = """# Options of `ecs-worker start`

Every option is an environment variable too; some settings are variables only. Written by `make docs`.

"""
DEPLOY = """
## Options of `ecs-worker deploy`

`deploy upgrade` and `deploy diff` take them, too. The other column has prefect-aws's names, which work as well.

| Option | prefect-aws's | Meaning |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return _of_start() + DEPLOY + _of_deploy()


def _of_deploy() -> str:
    rows = []
    for name in Wishes.model_fields:
        ours = ", ".join(f"`{flag}`" for flag in "/".join(spellings(Wishes, name)).split("/"))
        theirs = ", ".join(f"`{flag}`" for flag in aliases(Wishes, name))
        text = meaning(Wishes, name).replace("|", "\\|")
        rows.append(f"| {ours} | {theirs} | {text} |\n")
    return "".join(rows)


def _of_start() -> str:
    """Each setting with its option (if `ecs-worker start` has one), its variable and its default."""
    flags = _flags()
    rows = ["| Option | Variable | Meaning |", "|---|---|---|"]
    for name, field in WorkerSettings.model_fields.items():
        of_prefect = prefect_variable(WorkerSettings, name)
        variables = f"`ECS_WORKER_{name.upper()}`" + (f", else `{of_prefect}`" if of_prefect else "")
        rows.append(f"| {flags.get(name, '')} | {variables} | {meaning(WorkerSettings, name)}{_default(field)} |")
    return HEAD + "\n".join(rows) + "\n"


def _flags() -> dict[str, str]:
    """Setting → how its option is spelled, of all options of `ecs-worker start`."""
    return {
        str(parameter.name): ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
        for parameter in command("start").params
    }


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.is_required() or field.default_factory is not None or default is None or default is False or default == ():
        return ""
    return " Default: on." if default is True else f" Default: {default}."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
