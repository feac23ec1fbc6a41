"""`ecs-worker local`: the embedded AWS alone, for development."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from ecs_worker.cli.commands import new_app

app = new_app()


@app.command()
def local(
    host: Annotated[str, typer.Option(help="Address to serve.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve; 0 takes a free one.")] = 0,
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote",
            help="Serve an address that other machines reach. Whoever reaches it can run commands on this machine.",
        ),
    ] = False,
    step_seconds: Annotated[
        float, typer.Option(min=0, help="How long a task stays in each status on its way to RUNNING and after its end.")
    ] = 0.1,
    calls_file: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Append each AWS call received to this file, as a JSON line.")
    ] = None,
) -> None:
    """Serve the embedded AWS.

    It has ECS, whose containers run as local processes, CloudWatch Logs, EC2 and more. No images are pulled:
    `python`, `prefect` and `ecs-worker` in containers are those of this command's own environment. Of images only the
    worker's own is known (any that is called ecs-worker): its entry point and its variables count. For all others a
    task definition must name the whole command. Needs the extra `demo`: pip install 'ecs-worker[demo]'.
    """
    from ecs_worker.local.server import LocalSettings, serve

    settings = LocalSettings(step_seconds=step_seconds, calls_file=calls_file)
    serve(host, port, on_ready=_tell, allow_remote=allow_remote, settings=settings)


def _tell(url: str) -> None:
    """What a shell needs goes to standard output, the rest to standard error."""
    typer.echo("The embedded AWS serves until Ctrl-C. In the shell that is to use it:", err=True)
    for name, value in (
        ("AWS_ENDPOINT_URL", url),
        ("AWS_ACCESS_KEY_ID", "embedded"),
        ("AWS_SECRET_ACCESS_KEY", "embedded"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        typer.echo(f"export {name}={value}")
