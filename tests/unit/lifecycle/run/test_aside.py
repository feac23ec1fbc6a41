"""Launches that wait: how many of a place, and when what is turned away may come again."""

from __future__ import annotations

from uuid import UUID

import pytest

from ecs_worker.lifecycle.run.aside import FIRST_LATER, FULL_AFTER, LAST_LATER, Aside
from support.builders import HandClock

FULL, OTHER = "full", "other"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def aside(clock: HandClock) -> Aside:
    return Aside(2, clock)


def test_a_place_lets_only_so_many_wait(aside: Aside) -> None:
    assert [aside.step(UUID(int=number), FULL) for number in range(4)] == [True, True, False, False]
    assert aside.step(UUID(int=0), FULL, "once more")
    assert aside.step(UUID(int=9), OTHER)
    assert len(aside) == 3
    aside.back(UUID(int=0))
    aside.back(UUID(int=3))  # it never stood there
    assert aside.step(UUID(int=3), FULL)
    assert len(aside) == 3


def test_a_place_is_full_once_its_first_has_waited(aside: Aside, clock: HandClock) -> None:
    aside.step(UUID(int=0), FULL)
    clock.advance(FULL_AFTER)
    assert aside.refusal(FULL) == ""
    aside.step(UUID(int=1), FULL, "RESOURCE:MEMORY.")
    assert aside.refusal(FULL) == "2 other launches wait there already, the first for 10 s: RESOURCE:MEMORY."
    assert aside.refusal(OTHER) == ""
    aside.back(UUID(int=0))
    assert aside.refusal(FULL) == ""


def test_what_is_turned_away_comes_back_one_after_the_other(aside: Aside, clock: HandClock) -> None:
    first, second = aside.later(FULL), aside.later(FULL)
    assert first == FIRST_LATER
    assert second > first
    assert aside.later(OTHER) == FIRST_LATER
    later = [aside.later(FULL) for _ in range(3000)]
    assert FIRST_LATER <= min(later) <= max(later) <= LAST_LATER
    clock.advance(LAST_LATER)
    assert aside.later(FULL) == FIRST_LATER
