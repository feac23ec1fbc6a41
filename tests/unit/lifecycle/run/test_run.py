"""A run's transitions: no sequence of them leads to a state that `Run` forbids."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ecs_worker.lifecycle.run.ledger import Ledger
from ecs_worker.lifecycle.run.run import UNLAUNCHED, WATCHED, Run
from ecs_worker.model import Phase, TaskFacts, TaskName
from support.builders import HandClock, claimed_run, launch_request, placement, run_in, task_arn

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WITH_A_TASK = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPED})
STATUSES = ("PROVISIONING", "PENDING", "ACTIVATING", "RUNNING", "DEACTIVATING", "STOPPING", "STOPPED")


class RunMachine(RuleBasedStateMachine):
    """What steps, sweeps, events, users and colleagues may do to a run, in any order that the steps allow."""

    @initialize(named_before=st.sampled_from(["", f"default::{task_arn(task_id='before')}"]))
    def claim(self, named_before: str) -> None:
        self.clock = HandClock()
        self.run = Run(claimed_run(named_before=named_before), clock=self.clock)
        self.ledger = Ledger(limit=1, max_launching=1, clock=self.clock)
        self.ledger.take(self.run)
        self.failed = 0
        self.last_version = 0
        self.phases = [self.run.phase]

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # -- the way

    @precondition(lambda self: self.run.phase in UNLAUNCHED)
    @rule(cluster=st.sampled_from(["", "flows"]))
    def is_rendered(self, cluster: str) -> None:
        self.run.rendered(launch_request(placement(cluster)))

    @precondition(lambda self: self.run.phase is Phase.LAUNCHING)
    @rule()
    def is_refused(self) -> None:
        attempt = self.run.attempt
        self.run.refused()
        assert self.run.attempt == attempt + 1

    @precondition(lambda self: self.run.phase is Phase.LAUNCHING)
    @rule()
    def is_not_answered(self) -> None:
        self.run.not_answered()

    @precondition(lambda self: self.run.phase is Phase.LAUNCHING)
    @rule(handed_over=st.booleans(), status=st.sampled_from(STATUSES), ran=st.booleans())
    def gets_its_task(self, handed_over: bool, status: str, ran: bool) -> None:
        cluster_arn = "arn:aws:ecs:us-east-1:123456789012:cluster/default"
        task = TaskFacts(task_arn(), cluster_arn, last_status=status, started_at=NOW if ran else None)
        self.last_version = 0
        if handed_over:
            self.run.handed_over_with(task)
            assert self.run.cancelled
        else:
            self.run.launched_as(task)
        assert not self.run.unanswered
        assert self.run.name is not None
        assert self.run.is_named(str(self.run.name))

    @precondition(lambda self: self.run.phase in UNLAUNCHED)
    @rule()
    def is_abandoned(self) -> None:
        self.run.abandoned("ECS refuses.")

    # -- the task

    @precondition(lambda self: self.run.launched is not None)
    @rule(status=st.sampled_from(STATUSES), version=st.integers(0, 20), ran=st.booleans())
    def is_seen(self, status: str, version: int, ran: bool) -> None:
        before, phase = self.run.task, self.run.phase
        assert before is not None
        change = self.run.seen(
            replace(before, last_status=status, version=version, started_at=NOW if ran else before.started_at)
        )
        assert self.run.task is not None
        if version < self.last_version:
            assert change is None
            assert (self.run.task, self.run.phase) == (before, phase)
        else:
            self.last_version = version
            assert self.run.task.last_status == status
            assert (change is None) == (self.run.task == before and self.run.phase is phase)
            assert self.run.phase is not Phase.STARTING or self.run.task.started_at is None
            assert (self.run.phase is Phase.STOPPED) or not self.run.task.stopped
            assert self.run.missing_for is None

    @precondition(lambda self: self.run.phase in WATCHED)
    @rule()
    def is_missing(self) -> None:
        assert self.run.missing() >= 0
        assert self.run.missing_for is not None

    @precondition(lambda self: self.run.phase in WATCHED and self.run.missing_for is not None)
    @rule()
    def is_gone(self) -> None:
        change = self.run.gone()
        assert change is not None
        assert change.now.vanished
        assert self.run.phase is Phase.STOPPED

    @precondition(lambda self: self.run.phase is Phase.STOPPED and not self.run.stop_reason)
    @rule()
    def starts_again(self) -> None:
        self.run.again()
        self.failed += 1
        assert not self.run.signed

    # -- others

    @rule()
    def is_cancelled(self) -> None:
        since = self.run.cancelled_for if self.run.cancelled else 0.0
        self.run.cancel()
        assert self.run.cancelled_for >= since  # the first word counts

    @rule()
    def is_asked_to_stop(self) -> None:
        self.run.stopping("It was cancelled.")

    @precondition(lambda self: self.run.launched is not None)
    @rule(written=st.booleans())
    def is_signed(self, written: bool) -> None:
        self.run.signing()
        if not written:
            self.run.unsigned()

    # -- what is always so

    @invariant()
    def holds(self) -> None:
        run = self.run
        assert (run.launched is not None) == (run.phase in WITH_A_TASK)
        if run.phase not in {Phase.CLAIMED, Phase.ABANDONED}:
            assert run.placement is not None
        if run.stop_reason:
            assert run.launched is not None
        if run.phase is Phase.ABANDONED:
            assert run.why
        if run.phase is Phase.STOPPED:
            assert run.task is not None
        assert run.attempt >= 1
        assert run.attempt > self.failed
        assert run.starts >= self.failed
        assert run.in_phase_for >= 0

    @invariant()
    def the_ledger_counts_it_where_it_is(self) -> None:
        counted = {phase: number for phase, number in self.ledger.phases.items() if number}
        assert counted == {self.run.phase: 1}
        ran = self.run.task is not None and self.run.task.started_at is not None
        over = self.run.phase is Phase.ABANDONED or (self.run.phase is Phase.STOPPED and ran)
        assert self.ledger.free == (1 if over else 0)

    @invariant()
    def no_phase_leads_back_but_by_a_new_attempt(self) -> None:
        phase = self.run.phase
        if phase is not self.phases[-1]:
            order = [Phase.CLAIMED, Phase.LAUNCHING, Phase.STARTING, Phase.RUNNING, Phase.STOPPED, Phase.ABANDONED]
            if phase is not Phase.CLAIMED:
                assert order.index(phase) > order.index(self.phases[-1])
            self.phases.append(phase)


TestRun = RunMachine.TestCase


def test_nobody_writes_a_runs_facts_from_outside() -> None:
    run = run_in(Phase.RUNNING)
    for fact in ("phase", "launched", "claim", "signed", "attempt", "due"):
        with pytest.raises(AttributeError):
            setattr(run, fact, None)


def test_a_task_has_a_place() -> None:
    with pytest.raises(ValueError, match="nobody said where"):
        Run(claimed_run()).launched_as(TaskFacts(task_arn()))


def test_an_adopted_run_keeps_the_name_that_it_bears() -> None:
    arn = task_arn()
    name = TaskName("arn:aws:ecs:us-east-1:123456789012:cluster/default", arn)
    run = Run(claimed_run())
    run.placed(placement(name.cluster))
    run.adopted_as(TaskFacts(arn), name)
    assert (run.name, run.signed, run.adopted) == (name, True, True)
    other = Run(claimed_run())
    other.placed(placement(""))
    other.adopted_as(TaskFacts(arn, cluster_arn="c"))
    assert (str(other.name), other.signed) == (f"c::{arn}", False)


def test_a_new_attempt_has_a_name_of_its_own_and_still_knows_the_last_one() -> None:
    run = run_in(Phase.STOPPED)
    first = str(run.name)
    run.again()
    assert run.is_named(first)
    run.rendered(launch_request())
    run.launched_as(TaskFacts(task_arn()))
    assert not run.is_named(first)
    assert run.starts == run.attempt == 2


def test_an_abandoned_run_still_bears_the_name_of_an_earlier_attempt() -> None:
    before = f"default::{task_arn()}"
    run = Run(claimed_run(named_before=before))
    assert not run.is_named(before)
    run.abandoned("No.")
    assert run.is_named(before)
    assert not run.is_named(f"default::{task_arn()}")


def test_an_obstacle_is_news_once() -> None:
    run = run_in(Phase.LAUNCHING)
    assert [run.waits(kind) for kind in ("capacity", "capacity", "throttle", "capacity")] == [True, False, True, True]


def test_what_may_not_be_told_is_hidden_once_it_is_known() -> None:
    run = Run(claimed_run(claim_id=uuid4()))
    assert run.hide("hunter2") == "hunter2"
    run.placed(placement(hide=lambda message: message.replace("hunter2", "********")))
    assert run.hide("hunter2") == "********"
