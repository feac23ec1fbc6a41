"""Run: one flow run that this worker holds, from its claim until its end is told, and the only code that changes it.

Memory only. If the process dies, `adopt` finds the run again: the claim id stands in its state, the task's name on
it, and the task bears the claim id in `startedBy`.

    CLAIMED ─rendered→ LAUNCHING ─launched_as→ STARTING ─seen→ RUNNING ─seen→ STOPPED
       ↑  ↑                │                       └──────── seen, gone ────────→ │
       │  └────────────────┼───────────── again: it failed to start ──────────────┘
       └ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┴ ─abandoned→ ABANDONED      (and a run of any phase may be cancelled, or dropped)
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ecs_worker.model import AwsTarget, Phase, TaskName

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from ecs_worker.model import ClaimedRun, LaunchRequest, Placement, TaskFacts

UNLAUNCHED = frozenset({Phase.CLAIMED, Phase.LAUNCHING})
WATCHED = frozenset({Phase.STARTING, Phase.RUNNING})
ENDING = frozenset({Phase.STOPPED, Phase.ABANDONED})


@dataclass(frozen=True, slots=True)
class Launched:
    """The run's task: where it is, what ECS says of it, and how the run names it."""

    placement: Placement
    task: TaskFacts
    name: TaskName


@dataclass(frozen=True, slots=True)
class Change:
    """What ECS says of a task now, other than before."""

    before: TaskFacts
    now: TaskFacts

    @property
    def new_status(self) -> str:
        """The status that the task has come to; empty if that is the old one."""
        return self.now.last_status if self.now.last_status != self.before.last_status else ""


