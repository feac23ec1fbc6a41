"""Options that give settings: what one means stands in `settings.py`."""

from __future__ import annotations

from typing import Any

import typer

from ecs_worker.settings import WorkerSettings


def option(name: str, *flags: str) -> Any:
    """The option that gives the setting `name`: its help is the setting's own.

    The variable is only named here; the settings read it themselves, so that a fault in it is told as such.
    """
    field = WorkerSettings.model_fields[name]
    text = field.description or ""
    if field.default not in (None, (), False) and not field.is_required() and field.default_factory is None:
        text += f" [default: {field.default}]"
    text += f" [env var: ECS_WORKER_{name.upper()}]"
    return typer.Option(*(flags or (f"--{name.replace('_', '-')}",)), help=text, show_default=False)
