"""What a run's states tell of its claims."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from ecs_worker.lifecycle.run.claims import CLAIMED_BY, claimant, ended_before, latest_claim
from ecs_worker.prefect_api.schemas import RunState, StateType

NOW = datetime(2026, 1, 1, tzinfo=UTC)
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


def state(kind: StateType, age: float, *, claim: UUID | None = None, message: str | None = None) -> RunState:
    return RunState(kind, kind.title(), message=message, timestamp=NOW - timedelta(seconds=age), transition_id=claim)


def test_the_newest_claim_counts_and_sub_states_do_not() -> None:
    old, new = uuid4(), uuid4()
    history = [
        state(StateType.PENDING, 500, claim=old, message=CLAIMED_BY + "a"),
        state(StateType.SCHEDULED, 400),
        state(StateType.PENDING, 100, claim=new, message=CLAIMED_BY + "b"),
        state(StateType.PENDING, 50),  # InfrastructurePending has no transition id of a claim
        state(StateType.RUNNING, 10, claim=uuid4()),
    ]
    found = latest_claim(history, NOW)
    assert found is not None
    assert (found.claim_id, found.worker, found.age) == (new, "b", 100)


def test_a_run_without_a_claim_has_none() -> None:
    assert latest_claim([state(StateType.RUNNING, 5, claim=uuid4())], NOW) is None


def test_only_our_own_message_names_a_claimant() -> None:
    assert claimant(CLAIMED_BY + "eu-1") == "eu-1"
    assert claimant("something else") is None
    assert claimant(None) is None
