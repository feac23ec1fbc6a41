"""`ecs-worker start`: a worker, until it ends."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import anyio

from ecs_worker.cli.server import prefect_settings
from ecs_worker.errors import UserError
from ecs_worker.ops.logging import configure_logging
from ecs_worker.spelling import unknown_settings
from ecs_worker.worker import Worker

if TYPE_CHECKING:
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


def run(settings: WorkerSettings) -> None:
    """Run a worker to its end. Raises UserError, too, for a user's mistake that surfaced inside a task group."""
    prefect = prefect_settings()
    configure_logging(settings)
    for warning in unknown_settings(os.environ):
        log.warning("%s", warning)
    try:
        anyio.run(Worker(settings, prefect).run)
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
