"""`ecs-worker deploy template`: the template, for those who deploy by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ecs_worker.deploy import exports, template, terraform
from ecs_worker.deploy.template import document
from ecs_worker.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SERVICE, EVENTS = "service", "events"
YAML, JSON, TERRAFORM = "yaml", "json", "terraform"
_NAMES = {SERVICE: "ecs-worker", EVENTS: "ecs-worker-events"}


def export(what: str, form: str, directory: Path | None) -> None:
    """Print the template, or write it into a directory. Raises UserError."""
    text = template.text()
    if what == EVENTS:
        text = exports.as_yaml(exports.events_only(document(text)))
    if form == TERRAFORM:
        if directory is None:
            raise UserError("A Terraform module has several files: name a directory for them with --output.")
        files = terraform.files(_NAMES[what], text)
    else:
        files = {f"template.{form}": text if form == YAML else exports.as_json(document(text)) + "\n"}
    if directory is None:
        typer.echo("".join(files.values()), nl=False)
        return
    _write(directory, files)
    typer.echo(f"Wrote {', '.join(files)} in {directory}.")


def _write(directory: Path, files: Mapping[str, str]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {directory} can't be written: {(error.strerror or str(error)).lower()}.") from None
