"""What a run's states tell of its claims."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecs_worker.lifecycle.run.claims import claim_message, claimant, ended_before, latest_claim
from ecs_worker.model import Place
from ecs_worker.prefect_api.schemas import RunState, StateType

HERE = Place("eu-west-1", "123456789012", "flows")
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
        state(StateType.PENDING, 500, claim=old, message=claim_message("a", None)),
        state(StateType.SCHEDULED, 400),
        state(StateType.PENDING, 100, claim=new, message=claim_message("b", HERE)),
        state(StateType.PENDING, 50),  # InfrastructurePending has no transition id of a claim
        state(StateType.RUNNING, 10, claim=uuid4()),
    ]
    found = latest_claim(history, NOW)
    assert found is not None
    assert (found.claim_id, found.worker, found.age, found.place) == (new, "b", 100, HERE)


def test_a_run_without_a_claim_has_none() -> None:
    assert latest_claim([state(StateType.RUNNING, 5, claim=uuid4())], NOW) is None


def test_only_our_own_message_names_a_claimant() -> None:
    assert claimant(claim_message("eu-1", None)) == ("eu-1", None)
    assert claimant("something else") == claimant(None) == (None, None)


@given(st.text(min_size=1), st.sampled_from([HERE, Place("", "", "c"), Place("eu-west-1", ""), None]))
def test_a_claim_says_whose_it_is_and_where_that_is(worker: str, place: Place | None) -> None:
    assert claimant(claim_message(worker, place or HERE)) == (worker, place or HERE)


def test_brackets_in_a_worker_s_name_are_no_place() -> None:
    assert claimant("Claimed by ecs-worker blue (old)") == ("blue (old)", None)
    assert claimant(claim_message("blue (old)", HERE)) == ("blue (old)", HERE)