class Run:
    """A run's facts, for all to read; each method that changes them is one thing that happens to a run.

    Always: a run has a task (`launched`) in STARTING, RUNNING and STOPPED, and in no other phase; it has a placement
    from LAUNCHING on, unless it was abandoned before; ECS was asked to stop only a task that there is; what is
    abandoned says why; `attempt` is at least 1, and above the number of tasks that failed to start.
    Moments are seconds of `clock`, which never goes back.
    """

    __slots__ = (
        "_adopted",
        "_attempt",
        "_cancelled_at",
        "_claim",
        "_clock",
        "_deregister",
        "_due",
        "_handed_over",
        "_held_until",
        "_launched",
        "_lease_id",
        "_missing_since",
        "_named",
        "_on_cancel",
        "_on_change",
        "_on_demand",
        "_phase",
        "_placement",
        "_proven",
        "_signed",
        "_since",
        "_starts",
        "_stop_reason",
        "_unanswered",
        "_waits_for",
        "_why",
    )

    def __init__(
        self,
        claim: ClaimedRun,
        *,
        lease_id: UUID | None = None,
        on_demand: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._claim = claim
        self._clock = clock
        self._lease_id = lease_id
        self._on_demand = on_demand
        self._phase = Phase.CLAIMED
        self._since = clock()
        self._on_change: Callable[[Phase, Phase], None] | None = None
        self._on_cancel: Callable[[], None] | None = None
        self._placement: Placement | None = None
        self._launched: Launched | None = None
        self._named: TaskName | None = None
        self._signed = False
        self._attempt = 1
        self._starts = 0
        self._unanswered = False
        self._waits_for: str | None = None
        self._adopted = False
        self._held_until: datetime | None = None
        self._proven = True
        self._handed_over = False
        self._cancelled_at: float | None = None
        self._stop_reason = ""
        self._why = ""
        self._deregister = False
        self._missing_since: float | None = None
        self._due = 0.0

    # -- facts

    @property
    def claim(self) -> ClaimedRun:
        """The run as it was claimed."""
        return self._claim

    @property
    def id(self) -> UUID:
        """The flow run's id."""
        return self._claim.run_id

    @property
    def label(self) -> str:
        """What log lines call the run."""
        return self._claim.name

    @property
    def phase(self) -> Phase:
        """Where the run is on its way."""
        return self._phase

    @property
    def in_phase_for(self) -> float:
        """Seconds since the phase began."""
        return self._clock() - self._since

    @property
    def placement(self) -> Placement | None:
        """Where its task is or is to be; None until its job is rendered."""
        return self._placement

    @property
    def launched(self) -> Launched | None:
        """Its task; None while there is none."""
        return self._launched

    @property
    def task(self) -> TaskFacts | None:
        """What ECS says of its task; None while there is none."""
        return self._launched.task if self._launched is not None else None

    @property
    def attempt(self) -> int:
        """Numbers the client tokens of its launches, from 1."""
        return self._attempt

    @property
    def starts(self) -> int:
        """How many tasks it has had."""
        return self._starts

    @property
    def unanswered(self) -> bool:
        """A RunTask got no answer: a task may exist that is not known yet."""
        return self._unanswered

    @property
    def on_demand(self) -> bool:
        """Spot capacity was taken away: with `spot_fallback` the next task goes without."""
        return self._on_demand

    @property
    def lease_id(self) -> UUID | None:
        """The deployment's concurrency slot that the claim took."""
        return self._lease_id

    @property
    def name(self) -> TaskName | None:
        """The name of its task, or of the last one that failed to start: what `infrastructure_pid` is or is to be."""
        return self._named

    @property
    def signed(self) -> bool:
        """The task's name stands on the run, or is being written."""
        return self._signed

    @property
    def adopted(self) -> bool:
        """Another process launched its task, and may have passed on its output."""
        return self._adopted

    @property
    def held_until(self) -> datetime | None:
        """When the process that held it before was last known to live; None: nobody did, or that is not known."""
        return self._held_until

    @property
    def proven(self) -> bool:
        """That its task is its last claim's is known. Otherwise its history is read before its end is judged."""
        return self._proven

    @property
    def target(self) -> AwsTarget:
        """The account and Region of its task; the worker's own until its job is rendered."""
        return self._placement.target if self._placement is not None else AwsTarget()

    @property
    def place(self) -> tuple[AwsTarget, str]:
        """What answers or hangs as one: its task's account and Region, and the cluster."""
        return self.target, self._placement.cluster if self._placement is not None else ""

    @property
    def handed_over(self) -> bool:
        """The run is others' business by now: only the task that it left here is stopped."""
        return self._handed_over

    @property
    def cancelled(self) -> bool:
        """Somebody wants it to end."""
        return self._cancelled_at is not None

    @property
    def cancelled_for(self) -> float:
        """Seconds since this worker heard that it is cancelled; 0 if it isn't."""
        return self._clock() - self._cancelled_at if self._cancelled_at is not None else 0.0

    @property
    def stop_reason(self) -> str:
        """Why this worker asked ECS to stop its task; empty: it didn't."""
        return self._stop_reason

    @property
    def why(self) -> str:
        """Why it has crashed; set once that is decided, so that a repeated report says the same."""
        return self._why

    @property
    def deregister(self) -> bool:
        """Its task definition is to go once no held run needs it."""
        return self._deregister

    @property
    def missing_for(self) -> float | None:
        """Seconds since ECS didn't know its task for the first time; None: ECS knows it."""
        return self._clock() - self._missing_since if self._missing_since is not None else None

    @property
    def due(self) -> float:
        """When its task, or its end, is to be looked at next."""
        return self._due

    def hide(self, message: str) -> str:
        """The message without what no message may tell, as far as that is known yet."""
        return self._placement.hide(message) if self._placement is not None else message

    def is_named(self, infrastructure_pid: str) -> bool:
        """Whether that is the name of this run's task."""
        arn = TaskName.parse(infrastructure_pid).arn
        if self._named is not None:
            return arn == self._named.arn
        # Without a task of this claim, the run still names that of an earlier attempt.
        return self._phase is Phase.ABANDONED and arn == TaskName.parse(self._claim.named_before).arn

    # -- what happens

    def leased(self, lease_id: UUID | None) -> None:
        """The claim took the deployment's concurrency slot; None: it has none, or the slot went to another run."""
        self._lease_id = lease_id

    def doubted(self) -> None:
        """Whose claim launched the task that it names has not been asked."""
        self._proven = False

    def proved(self, claim_id: UUID) -> None:
        """Its history says which claim is its last."""
        self._claim = replace(self._claim, claim_id=claim_id)
        self._proven = True

    def placed(self, placement: Placement) -> None:
        """It is known where its task is, if it has one."""
        self._placement = placement

    def retargeted(self, target: AwsTarget) -> None:
        """The credentials for its task's account are others by now."""
        if self._placement is not None:
            self._placement = replace(self._placement, target=target)
        if self._launched is not None:
            self._launched = replace(self._launched, placement=replace(self._launched.placement, target=target))

    def rendered(self, request: LaunchRequest) -> None:
        """Its job can be launched."""
        self._placement = request.placement
        self._deregister = request.deregister
        self._enter(Phase.LAUNCHING)

    def waits(self, kind: str) -> bool:
        """The launch waits for an obstacle of that kind; whether that is news."""
        news = kind != self._waits_for
        self._waits_for = kind
        return news

    def not_answered(self) -> None:
        """A RunTask got no answer."""
        self._unanswered = True

    def refused(self) -> None:
        """ECS launched no task, and would say so to the same client token for ever: the next attempt has another."""
        self._attempt += 1

    def lost_spot(self) -> None:
        """Spot capacity was taken away."""
        self._on_demand = True

    def launched_as(self, task: TaskFacts) -> None:
        """From here on the run has a task."""
        if self._placement is None:
            raise ValueError(f"{self.label} has a task, but nobody said where")
        name = TaskName(self._placement.cluster or task.cluster_arn, task.arn)
        self._launched = Launched(self._placement, task, name)
        self._named = name
        self._starts += 1
        self._unanswered = False
        self._enter(Phase.STARTING)

    def adopted_as(self, task: TaskFacts, name: TaskName | None = None, held_until: datetime | None = None) -> None:
        """The task of another process's launch is this worker's to watch. `name`: as the run names it already."""
        self.launched_as(task)
        self._adopted = True
        self._held_until = held_until
        if name is not None and self._launched is not None:
            self._launched = replace(self._launched, name=name)
            self._named = name
            self._signed = True

    def moved_to(self, task: TaskFacts) -> None:
        """Another task of the same claim is the one in which the flow runs."""
        self._launched = None
        self._signed = self._adopted = False
        self._stop_reason = ""
        self._missing_since = None
        self._due = 0.0
        self.launched_as(task)
        self._adopted = True

    def signing(self) -> None:
        """The task's name is being written on the run: nobody else need begin."""
        self._signed = True

    def unsigned(self) -> None:
        """The task's name could not be written on the run."""
        self._signed = False

    def look_again(self, moment: float) -> None:
        """Nobody need look at its task, or its end, before that moment."""
        self._due = moment

    def seen(self, task: TaskFacts) -> Change | None:
        """Take in what ECS says of its task; None if that is no news. `version` orders what ECS says."""
        if self._launched is None or task.version < self._launched.task.version:
            return None
        self._missing_since = None
        before, phase = self._launched.task, self._phase
        if task != before:
            self._launched = replace(self._launched, task=task)
        if task.started_at is not None and self._phase is Phase.STARTING:
            self._enter(Phase.RUNNING)
        if task.stopped:
            self._stopped()
        # A task that was found, not launched, may be further than the phase says when it is looked at first.
        return Change(before, task) if task != before or self._phase is not phase else None

    def missing(self) -> float:
        """ECS doesn't know its task; seconds since that was so for the first time."""
        if self._missing_since is None:
            self._missing_since = self._clock()
        return self._clock() - self._missing_since

    def shown(self) -> None:
        """ECS knows its task after all, by what it says of another call."""
        self._missing_since = None

    def gone(self) -> Change | None:
        """ECS doesn't know its task any more: what became of it can't be told."""
        if self._launched is None:
            return None
        before = self._launched.task
        reason = "ECS does not know the task any more (MISSING)."
        self._launched = replace(self._launched, task=replace(before, last_status="DELETED", stopped_reason=reason))
        self._stopped()
        return Change(before, self._launched.task)

    def cancel(self) -> None:
        """Somebody wants it to end. Its task is stopped, or its launch given up."""
        if self._cancelled_at is None:
            self._cancelled_at = self._clock()
            if self._on_cancel is not None:
                self._on_cancel()

    def when_cancelled(self, told: Callable[[], None] | None) -> None:
        """Who waits for the run's sake is told at once that it is cancelled; None: nobody waits any more."""
        self._on_cancel = told

    def stopping(self, why: str) -> None:
        """ECS has taken the order to stop its task."""
        if self._launched is not None:
            self._stop_reason = why

    def handed_over_with(self, task: TaskFacts) -> None:
        """Others took the run meanwhile: `cancel` stops the task of this claim, `report` then lets the run go."""
        self.launched_as(task)
        self._handed_over = self._signed = True
        self.cancel()

    def abandoned(self, why: str) -> None:
        """It has no task and will have none. What is still so when its end is looked at, ends it."""
        self._why = why
        self._launched = None
        self._stop_reason = ""
        self._enter(Phase.ABANDONED)
        self._due = 0.0

    def crashed(self, why: str) -> None:
        """How its end is to be told."""
        self._why = why

    def again(self) -> None:
        """Its task failed to start: another one is launched, by the same claim and with a new client token."""
        self._attempt += 1
        self._launched = None
        self._signed = False
        self._missing_since = None
        self._enter(Phase.CLAIMED)

    def held_by(self, on_change: Callable[[Phase, Phase], None] | None) -> None:
        """The ledger that counts phases; None: it is dropped."""
        self._on_change = on_change

    def _stopped(self) -> None:
        self._enter(Phase.STOPPED)
        self._due = 0.0

    def _enter(self, phase: Phase) -> None:
        before = self._phase
        if phase is before:
            return
        self._phase = phase
        self._since = self._clock()
        if self._on_change is not None:
            self._on_change(before, phase)
