"""`ecs-worker health`, but for the plain call: `cli.main` takes that one by itself, without this module."""

from __future__ import annotations

from typing import Annotated

import typer

from ecs_worker import HEALTH_ADDRESS
from ecs_worker.cli import check
from ecs_worker.cli.commands import new_app

app = new_app()


@app.command()
def health(
    health_address: Annotated[
        str,
        typer.Option("--health-address", envvar="ECS_WORKER_HEALTH_ADDRESS", help="HOST:PORT of the health server."),
    ] = HEALTH_ADDRESS,
) -> None:
    """Ask a worker that runs with --with-healthcheck how it is. Exit code 1 if it is unwell: for container checks."""
    check(health_address)
