"""The order in which calls go out, and what a 429 means for all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest

from ecs_worker.prefect_api.budget import (
    CLOUD_PER_MINUTE,
    LABELS_BURST,
    LEAST_PER_MINUTE,
    TURN_OF_THE_LAST,
    URGENCY,
    Budget,
    Urgency,
    as_urgent,
)

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

pytestmark = pytest.mark.anyio


class Calls:
    """Calls that each take until they are told to end; `began` is the order in which they could."""

    def __init__(self, budget: Budget, group: TaskGroup) -> None:
        self.budget = budget
        self.began: list[Urgency] = []
        self._group = group
        self._ends: list[anyio.Event] = []

    async def begin(self, *urgencies: Urgency) -> None:
        for urgency in urgencies:
            with as_urgent(urgency):
                self._group.start_soon(self._call, urgency)
            await anyio.wait_all_tasks_blocked()

    async def end(self, number: int = 1) -> None:
        for _ in range(number):
            self._ends.pop(0).set()
            await anyio.wait_all_tasks_blocked()

    async def _call(self, urgency: Urgency) -> None:
        async with self.budget.turn():
            self.began.append(urgency)
            end = anyio.Event()
            self._ends.append(end)
            await end.wait()


@pytest.fixture
async def calls() -> Calls:  # type: ignore[misc]  # an asynchronous generator
    async with anyio.create_task_group() as group:
        yield Calls(Budget(1), group)
        group.cancel_scope.cancel()


async def test_the_most_urgent_goes_first_and_a_heartbeat_beside_all(calls: Calls) -> None:
    await calls.begin(Urgency.RUN, Urgency.ADOPT, Urgency.TELL, Urgency.RUN, Urgency.POLL, Urgency.BEAT)
    assert calls.began == [Urgency.RUN, Urgency.BEAT]
    await calls.end(5)
    assert calls.began[2:] == [Urgency.POLL, Urgency.RUN, Urgency.TELL, Urgency.ADOPT]


async def test_nothing_waits_for_ever(calls: Calls) -> None:
    await calls.begin(Urgency.RUN, Urgency.ADOPT, *[Urgency.RUN] * 2 * TURN_OF_THE_LAST)
    await calls.end(TURN_OF_THE_LAST + 1)
    assert Urgency.ADOPT in calls.began


async def test_who_gives_up_leaves_the_turn_to_the_next(calls: Calls) -> None:
    await calls.begin(Urgency.RUN)
    with anyio.move_on_after(0.01):
        async with calls.budget.turn():
            pytest.fail("its turn has not come")
    await calls.begin(Urgency.TELL)
    await calls.end()
    assert calls.began == [Urgency.RUN, Urgency.TELL]


async def immediately(budget: Budget, urgency: Urgency, most: int) -> int:
    """How many calls, up to `most`, go without waiting."""
    went = 0
    with as_urgent(urgency):
        for wanted in range(1, most + 1):
            with anyio.CancelScope(deadline=-1):  # cancelled at the first wait
                async with budget.turn():
                    went += 1
            if went < wanted:
                break
    return went


async def test_cloud_begins_at_the_lowest_plan_s_rate() -> None:
    budget = Budget(8, CLOUD_PER_MINUTE)
    told = await immediately(budget, Urgency.TELL, 1000)
    runs = await immediately(budget, Urgency.RUN, 1000)
    assert 0 < told < told + runs <= CLOUD_PER_MINUTE / 4
    assert runs > 0
    assert await immediately(budget, Urgency.BEAT, 20) == 20


async def test_elsewhere_there_is_no_limit_until_the_first_429() -> None:
    budget = Budget(8)
    assert await immediately(budget, Urgency.RUN, 5000) == 5000
    budget.refused(None)
    assert not budget.per_minute
    budget.refused(0.2)
    began = asyncio.get_running_loop().time()
    assert budget.per_minute == 2500  # half of what went out within the last minute
    assert await immediately(budget, Urgency.BEAT, 1) == 0
    async with budget.turn():
        assert asyncio.get_running_loop().time() - began >= 0.2


async def test_refusals_that_come_together_count_once_and_the_rate_rises_again() -> None:
    budget = Budget(8, 600)
    await immediately(budget, Urgency.RUN, 150)
    for _ in range(10):
        budget.refused(None)
    before = budget.per_minute
    assert before == 75  # half of what went out within the last minute
    for _ in range(3):
        async with budget.turn():
            pass
    assert budget.per_minute is not None
    assert budget.per_minute > before


async def test_the_rate_has_a_floor() -> None:
    budget = Budget(8, 40)
    budget.refused(None)
    assert budget.per_minute == LEAST_PER_MINUTE


async def test_labels_of_adopted_runs_are_paced_everywhere() -> None:
    budget = Budget(8)
    assert await immediately(budget, Urgency.LABEL, 1000) == LABELS_BURST
    assert await immediately(budget, Urgency.ADOPT, 1000) == 1000


async def test_telling_of_a_run_that_is_adopted_is_not_more_urgent_than_its_adoption() -> None:
    with as_urgent(Urgency.LABEL), as_urgent(Urgency.TELL):
        assert URGENCY.get() is Urgency.LABEL
    with as_urgent(Urgency.ADOPT), as_urgent(Urgency.BEAT):
        assert URGENCY.get() is Urgency.BEAT
