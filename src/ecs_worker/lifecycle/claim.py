"""Claim: make a scheduled run ours by proposing Pending.

The proposal carries a `transition_id`, the claim id. A retry after a lost answer repeats it, and the server then
says REJECT with the state that we made: the claim is known as ours. If the process dies after the server accepted,
the claim id stands in the run's state, where `adopt` reads it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING
from uuid import uuid4, uuid5

from ecs_worker.errors import PrefectError, PrefectNotFound
from ecs_worker.lifecycle.run.ledger import Held
from ecs_worker.model import ClaimedRun
from ecs_worker.prefect_api.schemas import ProposedState, SetStateStatus, StateType
from ecs_worker.verdicts.classify import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun, Orchestration, RunState

log = logging.getLogger(__name__)

FRESH = 10.0
"""Seconds after its poll that a run may still be claimed, and a claim be repeated for want of an answer."""
DOUBTFUL = 2.0
"""Seconds from the poll to the claim's answer, after which another worker's task may have ended the run in between.
The server lets an ended run become Pending again, so the run's history is asked then."""

CLAIMED_BY = "Claimed by ecs-worker "
"""What a claim's state message begins with; the worker's name follows. `adopt` reads it: it is the only word on
whose claim it is that is written in the same instant as the claim."""


WAITING = "InfrastructurePending"
"""Prefect's name for the sub-state of Pending that says what a launch waits for."""
SPOT_LOST = "ecs-worker.spot-lost"
"""A label of runs with `spot_fallback` whose Spot capacity was taken away: the next task goes without."""


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


def claims(states: Iterable[RunState]) -> list[RunState]:
    """Those of the states that are claims."""
    pending = (state for state in states if state.type is StateType.PENDING and state.name != WAITING)
    return [state for state in pending if state.transition_id is not None]


def claimant(message: str | None) -> str | None:
    """The name of the worker that made a claim, from its state message; None if it was no ecs-worker."""
    if message is None or not message.startswith(CLAIMED_BY):
        return None
    return message.removeprefix(CLAIMED_BY)


def held_for(run: FlowRun, claim_id: UUID) -> Held:
    """The run as the holder of that claim holds it, before anything is known of a task."""
    claimed = ClaimedRun(
        run_id=run.id,
        name=run.name,
        claim_id=claim_id,
        flow_id=run.flow_id,
        deployment_id=run.deployment_id,
        job_variables=run.job_variables,
        tags=run.tags,
        named_before=run.infrastructure_pid or "",
    )
    return Held(claimed, on_demand=bool(run.labels.get(SPOT_LOST)))


class Claim:
    """Claims one run at a time for the worker called `worker`."""

    def __init__(self, api: PrefectClient, ledger: Ledger, worker: str) -> None:
        self._api = api
        self._ledger = ledger
        self._worker = worker

    async def once(self, scheduled: FlowRun, polled_at: float) -> Held | None:
        """The run as held, or None if it isn't ours: another worker's, not due, deleted, or ended meanwhile.

        `polled_at`: when the poll that told of it was sent (monotonic).
        """
        if time.monotonic() - polled_at > FRESH:
            return None  # the next poll tells whether it is still there
        held = held_for(scheduled, uuid4())
        run = held.run
        self._ledger.take(held)
        state = None
        try:
            state = await self._propose(run)
            if state is not None and time.monotonic() - polled_at > DOUBTFUL and await self._undone(run):
                state = None
        finally:
            if state is None:
                self._ledger.drop(held)
        if state is None:
            return None
        held.lease_id = state.lease_id
        self._ledger.counts["claimed"] += 1
        return held

    async def _propose(self, run: ClaimedRun) -> RunState | None:
        """The Pending state that is ours; None if the run isn't."""
        state = ProposedState(
            StateType.PENDING,
            "Pending",
            message=CLAIMED_BY + self._worker,
            transition_id=run.claim_id,
        )
        try:
            answer = await self._api.propose_state(run.run_id, state, patience_seconds=FRESH)
        except PrefectNotFound:
            log.info("%s was deleted before it could be claimed.", run.name)
            return None
        except PrefectError as error:
            # The claim may stand all the same. `adopt` sees the run, Pending with our name, and takes it up.
            log.warning("Whether %s is claimed is not known, it will be looked up: %s", run.name, error)
            return None
        if is_ours(answer, run):
            return answer.state
        log.debug("%s is not ours: %s %s", run.name, answer.status, answer.reason)
        return None

    async def _undone(self, run: ClaimedRun) -> bool:
        """Whether the claim turned out to be of a run that had ended, and is taken back (or left to `adopt`)."""
        try:
            end = ended_before(await self._api.state_history(run.run_id), run.claim_id)
            if end is not None:
                await take_back(self._api, run, end)
        except PrefectError as error:
            # Still Pending with our name: `adopt` asks the same question before it launches anything.
            log.warning("Whether %s had ended before its claim is not known yet: %s", run.name, error)
            return True
        return end is not None


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


async def take_back(api: PrefectClient, run: ClaimedRun, end: RunState) -> None:
    """Give a run that was claimed after its end the end again. Raises PrefectError."""
    log.info("%s had ended %s before it was claimed; it stays so.", run.name, end.name)
    again = ProposedState(end.type, end.name, end.message, data=end.data)
    await api.propose_state(run.run_id, again, force=True)  # the rules of Pending don't lead back


def is_ours(answer: Orchestration, run: ClaimedRun) -> bool:
    """Whether the server's answer says that the run is Pending by this very claim."""
    if answer.status is SetStateStatus.ACCEPT:
        return answer.state is not None and answer.state.type is StateType.PENDING
    state = answer.state
    return state is not None and state.type is StateType.PENDING and state.transition_id == run.claim_id
