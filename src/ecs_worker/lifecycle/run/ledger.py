"""The ledger: which runs this worker holds, and how many more it may take. It alone counts slots.

Memory only. If the process dies, `adopt` finds every run again from the Prefect server and ECS.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import anyio

from ecs_worker.lifecycle.run.aside import MOST_ASIDE, Aside
from ecs_worker.lifecycle.run.run import UNLAUNCHED
from ecs_worker.model import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from uuid import UUID

    from ecs_worker.lifecycle.run.run import Run

# On these a slot may become free, or somebody may wait for the task.
_TOLD = frozenset({Phase.STARTING, Phase.STOPPED, Phase.ABANDONED})


class Ledger:
    """What is in flight. A run takes a slot from its claim until its task has stopped.

    A launch takes another, of `max_launching`, which it leaves to others while it waits: then it stands `aside`. With a
    limit at most half of its slots go to such runs of one place.

    `clock` is the time by which all parts of the lifecycle judge, in seconds.
    """

    def __init__(self, *, limit: int | None, max_launching: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._limit = limit
        self._max_launching = max_launching
        self.aside = Aside(MOST_ASIDE if limit is None else min(MOST_ASIDE, max(1, limit // 2)), clock)
        self._held: dict[UUID, Run] = {}
        self._phases: Counter[Phase] = Counter()
        self._freed = anyio.Event()
        self._reserved = 0

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Run]:
        return iter(tuple(self._held.values()))

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._held

    def get(self, run_id: UUID) -> Run | None:
        """The run, if this worker holds it."""
        return self._held.get(run_id)

    @property
    def phases(self) -> Mapping[Phase, int]:
        """How many runs are in each phase."""
        return self._phases

    @property
    def limit(self) -> int | None:
        """How many tasks there may be at once; None: any number."""
        return self._limit

    @property
    def reserved(self) -> int:
        """Slots that are kept for runs which this worker will have to take up."""
        return self._reserved

    @property
    def free(self) -> int:
        """How many more runs may be claimed now: below the limit, and below the launch queue's length."""
        room = self._max_launching - (sum(self._phases[phase] for phase in UNLAUNCHED) - len(self.aside))
        if self._limit is not None:
            ended = sum(map(_needs_no_slot, self._held.values()))
            room = min(room, self._limit - (len(self._held) - ended) - self._reserved)
        return max(room, 0)

    def reserve(self, slots: int) -> None:
        """Keep so many slots for runs that this worker will have to take up, but may not yet; with a limit only."""
        if self._limit is None:
            return
        freed = slots < self._reserved
        self._reserved = slots
        if freed:
            self._tell()

    def step_aside(self, run: Run, place: Hashable, why: str = "") -> bool:
        """The run's launch waits, and its launching slot is free. False: too many wait there, so it isn't."""
        before = len(self.aside)
        stands = self.aside.step(run.id, place, why)
        if len(self.aside) > before:
            self._tell()
        return stands

    def take(self, run: Run) -> None:
        """Begin to hold a run. Its slot is taken before the claim is asked, so that no claim exceeds the limit."""
        if (before := self._held.get(run.id)) is not None:
            self._let(before)
        self._held[run.id] = run
        self._phases[run.phase] += 1
        run.held_by(self._changed)

    def drop(self, run: Run) -> None:
        """The run is not this worker's any more: told, released, or never became ours."""
        if self._held.get(run.id) is run:
            del self._held[run.id]
            self._let(run)
        self._tell()

    async def wait_freed(self) -> None:
        """Wait until a slot may have become free, a run got its task, or was dropped."""
        await self._freed.wait()

    def _let(self, run: Run) -> None:
        run.held_by(None)
        self._phases[run.phase] -= 1

    def _changed(self, before: Phase, after: Phase) -> None:
        self._phases[before] -= 1
        self._phases[after] += 1
        if after in _TOLD:
            self._tell()

    def _tell(self) -> None:
        self._freed.set()
        self._freed = anyio.Event()


def _needs_no_slot(run: Run) -> bool:
    """Whether the run's task has stopped and no other follows. One that failed to start may be started again."""
    started = run.task is not None and run.task.started_at is not None
    return run.phase is Phase.ABANDONED or (run.phase is Phase.STOPPED and started)
