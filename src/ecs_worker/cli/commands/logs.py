"""`ecs-worker logs`."""

from __future__ import annotations

from typing import Annotated

import typer

from ecs_worker.cli.commands import new_app

app = new_app()


@app.command()
def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The flow run's id or name (the newest of that name).")],
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", "-f", help="Go on until the run has ended and its last lines have come; wait for its task."
        ),
    ] = False,
    container: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another container of the task than the flow's.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only lines since then: 90s, 10m, 2h, 1d, or an ISO 8601 time.")
    ] = None,
) -> None:
    """Print the CloudWatch lines of a flow run's container, with the AWS credentials of whoever asks."""
    from ecs_worker.cli.logs import print_logs

    print_logs(run, follow=follow, container=container, since=since)
