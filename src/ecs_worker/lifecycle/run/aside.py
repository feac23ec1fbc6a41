"""Aside: launches that wait leave their slot to others, and a place lets only so many wait.

A place is where a launch is asked for: an account, a Region, a cluster and its capacity. Memory only: what waits is
Pending by its claim, and `adopt` goes on with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from uuid import UUID

MOST_ASIDE = 50  # launches of one place
FULL_AFTER = 10.0  # seconds that the first of them has waited: before that it is only a burst
FIRST_LATER, LAST_LATER = 60.0, 900.0  # seconds after which a run that was turned away may be tried again
APART = 1.0  # seconds between two such runs of one place


@dataclass(slots=True)
class _Crowd:
    since: dict[UUID, float] = field(default_factory=dict)
    why: str = ""
    next_at: float = 0.0


class Aside:
    """Who waits where. Holds the ids of the runs; `most` of one place at a time."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._places: dict[UUID, Hashable] = {}
        self._crowds: dict[Hashable, _Crowd] = {}

    def __len__(self) -> int:
        return len(self._places)

    def waits(self) -> dict[Hashable, tuple[int, float, str]]:
        """For each place: how many wait, for how many seconds the first does, and for what."""
        now = self._clock()
        return {
            place: (len(crowd.since), now - next(iter(crowd.since.values())), crowd.why)
            for place, crowd in self._crowds.items()
            if crowd.since
        }

    def step(self, run_id: UUID, place: Hashable, why: str = "") -> bool:
        """The launch waits, for that reason. False: too many wait there already."""
        crowd = self._crowds.setdefault(place, _Crowd())
        crowd.why = why or crowd.why
        if run_id not in crowd.since:
            if len(crowd.since) >= self._most:
                return False
            crowd.since[run_id] = self._clock()
            self._places[run_id] = place
        return True

    def back(self, run_id: UUID) -> None:
        """The launch waits no longer."""
        place = self._places.pop(run_id, None)
        if (crowd := self._crowds.get(place)) is not None:
            crowd.since.pop(run_id, None)
            if not crowd.since and crowd.next_at <= self._clock():
                del self._crowds[place]

    def refusal(self, place: Hashable) -> str:
        """Why one more launch would only wait there; empty: it may be tried."""
        crowd = self._crowds.get(place)
        if crowd is None or len(crowd.since) < self._most:
            return ""
        waited = self._clock() - next(iter(crowd.since.values()))
        if waited < FULL_AFTER:
            return ""
        why = f": {crowd.why}" if crowd.why else "."
        return f"{len(crowd.since)} other launches wait there already, the first for {waited:.0f} s{why}"

    def later(self, place: Hashable) -> float:
        """Seconds after which a run that is turned away may be tried again: not all at the same time."""
        now = self._clock()
        # Of places where nobody waits, only those are remembered where somebody is yet to come back.
        self._crowds = {key: crowd for key, crowd in self._crowds.items() if crowd.since or crowd.next_at > now}
        crowd = self._crowds.setdefault(place, _Crowd())
        crowd.next_at = max(now + FIRST_LATER, crowd.next_at + APART)
        if crowd.next_at - now > LAST_LATER:
            crowd.next_at = now + FIRST_LATER
        return crowd.next_at - now
