from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from ecs_worker.doctor.asking import Asking, all_of, code, side_by_side
from ecs_worker.doctor.finding import Untold
from ecs_worker.errors import AwsError, UserError

pytestmark = pytest.mark.anyio


async def test_equal_questions_are_asked_once_also_at_the_same_time() -> None:
    asked = list[str]()

    async def ask(what: str) -> str:
        asked.append(what)
        await anyio.lowlevel.checkpoint()
        return what.upper()

    asking = Asking()
    assert await asking.each(["a", "b", "a"], lambda each: each, ask) == {"a": "A", "b": "B"}
    assert await asking.get("a", lambda: ask("other")) == "A"
    assert asked == ["a", "b"]


async def test_trouble_is_an_answer_and_is_kept() -> None:
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        raise AwsError("DescribeSubnets", "UnauthorizedOperation", "Not you.")

    asking = Asking()
    for _ in range(2):
        found = await asking.get("subnets", ask)
        assert isinstance(found, Untold)
        assert found.denied
        assert code(found) == "UnauthorizedOperation"
    assert asked == 1


async def test_no_question_waits_for_long_and_none_for_another() -> None:
    async def hangs() -> str:
        await anyio.sleep_forever()
        return ""

    async def answers() -> str:
        return "here"

    asking = Asking(0.05)
    slow, quick = await side_by_side(lambda: asking.get("slow", hangs), lambda: asking.get("quick", answers))
    assert isinstance(slow, Untold)
    assert "no answer within 0.05 s" in slow.why
    assert not slow.denied
    assert quick == "here"


async def test_an_error_is_raised_as_itself() -> None:
    async def fails() -> str:
        raise UserError("Correct it.")

    async def answers() -> str:
        return "here"

    with pytest.raises(UserError, match="Correct it"):
        await side_by_side(fails, answers)
    with pytest.raises(UserError, match="Correct it"):
        await side_by_side(answers, fails)


async def test_all_are_asked_in_their_order() -> None:
    async def ask(number: int) -> int:
        for _ in range(50 - number):
            await anyio.lowlevel.checkpoint()
        return number * 2

    found = await all_of(range(50), ask)
    assert list(found.items()) == [(number, number * 2) for number in range(50)]
