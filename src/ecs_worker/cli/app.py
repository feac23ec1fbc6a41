"""`ecs-worker`: its commands and options. What an option means stands in `settings.py`; here is how it is spelled."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated, Any

import typer

from ecs_worker import __version__
from ecs_worker.cli.local import local
from ecs_worker.cli.logs import logs
from ecs_worker.cli.options import option
from ecs_worker.cli.pool import pool
from ecs_worker.cli.render import render
from ecs_worker.cli.server import prefect_settings
from ecs_worker.errors import UserError
from ecs_worker.settings import WorkerSettings, load

app = typer.Typer(
    name="ecs-worker",
    help="Runs Prefect flow runs as AWS ECS tasks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Runs Prefect flow runs as AWS ECS tasks."""


@app.command()
def start(
    pool: Annotated[str | None, option("pool", "--pool", "-p")] = None,
    name: Annotated[str | None, option("name", "--name", "-n")] = None,
    work_queues: Annotated[list[str] | None, option("work_queues", "--work-queue", "-q")] = None,
    limit: Annotated[int | None, option("limit")] = None,
    type_: Annotated[str | None, option("type")] = None,
    prefetch_seconds: Annotated[float | None, option("prefetch_seconds")] = None,
    query_seconds: Annotated[float | None, option("query_seconds")] = None,
    run_once: Annotated[bool | None, option("run_once", "--run-once")] = None,
    create_pool_if_not_found: Annotated[
        bool | None,
        option("create_pool_if_not_found", "--create-pool-if-not-found/--no-create-pool-if-not-found"),
    ] = None,
    base_job_template: Annotated[Path | None, option("base_job_template")] = None,
    cluster: Annotated[str | None, option("cluster")] = None,
    launch_type: Annotated[str | None, option("launch_type")] = None,
    task_role_arn: Annotated[str | None, option("task_role_arn")] = None,
    execution_role_arn: Annotated[str | None, option("execution_role_arn")] = None,
    task_definition: Annotated[str | None, option("task_definition")] = None,
    run_task_kwargs: Annotated[str | None, option("run_task_kwargs")] = None,
    env: Annotated[list[str] | None, option("env", "--env", "-e")] = None,
    labels: Annotated[list[str] | None, option("labels", "--label")] = None,
    inherit_network: Annotated[bool | None, option("inherit_network", "--inherit-network")] = None,
    log_level: Annotated[str | None, option("log_level")] = None,
    log_format: Annotated[str | None, option("log_format")] = None,
    events_queue: Annotated[str | None, option("events_queue")] = None,
    with_healthcheck: Annotated[bool | None, option("with_healthcheck", "--with-healthcheck")] = None,
    health_address: Annotated[str | None, option("health_address")] = None,
) -> None:
    """Start a worker: take the pool's scheduled flow runs and run each as an ECS task.

    The Prefect API is found as by every Prefect client (PREFECT_API_URL, PREFECT_API_KEY,
    PREFECT_API_AUTH_STRING …, or the active profile), AWS as by every AWS client (AWS_PROFILE, AWS_REGION,
    container and instance roles …).
    """
    given = dict(locals())
    given["type"] = given.pop("type_")
    given |= {name: given[name] or None for name in ("work_queues", "env", "labels")}  # none given: an empty list
    settings = load(WorkerSettings, **given)
    prefect = prefect_settings()
    from ecs_worker.ops.logging import configure_logging  # noqa: PLC0415 - `--help` needs none of this

    configure_logging(settings)
    import anyio  # noqa: PLC0415 - likewise

    from ecs_worker.worker import Worker  # noqa: PLC0415 - likewise, and it is most of the start-up time

    _run(anyio.run, Worker(settings, prefect).run)


@app.command()
def health(
    health_address: Annotated[
        str,
        typer.Option("--health-address", envvar="ECS_WORKER_HEALTH_ADDRESS", help="HOST:PORT of the health server."),
    ] = "127.0.0.1:8080",
) -> None:
    """Ask a worker that runs with --with-healthcheck how it is. Exit code 1 if it is unwell: for container checks."""
    import urllib.error  # noqa: PLC0415 - as below
    import urllib.request  # noqa: PLC0415 - `--help` needs none of this

    try:
        with urllib.request.urlopen(f"http://{health_address}/health", timeout=4) as answer:
            typer.echo(answer.read().decode())
    except urllib.error.HTTPError as error:
        typer.echo(error.read().decode())
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"No worker answers at {health_address}: {error}", err=True)
        raise typer.Exit(1) from None


app.command()(local)
app.add_typer(pool)
app.command()(render)
app.command()(logs)


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the servers and the worker up until Ctrl-C, and print their URLs.")
    ] = False,
) -> None:
    """See the worker do its main job.

    Real flows run between a real Prefect server and an embedded AWS, in about a minute. The server is the demo's own
    unless PREFECT_API_URL is set. Exit code 0 only if all came as it should.
    """
    from ecs_worker.cli.demo import run  # noqa: PLC0415 - `--help` needs none of this

    raise typer.Exit(run(keep=keep))


def _run(run: Any, *arguments: Any) -> None:
    """Run to the end; a user's mistake that surfaced inside a task group is still a user's mistake."""
    try:
        run(*arguments)
    except BaseExceptionGroup as group:
        mistake = _user_error(group)
        if mistake is None:
            raise
        raise mistake from None


def _user_error(group: BaseExceptionGroup[BaseException]) -> UserError | None:
    found, _ = group.split(UserError)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]  # type: ignore[assignment] # the first leaf: one sentence is enough
    return found


def main() -> None:
    """Run the command line. A user's mistake is one sentence on standard error and exit code 2."""
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"ecs-worker: {error}\n")
        sys.exit(2)
