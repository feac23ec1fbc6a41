"""`ecs-worker start`."""

from __future__ import annotations

from ecs_worker.cli.commands import new_app
from ecs_worker.cli.options import with_settings
from ecs_worker.settings import WorkerSettings  # noqa: TC001 - its fields become the options

app = new_app()


@app.command()
@with_settings
def start(settings: WorkerSettings) -> None:
    """Start a worker: take the pool's scheduled flow runs and run each as an ECS task.

    The Prefect API is found as by every Prefect client (PREFECT_API_URL, PREFECT_API_KEY,
    PREFECT_API_AUTH_STRING …, or the active profile), AWS as by every AWS client (AWS_PROFILE, AWS_REGION,
    container and instance roles …).
    """
    from ecs_worker.cli.start import run

    run(settings)
