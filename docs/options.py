"""Writes the README's table of options from `WorkerSettings`: `make docs`. A test holds the two together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ecs_worker.cli.app import app
from ecs_worker.settings import WorkerSettings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- options, written by `make docs` -->\n", "<!-- end of options -->"


def table() -> str:
    """Each setting with its option (if `ecs-worker start` has one), its variable and its default."""
    flags = _flags()
    rows = ["| Option | Variable | Meaning |", "|---|---|---|"]
    for name, field in WorkerSettings.model_fields.items():
        rows.append(f"| {flags.get(name, '')} | `ECS_WORKER_{name.upper()}` | {field.description}{_default(field)} |")
    return "\n".join(rows) + "\n"


def _flags() -> dict[str, str]:
    """Setting → how its option is spelled, of all options of `ecs-worker start`."""
    start = typer.main.get_command(app).commands["start"]  # type: ignore[attr-defined] # a group, as app has commands
    return {
        str(parameter.name).rstrip("_"): ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
        for parameter in start.params
    }


def _default(field: FieldInfo) -> str:
    if field.is_required() or field.default_factory is not None or field.default in {None, (), False}:
        return ""
    return " Default: on." if field.default is True else f" Default: {field.default}."


def updated(readme: str) -> str:
    """The README with the table as it should be now."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
