"""The loops of the worker, and the rim of one run's affairs."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import anyio

from ecs_worker.errors import PrefectError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

log = logging.getLogger(__name__)


async def every(
    seconds: float, once: Callable[[], Awaitable[object]], *, trouble: str = "", at_once: bool = False
) -> NoReturn:
    """Await `once` for ever, with so many seconds between two times; `at_once`: also at the start.

    `trouble`: what can't be done while the Prefect API fails; the error follows in the log, and the loop goes on.
    Without it, and for every other error, the loop ends, and with it the worker.
    """
    if not at_once:
        await anyio.sleep(seconds)
    while True:
        try:
            await once()
        except PrefectError as error:
            if not trouble:
                raise
            log.warning("%s: %s", trouble, error)
        await anyio.sleep(seconds)


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """A fault of ours in the affairs of one run, or one order: it ends neither the worker nor the others' affairs.

    `what` names them. Cancellation passes.
    """
    try:
        yield
    except Exception:
        log_fault(what)


def log_fault(what: str) -> None:
    """The exception that is being handled is nobody's mistake but ours."""
    log.exception("%s met a fault of ecs-worker: please report it.", what)
