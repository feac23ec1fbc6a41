"""What is looked up is asked for once, and its failure is everybody's who waited."""

from __future__ import annotations

import anyio
import pytest

from ecs_worker.errors import AwsError
from ecs_worker.lifecycle.rendering.lookups import Lookups

pytestmark = pytest.mark.anyio


class Asked:
    """A question that is answered, or fails, once `gate` is set."""

    def __init__(self, *answers: int | Exception) -> None:
        self.gate = anyio.Event()
        self.answers = list(answers)
        self.times = 0

    async def __call__(self) -> int:
        self.times += 1
        await self.gate.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def gather(lookups: Lookups[str, int], asked: Asked, number: int) -> list[int | Exception]:
    """What so many who ask at the same time get."""
    got: list[int | Exception] = []

    async def ask() -> None:
        try:
            got.append(await lookups.get("key", asked))
        except AwsError as error:
            got.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(number):
            group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        asked.gate.set()
    return got


async def test_one_call_serves_all() -> None:
    asked = Asked(7)
    assert await gather(Lookups(60), asked, 50) == [7] * 50
    assert asked.times == 1


async def test_a_failure_is_shared_and_not_kept() -> None:
    failure = AwsError("DescribeSubnets", "Timeout", "no answer")
    asked, lookups = Asked(failure, 7), Lookups[str, int](60)
    assert await gather(lookups, asked, 50) == [failure] * 50
    assert asked.times == 1
    assert await lookups.get("key", asked) == 7


async def test_when_who_asked_is_cancelled_another_asks() -> None:
    asked, lookups = Asked(7), Lookups[str, int](60)
    scope = anyio.CancelScope()

    async def first() -> None:
        with scope:
            await lookups.get("key", asked)

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(lookups.get, "key", asked)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        asked.gate.set()
    assert asked.times == 2
