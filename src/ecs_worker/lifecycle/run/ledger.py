"""The ledger: the one owner of what this worker holds. It alone counts slots and knows what is in flight.

It is memory only. If the process dies, `adopt` finds every run of it again from the Prefect server and ECS.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from ecs_worker.model import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from ecs_worker.model import ClaimedRun, Placement, TaskFacts


@dataclass(slots=True, eq=False)
class Held:
    """One flow run that this worker holds, from its claim until its end is told.

    `since` is in monotonic seconds. `attempt` numbers the launch's tokens, from 1; `starts` counts the tasks it got.
    """

    run: ClaimedRun
    phase: Phase = Phase.CLAIMED
    since: float = field(default_factory=time.monotonic)
    claimed_at: float = field(default_factory=time.monotonic)
    attempt: int = 1
    starts: int = 0
    placement: Placement | None = None
    task: TaskFacts | None = None
    lease_id: UUID | None = None  # the deployment's concurrency slot, which the claim took
    identifier: str = ""  # what `infrastructure_pid` is, or is to be
    identifier_written: bool = False
    adopted: bool = False  # another process launched it, and may have passed on its output
    on_demand: bool = False  # Spot was taken away: the next attempt goes without it
    waits_for: str | None = None  # the kind of obstacle that the run's state tells of
    uncertain: bool = False  # a RunTask got no answer: a task may exist that is not known yet
    theirs: bool = False  # the run is others' business by now: only the task that it left here is stopped
    cancelling_since: float | None = None
    stop_reason: str = ""  # why the worker asked ECS to stop the task; empty: it didn't
    submitted: UUID | None = None  # the event that told of the launch
    crashed_because: str = ""  # set once that is decided, so that a repeated report says the same
    deregister: bool = False  # the task definition is to go once no held run needs it
    missing_since: float | None = None
    due: float = 0.0  # when the sweeper looks at the task next

    def enter(self, phase: Phase) -> None:
        """Go on to the next phase."""
        if phase is not self.phase:
            self.phase = phase
            self.since = time.monotonic()

    def hide(self, message: str) -> str:
        """The message without what no message may tell, as far as that is known yet."""
        return self.placement.hide(message) if self.placement is not None else message

    @property
    def in_phase_for(self) -> float:
        """Seconds since the phase began."""
        return time.monotonic() - self.since


class Ledger:
    """What is in flight. A run occupies a slot from its claim until its task has stopped."""

    def __init__(self, *, limit: int | None, max_launching: int) -> None:
        self._limit = limit
        self._max_launching = max_launching
        self._held: dict[UUID, Held] = {}
        self._freed = anyio.Event()
        self.counts: Counter[str] = Counter()
        """What happened since the start, by name: claimed, launched, completed, crashed …"""

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(tuple(self._held.values()))

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._held

    def get(self, run_id: UUID) -> Held | None:
        """The run, if this worker holds it."""
        return self._held.get(run_id)

    @property
    def free(self) -> int:
        """How many more runs may be claimed now: below the limit, and below the launch queue's length."""
        launching = sum(held.phase in {Phase.CLAIMED, Phase.LAUNCHING} for held in self._held.values())
        room = self._max_launching - launching
        if self._limit is not None:
            running = sum(held.phase is not Phase.STOPPED for held in self._held.values())
            room = min(room, self._limit - running)
        return max(room, 0)

    def take(self, held: Held) -> None:
        """Begin to hold a run. Its slot is taken before the claim is asked, so that no claim exceeds the limit."""
        self._held[held.run.run_id] = held

    def drop(self, held: Held) -> None:
        """The run is not this worker's any more: told, released, or never became ours."""
        if self._held.get(held.run.run_id) is held:
            del self._held[held.run.run_id]
        self.freed()

    def freed(self) -> None:
        """Tell those who wait that `free` may have grown."""
        self._freed.set()
        self._freed = anyio.Event()

    async def wait_freed(self) -> None:
        """Wait until a slot may have become free, or a run was dropped."""
        await self._freed.wait()
