"""Claims, as a run's states tell them: whose a run is, and what stood before its claim.

A claim is a Pending state that bears an id of its proposer's, the claim id, and names the claimant in its message.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from ecs_worker.lifecycle.run.run import Run
from ecs_worker.model import ClaimedRun, Place
from ecs_worker.prefect_api.schemas import SetStateStatus, StateType
from ecs_worker.verdicts.classify import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from datetime import datetime

    from ecs_worker.prefect_api.schemas import FlowRun, Orchestration, RunState

_CLAIMED_BY = "Claimed by ecs-worker "
_PLACE = re.compile(r"(?P<worker>.*?)(?: \((?P<place>[^()]*)\))?", re.DOTALL)
WAITING = "InfrastructurePending"
"""Prefect's name for the sub-state of Pending that says what a launch waits for."""
SPOT_LOST = "ecs-worker.spot-lost"
"""A label of runs with `spot_fallback` whose Spot capacity was taken away: the next task goes without."""


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """A claim, as the run's states tell it.

    `worker` None: claimed by another kind of worker; `place` None: it didn't say where it is. `age` in seconds.
    `first`: the run was never claimed before, so what it names as its task is this claim's.
    """

    claim_id: UUID
    worker: str | None
    age: float
    first: bool = True
    lease_id: UUID | None = None
    place: Place | None = None


def run_of(
    run: FlowRun, claim_id: UUID, clock: Callable[[], float] = time.monotonic, claimed_in: Place | None = None
) -> Run:
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
        claimed_in=claimed_in,
        due=run.due,
    )
    return Run(claim, on_demand=bool(run.labels.get(SPOT_LOST)), clock=clock)


def recorded_run(
    run: FlowRun, record: ClaimRecord | None, clock: Callable[[], float] = time.monotonic, *, proven: bool = True
) -> Run:
    """The run as its claim's record says it is held. Not `proven`: its claims have not been read."""
    # A run that another kind of worker claimed has no claim id of ours; its own id stands in, unused.
    place = record.place if record is not None else None
    held = run_of(run, record.claim_id if record is not None else run.id, clock, place)
    held.leased(record.lease_id if record is not None else None)
    if not proven:
        held.doubted()
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


def claim_in(run: FlowRun) -> ClaimRecord | None:
    """The claim that the run's present state is; None if that is no claim, or by another kind of worker."""
    state = run.state
    found = claims([state]) if state is not None else []
    worker, place = claimant(found[0].message) if found else (None, None)
    if not found or found[0].transition_id is None or worker is None:
        return None
    return ClaimRecord(found[0].transition_id, worker, age=0.0, lease_id=found[0].lease_id, place=place)


def claims(states: Iterable[RunState]) -> list[RunState]:
    """Those of the states that are claims."""
    pending = (state for state in states if state.type is StateType.PENDING and state.name != WAITING)
    return [state for state in pending if state.transition_id is not None]


def claim_message(worker: str, place: Place | None) -> str:
    """The message of a claim's state: whose it is, and where that worker is."""
    return f"{_CLAIMED_BY}{worker}" + (f" ({place})" if place is not None else "")


def claimant(message: str | None) -> tuple[str | None, Place | None]:
    """The worker that made a claim, and where it is, from the state's message; None, None if it was no ecs-worker."""
    if message is None or not message.startswith(_CLAIMED_BY):
        return None, None
    text = message.removeprefix(_CLAIMED_BY)
    found = _PLACE.fullmatch(text)
    place = Place.parse(found["place"]) if found and found["place"] else None
    return (found["worker"], place) if found and place else (text, None)


def latest_claim(states: Collection[RunState], now: datetime) -> ClaimRecord | None:
    """The newest claim in a run's history."""
    found = claims(states)
    if not found:
        return None
    newest = max(found, key=lambda state: state.timestamp or now)
    assert newest.transition_id is not None, "claims have one"
    age = (now - newest.timestamp).total_seconds() if newest.timestamp else 0.0
    worker, place = claimant(newest.message)
    first = len(found) == 1
    return ClaimRecord(newest.transition_id, worker, age, first=first, lease_id=newest.lease_id, place=place)


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
