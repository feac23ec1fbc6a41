from __future__ import annotations

import logging
from dataclasses import dataclass

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecs_worker.errors import PrefectUnreachable
from ecs_worker.lifecycle.journal.outbox import Outbox

pytestmark = pytest.mark.anyio

PER_BATCH = 4
MOST = (10, 6)  # of the first lane and the second


@dataclass(frozen=True)
class Item:
    lane: int
    number: int  # in the order of adding
    size: int


@dataclass(frozen=True)
class Add:
    lane: int
    size: int


@dataclass(frozen=True)
class Flush:
    """The API takes so many batches and is away then; meanwhile these are added, one with each batch."""

    taken: int
    meanwhile: tuple[Add, ...]


class Post:
    """An outbox of two lanes, the API it sends to, and what became of all that was added."""

    def __init__(self) -> None:
        self.added: list[Item] = []
        self.batches: list[list[Item]] = []
        self.dropped: list[Item] = []
        self.on_the_way: list[Item] = []
        self.takes = 0
        self.meanwhile: list[Add] = []
        self.outbox: Outbox[Item] = Outbox("items", self.send, PER_BATCH, lambda item: item.size)
        self.lanes = [self.outbox.lane(most, self.drop) for most in MOST]

    def add(self, what: Add) -> None:
        item = Item(what.lane, len(self.added), what.size)
        self.added.append(item)
        self.lanes[what.lane].add(item)

    async def send(self, batch: list[Item]) -> None:
        self.on_the_way = batch
        if self.meanwhile:
            self.add(self.meanwhile.pop(0))
        self.on_the_way = []
        if not self.takes:
            raise PrefectUnreachable("no answer")
        self.takes -= 1
        self.batches.append(batch)

    async def flush(self, what: Flush) -> None:
        self.takes, self.meanwhile = what.taken, list(what.meanwhile)
        await self.outbox.flush()

    def drop(self, item: Item) -> None:
        waiting = self.waiting(item.lane)
        assert item == waiting[0]  # the oldest
        assert sum(one.size for one in waiting) > MOST[item.lane]  # only when it has to
        self.dropped.append(item)

    def waiting(self, lane: int) -> list[Item]:
        gone = {item.number for item in (*self.sent, *self.dropped, *self.on_the_way)}
        return [item for item in self.added if item.lane == lane and item.number not in gone]

    @property
    def sent(self) -> list[Item]:
        return [item for batch in self.batches for item in batch]


ADDS = st.builds(Add, st.integers(0, 1), st.integers(1, 12))
FLUSHES = st.builds(Flush, st.integers(0, 4), st.lists(ADDS, max_size=3).map(tuple))


@given(st.lists(ADDS | FLUSHES, max_size=40))
async def test_only_the_oldest_beyond_the_bound_are_lost_and_none_is_doubled_or_out_of_order(
    actions: list[Add | Flush],
) -> None:
    post = Post()
    for action in actions:
        if isinstance(action, Add):
            post.add(action)
        else:
            await post.flush(action)
        for lane, most in enumerate(MOST):
            waiting = post.waiting(lane)
            assert len(post.lanes[lane]) == len(waiting)
            assert sum(item.size for item in waiting) <= most
    await post.flush(Flush(1_000, ()))
    assert len(post.outbox) == 0
    assert sorted((*post.sent, *post.dropped), key=lambda item: item.number) == post.added
    for lane in (0, 1):
        numbers = [item.number for item in post.sent if item.lane == lane]
        assert numbers == sorted(numbers)
    for batch in post.batches:
        assert len(batch) == 1 or sum(item.size for item in batch) <= PER_BATCH
        assert [item.lane for item in batch] == sorted(item.lane for item in batch)


async def test_without_sizes_items_are_counted() -> None:
    batches: list[list[str]] = []

    async def send(batch: list[str]) -> None:
        batches.append(batch)

    outbox: Outbox[str] = Outbox("words", send, 2)
    lane = outbox.lane(5)
    for word in "abcdefg":
        lane.add(word)
    await outbox.flush()
    assert batches == [["c", "d"], ["e", "f"], ["g"]]


async def test_an_outage_and_its_drops_are_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    away = True

    async def send(_: list[str]) -> None:
        if away:
            raise PrefectUnreachable("no answer came")

    outbox: Outbox[str] = Outbox("words", send, 1)
    lane = outbox.lane(2)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for word in "abc":
                lane.add(word)
            await outbox.flush()
        assert caplog.messages == ["Words wait, since the Prefect API does not take them: no answer came"]
        caplog.clear()
        away = False
        await outbox.flush()
        lane.add("d")
        await outbox.flush()
        assert caplog.messages == ["4 words were dropped: the Prefect API took none for too long."]
        away = True
        lane.add("e")
        await outbox.flush()
        assert caplog.messages[1:] == ["Words wait, since the Prefect API does not take them: no answer came"]


async def test_two_flushes_at_the_same_time_send_one_batch_after_the_other() -> None:
    order: list[str] = []
    begun, go_on = anyio.Event(), anyio.Event()

    async def send(batch: list[str]) -> None:
        begun.set()
        await go_on.wait()
        order.extend(batch)

    outbox: Outbox[str] = Outbox("words", send, 1)
    lane = outbox.lane(10)
    for word in "abc":
        lane.add(word)
    async with anyio.create_task_group() as flushes:
        flushes.start_soon(outbox.flush)
        await begun.wait()
        flushes.start_soon(outbox.flush)
        await anyio.wait_all_tasks_blocked()
        assert len(outbox) == 2  # the second flush has taken nothing
        go_on.set()
    assert order == ["a", "b", "c"]


async def test_what_is_being_sent_when_the_flush_is_cancelled_waits_on() -> None:
    sent: list[str] = []
    begun, go_on = anyio.Event(), anyio.Event()

    async def send(batch: list[str]) -> None:
        begun.set()
        await go_on.wait()
        sent.extend(batch)

    outbox: Outbox[str] = Outbox("words", send, 2)
    lane = outbox.lane(10)
    for word in "abc":
        lane.add(word)
    async with anyio.create_task_group() as flushes:
        flushes.start_soon(outbox.flush)
        await begun.wait()
        flushes.cancel_scope.cancel()
    assert len(outbox) == 3
    go_on.set()
    await outbox.flush()
    assert sent == ["a", "b", "c"]
