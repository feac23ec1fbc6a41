"""A week of a fleet's ordinary life in twenty minutes, or a day of one in two: see support/week/script.py."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from support.week.script import RUNS_A_DAY
from support.week.world import play

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.timeout(3600)
def test_a_fleet_s_ordinary_life(pytestconfig: pytest.Config, show: Callable[[str, str], None]) -> None:
    days: float = pytestconfig.getoption("--week-days")
    seed = pytestconfig.getoption("--week-seed")
    if seed is None:
        seed = random.SystemRandom().randrange(1_000_000)
    without = frozenset(filter(None, pytestconfig.getoption("--week-without").split(",")))
    began = time.perf_counter()
    week = play(seed, days, without=without)
    took = time.perf_counter() - began
    book = week.book
    ran = sum(book.outcomes.values())
    figures = [
        f"{days:g} days in {took:.0f} s, seed {seed}" + (f", without {', '.join(sorted(without))}" if without else ""),
        f"{ran} runs: {_counts(book.outcomes)}",
        f"{week.fleet.redeploys} redeploys; {_counts(book.happened)}",
        f"{week.api.traffic.calls.total()} calls to the Prefect API, {week.judge.aws_calls.total()} to AWS",
        f"memory by day: {', '.join(f'{size / 1e6:.0f} MB' for size in week.judge.memory)}",
    ]
    show("week", "\n".join(figures))
    assert not book.complaints, f"\n`make week SEED={seed}` repeats it.\n{book.report()}"
    assert ran > 0.95 * RUNS_A_DAY * days
    assert not week.api.unknown


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{kind} {number}" for kind, number in sorted(counts.items()))
