"""Claims, as a run's states tell them: whose a run is, and what stood before its claim.

A claim is a Pending state that bears an id of its proposer's, the claim id, and names the claimant in its message.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from ecs_worker.lifecycle.run.run import Run
from ecs_worker.model import ClaimedRun
from ecs_worker.prefect_api.schemas import SetStateStatus, StateType
from ecs_worker.verdicts.classify import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from datetime import datetime

    from ecs_worker.prefect_api.schemas import FlowRun, Orchestration, RunState

CLAIMED_BY = "Claimed by ecs-worker "
"""What a claim's state message begins with; the worker's name follows. `adopt` reads it: it is the only word on
whose claim it is that is written in the same instant as the claim."""
WAITING = "InfrastructurePending"
"""Prefect's name for the sub-state of Pending that says what a launch waits for."""
SPOT_LOST = "ecs-worker.spot-lost"
"""A label of runs with `spot_fallback` whose Spot capacity was taken away: the next task goes without."""


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """A claim, as the run's states tell it.

    `worker` None: claimed by another kind of worker. `age` in seconds. `first`: the run was never claimed before, so
    what it names as its task is this claim's.
    """

    claim_id: UUID
    worker: str | None
    age: float
    first: bool = True
    lease_id: UUID | None = None


def run_of(run: FlowRun, claim_id: UUID, clock: Callable[[], float] = time.monotonic) -> Run:
    """The run as the holder of that claim holds it, before anything is known of a task."""
    claim = ClaimedRun(
        run_id=run.id,
        name=run.name,
        claim_id=claim_id,
        flow_id=run.flow_id,
        deployment_id=run.deployment_id,
        job_variables=run.job_variables,
        tags=run.tags,
        named_before=run.infrastructure_pid or "",
    )
    return Run(claim, on_demand=bool(run.labels.get(SPOT_LOST)), clock=clock)


def recorded_run(run: FlowRun, record: ClaimRecord | None, clock: Callable[[], float] = time.monotonic) -> Run:
    """The run as its claim's record says it is held."""
    # A run that another kind of worker claimed has no claim id of ours; its own id stands in, unused.
    held = run_of(run, record.claim_id if record is not None else run.id, clock)
    held.leased(record.lease_id if record is not None else None)
    return held


def waiting_id(claim_id: UUID, kind: Kind) -> UUID:
    """The transition id of the sub-state that tells of that obstacle: it, too, says whose claim it is.

    The server takes no transition with the id of the one before, hence an id for each kind.
    """
    return uuid5(claim_id, kind)


def of_claim(transition_id: UUID | None, claim_id: UUID) -> bool:
    """Whether a Pending state stems from that claim. Other tools' states bear no id: they change no claim."""
    return transition_id in {None, claim_id} or any(transition_id == waiting_id(claim_id, kind) for kind in Kind)


def still_pending(run: FlowRun, claim_id: UUID) -> bool:
    """Whether the run waits for its launch by that claim."""
    transition_id = run.state.transition_id if run.state is not None else None
    return run.state_type is StateType.PENDING and of_claim(transition_id, claim_id)


def is_ours(answer: Orchestration, claim_id: UUID) -> bool:
    """Whether the server's answer says that the run is Pending by this very claim."""
    state = answer.state
    if state is None or state.type is not StateType.PENDING:
        return False
    return answer.status is SetStateStatus.ACCEPT or state.transition_id == claim_id


def claims(states: Iterable[RunState]) -> list[RunState]:
    """Those of the states that are claims."""
    pending = (state for state in states if state.type is StateType.PENDING and state.name != WAITING)
    return [state for state in pending if state.transition_id is not None]


def claimant(message: str | None) -> str | None:
    """The name of the worker that made a claim, from its state message; None if it was no ecs-worker."""
    if message is None or not message.startswith(CLAIMED_BY):
        return None
    return message.removeprefix(CLAIMED_BY)


def latest_claim(states: Collection[RunState], now: datetime) -> ClaimRecord | None:
    """The newest claim in a run's history."""
    found = claims(states)
    if not found:
        return None
    newest = max(found, key=lambda state: state.timestamp or now)
    assert newest.transition_id is not None, "claims have one"
    age = (now - newest.timestamp).total_seconds() if newest.timestamp else 0.0
    worker = claimant(newest.message)
    return ClaimRecord(newest.transition_id, worker, age, first=len(found) == 1, lease_id=newest.lease_id)


def ended_before(states: Sequence[RunState], claim_id: UUID) -> RunState | None:
    """The final state that a claim has overwritten; None if it was a claim of a scheduled run, as it should be.

    Between the run's last Scheduled and its claim there is nothing else. The order of states isn't to be relied on
    here: a claim that waited in the server bears the time at which it came, which may be before the end.
    """
    since: list[RunState] = []
    for state in states:
        if state.type is StateType.SCHEDULED:
            since = []
        else:
            since.append(state)
    if all(state.transition_id != claim_id for state in since):
        return None
    return next((state for state in reversed(since) if state.type.final), None)
