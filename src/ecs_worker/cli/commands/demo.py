"""`ecs-worker demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from ecs_worker.cli.commands import new_app

app = new_app()


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the servers and the worker up until Ctrl-C, and print their URLs.")
    ] = False,
) -> None:
    """See the worker do its main job.

    Real flows run between a real Prefect server and an embedded AWS, in about a minute. The server is the demo's own
    unless PREFECT_API_URL is set. Exit code 0 only if all came as it should. Needs the extra `demo`: pip install
    'ecs-worker[demo]'.
    """
    from ecs_worker.cli.demo import run

    raise typer.Exit(run(keep=keep))
