"""Which claims came after the run's end."""

from __future__ import annotations

from uuid import uuid4

import pytest

from ecs_worker.lifecycle.claim import ended_before
from ecs_worker.prefect_api.schemas import RunState, StateType

CLAIM, OTHER = uuid4(), uuid4()
SCHEDULED = RunState(StateType.SCHEDULED, "Scheduled")
LATE = RunState(StateType.SCHEDULED, "Late")
THEIRS = RunState(StateType.PENDING, "Pending", transition_id=OTHER)
OURS = RunState(StateType.PENDING, "Pending", transition_id=CLAIM)
RUNNING = RunState(StateType.RUNNING, "Running")
CRASHED = RunState(StateType.CRASHED, "Crashed")
COMPLETED = RunState(StateType.COMPLETED, "Completed")


@pytest.mark.parametrize(
    ("states", "end"),
    [
        ([SCHEDULED, OURS], None),
        ([SCHEDULED, LATE, OURS], None),
        ([SCHEDULED, OURS, LATE], None),  # it came while the run became Late
        ([SCHEDULED, THEIRS, RUNNING, CRASHED, SCHEDULED, OURS], None),  # scheduled anew
        ([SCHEDULED, THEIRS, RUNNING, COMPLETED, OURS], COMPLETED),
        ([SCHEDULED, THEIRS, RUNNING, OURS, COMPLETED], COMPLETED),  # it waited in the server while the run ended
        ([SCHEDULED, OURS, THEIRS, RUNNING, COMPLETED], COMPLETED),
        ([SCHEDULED, THEIRS, COMPLETED], None),  # not our claim at all
    ],
)
def test_the_end_that_a_claim_overwrote(states: list[RunState], end: RunState | None) -> None:
    assert ended_before(states, CLAIM) is end
