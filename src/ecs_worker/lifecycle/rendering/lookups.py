"""Lookups: one small cache: values live for a time, and concurrent askers share one call."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class _Asked:
    """A call that is under way, and what came of it."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: Exception | None = None


class Lookups(Generic[K, V]):
    """`await lookups.get(key, ask)` asks once per key and `seconds`; errors are not kept."""

    def __init__(self, seconds: float, *, most: int = 1000) -> None:
        self._seconds = seconds
        self._most = most
        self._kept: dict[K, tuple[float, V]] = {}
        self._asked: dict[K, _Asked] = {}

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """The value, from memory while it is fresh. Raises what `ask` raises, also to those who waited meanwhile."""
        while (found := self._fresh(key)) is None:
            asked = self._asked.get(key)
            if asked is None:
                return await self._ask(key, ask)
            await asked.done.wait()
            if asked.error is not None:
                raise asked.error
            # Who asked was cancelled, or the value is stale already.
        return found[1]

    async def _ask(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        asked = self._asked[key] = _Asked()
        try:
            value = await ask()
        except Exception as error:
            asked.error = error
            raise
        else:
            self.put(key, value)
            return value
        finally:
            del self._asked[key]
            asked.done.set()

    def peek(self, key: K) -> V | None:
        """The value if it is in memory and fresh."""
        found = self._fresh(key)
        return found[1] if found is not None else None

    def put(self, key: K, value: V) -> None:
        """Keep a value that was learned otherwise."""
        self._kept.pop(key, None)
        while len(self._kept) >= self._most:
            self._kept.pop(next(iter(self._kept)))  # the oldest
        self._kept[key] = (time.monotonic() + self._seconds, value)

    def forget(self, key: K) -> None:
        """The value turned out to be wrong."""
        self._kept.pop(key, None)

    def forget_value(self, value: V) -> None:
        """Whatever key has that value, it is not true any more."""
        for key in [key for key, (_, kept) in self._kept.items() if kept == value]:
            del self._kept[key]

    def _fresh(self, key: K) -> tuple[float, V] | None:
        found = self._kept.get(key)
        return found if found is not None and found[0] > time.monotonic() else None
