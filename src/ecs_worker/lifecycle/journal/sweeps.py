"""Sweeps: read once more what streams have shown, for the lines that came late."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from ecs_worker.lifecycle.journal.tail import MOST_DELAY, Reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ecs_worker.lifecycle.journal.tail import Pace, Tail

STREAMS_PER_CALL = 100  # FilterLogEvents takes no more
FEW_STREAMS = 2  # of a group; so few are read one by one


class Sweeps:
    """The second way of reading a group's streams: which stretches of time are due, and what is known after each.

    `Group` does the reading. A stretch that isn't read to its end is planned again.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._planned: deque[Reading] = deque()
        self._regular: list[Reading] = []  # of the latest regular sweep, read or not
        self._regular_at = 0.0
        self._cheap = True  # the latest regular sweep took hardly more pages than it had to

    @property
    def current(self) -> Reading | None:
        """What is to be read now."""
        return self._planned[0] if self._planned else None

    def plan(self, tails: Sequence[Tail], latest: int, *, together: bool) -> None:
        """When all that was planned is read: plan what is due of these streams.

        `latest` is the newest ingestion time known. `together`: many streams may be read with one call.
        """
        if self._planned:
            return
        now = time.monotonic()
        at_end = [t for t in tails if t.ended and now >= t.quiet_since + t.grace(self._pace)]
        self._planned.extend(_readings(at_end, latest, None, together=together))
        if now >= self._regular_at:
            if self._regular:
                self._cheap = sum(reading.pages for reading in self._regular) <= 2 * len(self._regular)
            self._regular_at = now + self._pace.sweep
            end = None if self._cheap else latest - MOST_DELAY
            self._regular = _readings(set(tails).difference(at_end), latest, end, together=together)
            self._planned.extend(self._regular)

    def settle(self) -> None:
        """The current stretch is read to its end: it is complete, except for its last `MOST_DELAY`."""
        reading = self._planned.popleft()
        for tail in reading.tails.values():
            tail.close(reading.latest - MOST_DELAY)
            whole = reading.end is None and tail.caught_up
            if whole and tail.ended and reading.began >= tail.quiet_since + tail.grace(self._pace):
                tail.drained = True

    def abandon(self) -> None:
        """The current stretch can't be read: plan anew."""
        self._planned.clear()


def _readings(tails: Iterable[Tail], latest: int, end: int | None, *, together: bool) -> list[Reading]:
    """Readings of these streams up to `end`, with those together that have come equally far."""
    tails = sorted((t for t in tails if end is None or t.position < end), key=lambda tail: tail.position)
    filtered = together and len(tails) > FEW_STREAMS
    size = STREAMS_PER_CALL if filtered else 1
    return [
        Reading(tails[start : start + size], filtered=filtered, end=end, latest=latest)
        for start in range(0, len(tails), size)
    ]
