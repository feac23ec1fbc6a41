"""The simulator's time: wall clock at the start, then `speed` seconds for every real one, or jumps on request."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """A call that is due at a simulated time, until cancelled."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[float], None]) -> None:
        self.callback: Callable[[float], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Clock:
    """Simulated seconds since the epoch. One heap and one loop timer serve any number of pending calls."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._base = time.time()
        self._since = time.monotonic()
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._armed: asyncio.TimerHandle | None = None

    @property
    def speed(self) -> float:
        return self._speed

    def now(self) -> float:
        return self._base + (time.monotonic() - self._since) * self._speed

    def set_speed(self, speed: float) -> None:
        """From here on, `speed` simulated seconds pass in a real one."""
        self._base, self._since = self.now(), time.monotonic()
        self._speed = speed
        self._arm()

    def advance(self, seconds: float) -> None:
        """Jumps ahead and does what fell due, in its order, each at its own time."""
        self._base += seconds
        self.run_due()

    def call_at(self, when: float, callback: Callable[[float], None]) -> Timer:
        """Calls `callback(when)` once `when` has come: late calls still learn the time they were due."""
        timer = Timer(callback)
        heapq.heappush(self._heap, (when, next(self._order), timer))
        if self._heap[0][2] is timer:
            self._arm()
        return timer

    def run_due(self) -> None:
        while self._heap and self._heap[0][0] <= self.now():
            when, _, timer = heapq.heappop(self._heap)
            if timer.callback is not None:
                timer.callback(when)
        self._arm()

    def close(self) -> None:
        self._heap.clear()
        self._arm()

    def _arm(self) -> None:
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None
        left = self._heap[0][0] - self.now() if self._heap else math.inf
        if left <= 0 or (left < math.inf and self._speed > 0):
            real = left / self._speed if left > 0 else 0.0
            self._armed = asyncio.get_running_loop().call_later(real, self.run_due)
