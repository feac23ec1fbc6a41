"""Outbox: what waits in memory to be sent to the Prefect API, in batches.

If the process dies here, what waits is lost. So only what may be lost goes this way: log lines and events. The
states of runs never do.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from ecs_worker.errors import PrefectError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Lane(Generic[_T]):
    """Items that wait, oldest first, of at most `most` in size. The oldest make room, and `on_drop` is told of each."""

    def __init__(self, most: int, size: Callable[[_T], int], on_drop: Callable[[_T], None]) -> None:
        self._most = most
        self._size = size
        self._on_drop = on_drop
        self._items: deque[_T] = deque()
        self._filled = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: _T) -> None:
        """Put it at the end."""
        self._items.append(item)
        self._filled += self._size(item)
        self._make_room()

    def take(self, room: int, *, at_least_one: bool) -> list[_T]:
        """Take out the oldest that fit into `room`; or else one, if there must be one."""
        taken: list[_T] = []
        while self._items and (self._size(self._items[0]) <= room or (at_least_one and not taken)):
            taken.append(self._pop())
            room -= self._size(taken[-1])
        return taken

    def put_back(self, items: list[_T]) -> None:
        """These were taken out, and could not be sent: they come first again."""
        self._items.extendleft(reversed(items))
        self._filled += sum(map(self._size, items))
        self._make_room()

    def _make_room(self) -> None:
        while self._filled > self._most:
            self._on_drop(self._pop())

    def _pop(self) -> _T:
        item = self._items.popleft()
        self._filled -= self._size(item)
        return item


class Outbox(Generic[_T]):
    """Takes items without waiting, into one lane or several; sends them when told, lane by lane, in batches.

    `what` the items are is a word for the worker's log. `send` sends one batch; its PrefectError means that the batch
    waits on. A batch has at most `per_batch` in size, or one item. `size` counts in any unit, such as bytes; without
    it, items are counted.
    """

    def __init__(
        self,
        what: str,
        send: Callable[[list[_T]], Awaitable[None]],
        per_batch: int,
        size: Callable[[_T], int] = lambda _: 1,
    ) -> None:
        self._what = what
        self._send = send
        self._per_batch = per_batch
        self._size = size
        self._lanes: list[Lane[_T]] = []
        self._sending = anyio.Lock()  # two batches at the same time could come in the wrong order
        self._waits = False
        self._dropped = 0

    def __len__(self) -> int:
        return sum(map(len, self._lanes))

    def lane(self, most: int, on_drop: Callable[[_T], None] | None = None) -> Lane[_T]:
        """Make a lane, which goes into a batch after those made before. Without `on_drop` drops are counted here."""
        lane = Lane(most, self._size, on_drop or self._count)
        self._lanes.append(lane)
        return lane

    async def flush(self) -> None:
        """Send all that waits. What can't be sent now waits on, and stays in order."""
        async with self._sending:
            while batch := self._take():
                if not await self._send_or_put_back(batch):
                    return
                if self._dropped:
                    log.warning(
                        "%d %s were dropped: the Prefect API took none for too long.", self._dropped, self._what
                    )
                    self._dropped = 0

    def _take(self) -> list[tuple[Lane[_T], list[_T]]]:
        room = self._per_batch
        batch: list[tuple[Lane[_T], list[_T]]] = []
        for lane in self._lanes:
            if items := lane.take(room, at_least_one=not batch):
                batch.append((lane, items))
                room -= sum(map(self._size, items))
        return batch

    async def _send_or_put_back(self, batch: list[tuple[Lane[_T], list[_T]]]) -> bool:
        sent = False
        try:
            await self._send([item for _, items in batch for item in items])
            sent = True
        except PrefectError as error:
            if not self._waits:
                log.warning("%s wait, since the Prefect API does not take them: %s", self._what.capitalize(), error)
        finally:
            if not sent:  # also when this was cancelled: an item may then be sent twice, but is not lost
                for lane, items in batch:
                    lane.put_back(items)
        self._waits = not sent
        return sent

    def _count(self, _: _T) -> None:
        self._dropped += 1
