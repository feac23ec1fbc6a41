from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ecs_worker.lifecycle.journal.sweeps import STREAMS_PER_CALL, Sweeps
from ecs_worker.lifecycle.journal.tail import MOST_DELAY, Pace, Tail
from ecs_worker.model import AwsTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecs_worker.aws.logs import LogEvent
    from ecs_worker.lifecycle.journal.tail import Reading

LATEST = 10 * MOST_DELAY
ALWAYS_DUE = Pace(sweep=0, quiet=0, unseen=0, patience=0)


def shown(_: Sequence[LogEvent]) -> None:
    raise AssertionError("plans show no lines")


def tails(number: int, *, position: int = 0) -> list[Tail]:
    """Streams whose tips have been read once."""
    return [Tail(AwsTarget(), "g", f"s{n}", shown, position=position + n, caught_up=True) for n in range(number)]


def read(sweeps: Sweeps, *, pages: int = 1) -> list[Reading]:
    """Read all that is planned."""
    done = []
    while (reading := sweeps.current) is not None:
        reading.pages, reading.done = pages, True
        sweeps.settle()
        done.append(reading)
    return done


@pytest.mark.parametrize(
    ("number", "together", "sizes"),
    [
        (2, True, [1, 1]),
        (3, True, [3]),
        (2 * STREAMS_PER_CALL + 50, True, [STREAMS_PER_CALL, STREAMS_PER_CALL, 50]),
        (3, False, [1, 1, 1]),
    ],
)
def test_many_streams_are_read_together_and_few_one_by_one(number: int, together: bool, sizes: list[int]) -> None:
    sweeps = Sweeps(ALWAYS_DUE)
    followed = tails(number)
    sweeps.plan(followed[::-1], LATEST, together=together)
    planned = read(sweeps)
    assert [len(reading.tails) for reading in planned] == sizes
    assert [reading.filtered for reading in planned] == [size > 1 for size in sizes]
    # Those that have come equally far are in one reading.
    assert [tail for reading in planned for tail in reading.tails.values()] == followed


def test_what_is_planned_is_read_before_more_is_planned() -> None:
    sweeps = Sweeps(ALWAYS_DUE)
    sweeps.plan(tails(1), LATEST, together=True)
    first = sweeps.current
    sweeps.plan(tails(1), LATEST, together=True)
    assert read(sweeps) == [first]


def test_regular_sweeps_wait_for_their_time() -> None:
    sweeps = Sweeps(Pace(sweep=3600))
    for planned in (1, 0):
        sweeps.plan(tails(1), LATEST, together=True)
        assert len(read(sweeps)) == planned


def test_memory_follows_the_clock_of_cloudwatch() -> None:
    (tail,) = followed = tails(1)
    sweeps = Sweeps(ALWAYS_DUE)
    sweeps.plan(followed, LATEST, together=True)
    read(sweeps)
    assert tail.position == LATEST - MOST_DELAY


def test_under_load_only_what_is_complete_is_read_again() -> None:
    sweeps = Sweeps(ALWAYS_DUE)
    followed = tails(3)
    for pages, end in ((2, None), (3, None), (3, LATEST + 1 - MOST_DELAY), (1, LATEST + 2 - MOST_DELAY)):
        latest = LATEST if end is None else end + MOST_DELAY
        sweeps.plan(followed, latest, together=True)
        (reading,) = read(sweeps, pages=pages)
        assert reading.end == end
    sweeps.plan(followed, LATEST + 3, together=True)
    assert [reading.end for reading in read(sweeps)] == [None]


def test_a_stretch_that_can_not_be_read_is_planned_again() -> None:
    (tail,) = followed = tails(1)
    sweeps = Sweeps(ALWAYS_DUE)
    sweeps.plan(followed, LATEST, together=True)
    sweeps.abandon()
    assert sweeps.current is None
    assert tail.position == 0
    sweeps.plan(followed, LATEST, together=True)
    assert len(read(sweeps)) == 1


def test_a_stream_is_drained_once_it_was_quiet_long_enough_before_its_last_sweep() -> None:
    for pace, drained in ((ALWAYS_DUE, True), (Pace(sweep=0), False)):
        followed = tails(2)
        followed[0].end()
        sweeps = Sweeps(pace)
        sweeps.plan(followed, LATEST, together=True)
        read(sweeps)
        assert [tail.drained for tail in followed] == [drained, False]
