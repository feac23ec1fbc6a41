"""The loops of the worker, and the rim of one run's affairs."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(slots=True)
class Guard:
    """What went wrong inside, once it has."""

    fault: Exception | None = None


@contextmanager
def guarded(what: str) -> Iterator[Guard]:
    """A fault of ours in the affairs of one run, or one order, ends neither the worker nor the others' affairs.

    `what` names them. The fault is told in the worker's log and kept in what this yields. Cancellation passes.
    """
    guard = Guard()
    try:
        yield guard
    except Exception as fault:
        log.exception("%s met a fault of ecs-worker: please report it.", what)
        guard.fault = fault
