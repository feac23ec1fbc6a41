"""The judgement of a stopped task's run, over all combinations of run state and claim."""

from __future__ import annotations

from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from ecs_worker.lifecycle.report import Decision, Seen, decide
from ecs_worker.prefect_api.schemas import StateType

CLAIM = uuid4()
OTHER = uuid4()
TASK = "default::arn:aws:ecs:us-east-1:123456789012:task/default/1"
OTHER_TASK = "default::arn:aws:ecs:us-east-1:123456789012:task/default/2"

states = st.sampled_from(StateType)
claims = st.sampled_from([None, CLAIM, OTHER])
identifiers = st.sampled_from(["", TASK, OTHER_TASK])
stopped = st.floats(min_value=0, max_value=100)
grace = st.floats(min_value=0, max_value=50)


def judge(seen: Seen | None, stopped_for: float = 100, wait: float = 5) -> Decision:
    return decide(seen, claim_id=CLAIM, identifier=TASK, stopped_for=stopped_for, grace=wait)


@given(states, claims, identifiers, stopped, grace)
def test_a_run_that_goes_on_or_has_ended_is_never_marked(
    state: StateType, claim: UUID | None, identifier: str, stopped_for: float, wait: float
) -> None:
    decision = judge(Seen(state, claim, identifier), stopped_for, wait)
    if state.final or state in {StateType.PAUSED, StateType.SCHEDULED}:
        assert decision is Decision.FORGET
    if decision is Decision.CRASH:
        assert state in {StateType.PENDING, StateType.RUNNING}
    if decision is Decision.CANCEL:
        assert state is StateType.CANCELLING


@given(states, claims, identifiers, stopped, grace)
def test_what_belongs_to_another_claim_or_task_is_left_alone(
    state: StateType, claim: UUID | None, identifier: str, stopped_for: float, wait: float
) -> None:
    if claim == OTHER or identifier == OTHER_TASK:
        assert judge(Seen(state, claim, identifier), stopped_for, wait) is Decision.FORGET


@given(
    st.sampled_from([StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]),
    st.sampled_from([None, CLAIM]),
    st.sampled_from(["", TASK]),
    stopped,
    grace,
)
def test_our_unfinished_run_always_comes_to_an_end(
    state: StateType, claim: UUID | None, identifier: str, stopped_for: float, wait: float
) -> None:
    decision = judge(Seen(state, claim, identifier), stopped_for, wait)
    if state is StateType.CANCELLING:
        assert decision is Decision.CANCEL
    elif stopped_for >= wait:
        assert decision is Decision.CRASH
    else:
        assert decision is Decision.WAIT


def test_a_deleted_run_is_forgotten() -> None:
    assert judge(None) is Decision.FORGET


def test_the_cluster_may_be_spelt_by_name_or_arn() -> None:
    by_arn = "arn:aws:ecs:us-east-1:123456789012:cluster/default::arn:aws:ecs:us-east-1:123456789012:task/default/1"
    assert judge(Seen(StateType.RUNNING, None, by_arn)) is Decision.CRASH
