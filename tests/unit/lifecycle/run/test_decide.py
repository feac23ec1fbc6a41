"""Every judgement of an end, over all combinations of what the server and ECS may say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecs_worker.errors import (
    AwsError,
    DocumentUnread,
    JobInvalid,
    LaunchFailed,
    NotOurs,
    NotWanted,
    PrefectNotFound,
    PrefectUnavailable,
    UserError,
)
from ecs_worker.lifecycle.run import decide
from ecs_worker.lifecycle.run.decide import (
    Cancel,
    Crash,
    Drop,
    Forget,
    Launch,
    Release,
    RunSnapshot,
    StartAgain,
    Stop,
    Unknown,
    Wait,
    Watch,
)
from ecs_worker.model import Phase, TaskFacts
from ecs_worker.prefect_api.schemas import StateType
from support.builders import HandClock, claimed_run, placement, run_in, task_arn

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.run import Run

CLAIM, OTHER = uuid4(), uuid4()
ARN = task_arn(task_id="1")
TASK = f"default::{ARN}"
OTHER_TASK = f"default::{task_arn(task_id='2')}"
PROVISIONED = "Timeout waiting for network interface provisioning to complete."

states = st.sampled_from(StateType)
claims = st.sampled_from([None, CLAIM, OTHER])
identifiers = st.sampled_from(["", TASK, OTHER_TASK])
seconds = st.floats(min_value=0, max_value=100)
graces = st.floats(min_value=0, max_value=50)


def ended(stopped_for: float = 100, phase: Phase = Phase.STOPPED, **facts: Any) -> Run:
    """A run whose task stopped so many seconds ago."""
    clock = HandClock()
    run = run_in(phase, claim=claimed_run(claim_id=CLAIM), task=TaskFacts(ARN, **facts), clock=clock)
    clock.advance(stopped_for)
    return run


def failed_to_start(**where: Any) -> Run:
    """A run whose task stopped before it ran, for a reason that passes."""
    run = run_in(Phase.STARTING, claim=claimed_run(claim_id=CLAIM), where=placement(**where), task=TaskFacts(ARN))
    run.seen(TaskFacts(ARN, last_status="STOPPED", stop_code="TaskFailedToStart", stopped_reason=PROVISIONED))
    return run


def judge(snapshot: RunSnapshot | None, stopped_for: float = 100, grace: float = 5) -> object:
    return decide.of_ended(snapshot, ended(stopped_for), grace)


# -- runs whose task has stopped


@given(states, claims, identifiers, seconds, graces)
def test_a_run_that_goes_on_or_has_ended_is_never_marked(
    state: StateType, claim: UUID | None, identifier: str, stopped_for: float, grace: float
) -> None:
    decision = judge(RunSnapshot(state, claim, identifier), stopped_for, grace)
    if state in {StateType.PAUSED, StateType.SCHEDULED} or (state.final and identifier):
        assert decision == Forget()
    if isinstance(decision, Crash):
        assert state in {StateType.PENDING, StateType.RUNNING}
    if decision == Cancel():
        assert state is StateType.CANCELLING


@given(states, claims, identifiers, seconds, graces)
def test_what_belongs_to_another_claim_or_task_is_left_alone(
    state: StateType, claim: UUID | None, identifier: str, stopped_for: float, grace: float
) -> None:
    if identifier == OTHER_TASK or (claim == OTHER and not state.final):
        assert judge(RunSnapshot(state, claim, identifier), stopped_for, grace) == Forget()


@given(
    st.sampled_from([StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]),
    st.sampled_from([None, CLAIM]),
    st.sampled_from(["", TASK]),
    seconds,
    graces,
)
def test_our_unfinished_run_always_comes_to_an_end(
    state: StateType, claim: UUID | None, identifier: str, stopped_for: float, grace: float
) -> None:
    decision = judge(RunSnapshot(state, claim, identifier), stopped_for, grace)
    if state is StateType.CANCELLING:
        assert decision == Cancel()
    else:
        assert isinstance(decision, Crash if stopped_for >= grace else Wait)


def test_a_deleted_run_is_forgotten() -> None:
    assert judge(None) == Forget()


def test_the_cluster_may_be_spelt_by_name_or_arn() -> None:
    by_arn = f"arn:aws:ecs:us-east-1:123456789012:cluster/default::{ARN}"
    assert isinstance(judge(RunSnapshot(StateType.RUNNING, None, by_arn)), Crash)


@pytest.mark.parametrize(
    ("stopped_for", "decision"), [(decide.NAMED_WITHIN - 1, Wait()), (decide.NAMED_WITHIN, Forget())]
)
def test_an_ended_run_is_held_until_its_task_is_named(stopped_for: float, decision: object) -> None:
    assert judge(RunSnapshot(StateType.COMPLETED), stopped_for) == decision
    assert judge(RunSnapshot(StateType.COMPLETED, None, TASK), stopped_for) == Forget()


def test_a_run_that_waits_in_its_dead_container_has_crashed() -> None:
    assert judge(RunSnapshot(StateType.SCHEDULED)) == Forget()
    assert isinstance(judge(RunSnapshot(StateType.SCHEDULED, in_process=True)), Crash)


def test_a_task_that_never_started_has_no_grace() -> None:
    run = failed_to_start(start_attempts=1)
    assert decide.grace_of(run, 50) == 0
    assert isinstance(decide.of_ended(RunSnapshot(StateType.PENDING), run, 50), Crash)


@given(st.sampled_from(StateType), st.integers(1, 3))
def test_only_a_pending_run_is_started_again_and_not_for_ever(state: StateType, attempts: int) -> None:
    run = failed_to_start(start_attempts=attempts)
    decision = decide.of_ended(RunSnapshot(state, None, TASK), run, 0)
    assert isinstance(decision, StartAgain) == (state is StateType.PENDING and attempts > 1)


def test_what_we_stopped_ourselves_is_not_started_again() -> None:
    run = run_in(Phase.STARTING, claim=claimed_run(claim_id=CLAIM), task=TaskFacts(ARN))
    run.stopping("It did not start within 5 s.")
    run.seen(TaskFacts(ARN, last_status="STOPPED", stop_code="TaskFailedToStart", stopped_reason=PROVISIONED))
    decision = decide.of_ended(RunSnapshot(StateType.PENDING), run, 0)
    assert isinstance(decision, Crash)
    assert decision.why.startswith("It did not start within 5 s. ")


def test_a_repeated_report_says_the_same() -> None:
    run = ended()
    run.crashed("Because.")
    assert decide.of_ended(RunSnapshot(StateType.RUNNING), run, 0) == Crash("Because.")


def test_a_run_that_others_took_is_let_go_once_its_task_has_stopped() -> None:
    run = run_in(Phase.LAUNCHING)
    run.handed_over_with(TaskFacts(ARN))
    run.seen(TaskFacts(ARN, last_status="STOPPED"))
    for state in StateType:
        assert decide.of_ended(RunSnapshot(state), run, 0) == Forget()


def test_spot_that_was_taken_away_is_remembered_once() -> None:
    run = run_in(Phase.STARTING, where=placement(spot_fallback=True), task=TaskFacts(ARN))
    run.seen(TaskFacts(ARN, last_status="STOPPED", stop_code="SpotInterruption"))
    snapshot = RunSnapshot(StateType.RUNNING)
    assert decide.lost_spot(snapshot, run)
    assert not decide.lost_spot(None, run)
    run.lost_spot()
    assert not decide.lost_spot(snapshot, run)


@given(seconds, graces, st.booleans())
def test_a_look_is_saved_only_in_the_grace_of_a_dead_container(
    stopped_for: float, grace: float, cancelled: bool
) -> None:
    run = ended(stopped_for)
    if cancelled:
        run.cancel()
    assert decide.only_waits(run, grace) == (stopped_for < grace and not cancelled)
    assert not decide.only_waits(run_in(Phase.ABANDONED), grace)


# -- runs without a task


FOUND = TaskFacts(ARN)
OBSTACLES: tuple[Exception, ...] = (
    LaunchFailed("ECS refuses."),
    NotWanted("The worker stops."),
    NotOurs("It was deleted."),
    UserError("No such profile."),
    JobInvalid(["cpu is 'x'."]),
    PrefectNotFound("Its deployment does not exist any more."),
    PrefectUnavailable("503"),
    DocumentUnread("The disk hangs."),
)
obstacles = st.sampled_from(OBSTACLES)


def unlaunched(*, unanswered: bool = False, cancelled: bool = False) -> Run:
    run = run_in(Phase.LAUNCHING)
    if unanswered:
        run.not_answered()
    if cancelled:
        run.cancel()
    return run


@given(obstacles, st.booleans())
def test_a_task_that_may_be_there_forbids_another_launch(obstacle: Exception, cancelled: bool) -> None:
    run = unlaunched(unanswered=True, cancelled=cancelled)
    assert decide.of_unlaunched(obstacle, run, Unknown()) == Drop()
    found = decide.of_unlaunched(obstacle, run, FOUND)
    assert found == (Stop(FOUND) if isinstance(obstacle, NotOurs) else Watch(FOUND))


@pytest.mark.parametrize(
    ("obstacle", "decision"),
    [
        (OBSTACLES[0], Crash("ECS refuses.")),
        (OBSTACLES[1], Release("The worker stops.", 0.0)),
        (OBSTACLES[2], Drop()),
        (OBSTACLES[3], Crash("No such profile.")),
        (OBSTACLES[4], Crash("cpu is 'x'.")),
        (OBSTACLES[5], Crash("Its deployment does not exist any more.")),
        (OBSTACLES[6], Release("503", decide.LATER)),
        (OBSTACLES[7], Release("The disk hangs.", decide.LATER)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_follows_from_each_obstacle(obstacle: Exception, decision: object) -> None:
    assert decide.of_unlaunched(obstacle, unlaunched(), None) == decision


def test_a_launch_that_was_not_answered_is_not_given_back() -> None:
    assert decide.of_unlaunched(NotWanted("The worker stops."), unlaunched(unanswered=True), None) == Drop()


@given(obstacles)
def test_a_cancelled_run_is_never_given_back(obstacle: Exception) -> None:
    assert not isinstance(decide.of_unlaunched(obstacle, unlaunched(cancelled=True), None), Release)


@given(st.sampled_from([*StateType, None]), st.sampled_from(["", "Its job is invalid."]))
def test_only_a_pending_orphan_is_launched(state: StateType | None, obstacle: str) -> None:
    decision = decide.of_orphan(state, obstacle)
    if state is not StateType.PENDING:
        assert decision == Crash(decide.NO_TASK)
    else:
        assert decision == (Crash(obstacle) if obstacle else Launch())


def test_a_look_up_that_failed_for_good_lets_the_launch_tell() -> None:
    denied = AwsError("ListTasks", "AccessDeniedException", "no")
    throttled = AwsError("ListTasks", "ThrottlingException", "slow down")
    no_cluster = AwsError("ListTasks", "ClusterNotFoundException", "no cluster")
    assert decide.lets_launch_tell(denied, StateType.PENDING)
    assert not decide.lets_launch_tell(denied, StateType.RUNNING)
    assert not decide.lets_launch_tell(throttled, StateType.PENDING)
    assert decide.lets_launch_tell(no_cluster, StateType.RUNNING)


def test_why_without_a_task() -> None:
    assert decide.why(run_in(Phase.LAUNCHING)) == "It has no ECS task."
