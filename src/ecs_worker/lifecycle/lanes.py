"""Lanes: what is to be asked of each place goes side by side, so that a sick place delays no other.

A place is what answers or hangs as one: a cluster, in a Region, by certain credentials. Memory only: each part looks
again at what a dead process had begun.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from ecs_worker.lifecycle.loops import guarded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable
    from uuid import UUID

    from anyio.abc import TaskGroup

SICK_AFTER = 1.0  # seconds in which nothing of a full lane comes to its end
MOST_BEGUN = 1000  # jobs of a place, those that wait for their turn among them


@dataclass(slots=True)
class _Lane:
    limiter: anyio.CapacityLimiter
    begun: int = 0
    moved_at: float = field(default_factory=time.monotonic)
    moved: anyio.Event = field(default_factory=anyio.Event)


class Lanes:
    """One job for each run at a time, and at most `at_once` for each place. Holds the ids of the runs."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._lanes: dict[Hashable, _Lane] = {}
        self._under_way: set[UUID] = set()

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._under_way

    def begin(
        self, group: TaskGroup, place: Hashable, run_id: UUID, name: str, job: Callable[[], Awaitable[object]]
    ) -> None:
        """Start a job in the place's lane and return at once; nothing is done while the run's last job goes on.

        `name` is what a fault of ours is told by.
        """
        if run_id in self._under_way:
            return
        self._under_way.add(run_id)
        lane = self._lanes.setdefault(place, _Lane(anyio.CapacityLimiter(self._at_once)))
        lane.begun += 1
        group.start_soon(self._carry, place, lane, run_id, name, job)

    async def room(self, place: Hashable) -> bool:
        """Wait for room in a full lane. False, after a second at most, if nothing of it comes to its end."""
        while (lane := self._lanes.get(place)) is not None and lane.begun >= MOST_BEGUN:
            with anyio.move_on_after(SICK_AFTER - (time.monotonic() - lane.moved_at)) as patience:
                await lane.moved.wait()
            if patience.cancelled_caught:
                return False
        return True

    async def _carry(
        self, place: Hashable, lane: _Lane, run_id: UUID, name: str, job: Callable[[], Awaitable[object]]
    ) -> None:
        try:
            async with lane.limiter:
                with guarded(name):
                    await job()
        finally:
            self._under_way.discard(run_id)
            lane.begun -= 1
            lane.moved_at = time.monotonic()
            lane.moved.set()
            lane.moved = anyio.Event()
            if not lane.begun:
                self._lanes.pop(place, None)
