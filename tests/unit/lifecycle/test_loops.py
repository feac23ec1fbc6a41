"""Health is about the loops: that they turn, not what comes of their calls."""

from __future__ import annotations

import anyio
import pytest

from ecs_worker.errors import PrefectUnavailable
from ecs_worker.lifecycle.loops import PULSE, Pulse, every
from support.builders import HandClock

pytestmark = pytest.mark.anyio


class TurnedEnough(Exception):
    pass


async def test_a_loop_whose_calls_fail_turns_all_the_same() -> None:
    clock = HandClock()
    pulse = Pulse(clock)
    PULSE.set(pulse)
    turns = 0

    async def fails() -> None:
        nonlocal turns
        turns += 1
        clock.advance(400)
        if turns == 3:
            raise TurnedEnough
        raise PrefectUnavailable("503")

    with pytest.raises(TurnedEnough):
        await every(0.001, fails, trouble="It can't be done now")
    clock.advance(-400)
    assert (turns, pulse.hanging()) == (3, [])


async def test_a_loop_that_hangs_is_named() -> None:
    clock = HandClock()
    pulse = Pulse(clock)
    PULSE.set(pulse)
    hangs = anyio.Event()

    async def hang() -> None:
        hangs.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as loops:
        loops.start_soon(lambda: every(0.001, hang, hangs_after=60))
        await hangs.wait()
        clock.advance(59)
        assert pulse.hanging() == []
        clock.advance(2)
        (name,) = pulse.hanging()
        assert name.endswith("hang")
        assert pulse.ages()[name] == pytest.approx(61)
        loops.cancel_scope.cancel()
