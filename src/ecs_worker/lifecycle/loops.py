"""The loops of the worker, and the rim of one run's affairs."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import anyio

from ecs_worker.errors import PrefectError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

log = logging.getLogger(__name__)


HANGS_AFTER = 300.0  # seconds; every call to AWS and to Prefect answers or fails within a third of that


class Pulse:
    """Whether the loops turn, whatever their calls come to: that is what the health of the process is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turns: dict[str, tuple[float, float]] = {}

    def turn(self, loop: str, bound: float) -> None:
        """The loop turns now, and is to turn again within `bound` seconds."""
        self._turns[loop] = (self._clock(), bound)

    def ages(self) -> dict[str, float]:
        """Seconds since each loop turned."""
        now = self._clock()
        return {loop: now - at for loop, (at, _) in self._turns.items()}

    def hanging(self) -> list[str]:
        """The loops that should have turned by now."""
        now = self._clock()
        return sorted(loop for loop, (at, bound) in self._turns.items() if now - at > bound)


PULSE: ContextVar[Pulse | None] = ContextVar("pulse", default=None)
"""That of the worker in whose context a loop runs."""


def turn(loop: str, bound: float) -> None:
    """Say that a loop turns; for loops that `every` doesn't run."""
    if (pulse := PULSE.get()) is not None:
        pulse.turn(loop, bound)


async def every(
    seconds: float,
    once: Callable[[], Awaitable[object]],
    *,
    trouble: str = "",
    at_once: bool = False,
    hangs_after: float = HANGS_AFTER,
) -> NoReturn:
    """Await `once` for ever, with so many seconds between two times; `at_once`: also at the start.

    `trouble`: what can't be done while the Prefect API fails; the error follows in the log, and the loop goes on.
    Without it, and for every other error, the loop ends, and with it the worker. `hangs_after`: seconds that `once`
    may take before the process counts as unwell.
    """
    loop = getattr(once.func if isinstance(once, partial) else once, "__qualname__", repr(once))
    turn(loop, seconds + hangs_after)
    if not at_once:
        await anyio.sleep(seconds)
    while True:
        turn(loop, seconds + hangs_after)
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
