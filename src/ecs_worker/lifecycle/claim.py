"""Claim: make a scheduled run ours by proposing Pending.

The proposal carries a `transition_id`, the claim id. A retry after a lost answer repeats it, and the server then
says REJECT with the state that we made: the claim is known as ours. If the process dies after the server accepted,
the claim id stands in the run's state, where `adopt` reads it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import uuid4

from ecs_worker.errors import PrefectError, PrefectNotFound
from ecs_worker.lifecycle.ledger import Held
from ecs_worker.model import ClaimedRun
from ecs_worker.prefect_api.schemas import ProposedState, StateType, Verdict

if TYPE_CHECKING:
    from ecs_worker.lifecycle.ledger import Ledger
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun, Orchestration, RunState

log = logging.getLogger(__name__)

FRESH = 10.0
"""Seconds that a claim is repeated for want of an answer. The server lets an ended run become Pending again, so a claim
must be over before another worker could have claimed the run and its container ended it: tasks take longer to start."""

CLAIMED_BY = "Claimed by ecs-worker "
"""What a claim's state message begins with; the worker's name follows. `adopt` reads it: it is the only word on
whose claim it is that is written in the same instant as the claim."""


def claimant(message: str | None) -> str | None:
    """The name of the worker that made a claim, from its state message; None if it was no ecs-worker."""
    if message is None or not message.startswith(CLAIMED_BY):
        return None
    return message.removeprefix(CLAIMED_BY)


class Claim:
    """Claims one run at a time for the worker called `worker`."""

    def __init__(self, api: PrefectClient, ledger: Ledger, worker: str) -> None:
        self._api = api
        self._ledger = ledger
        self._worker = worker

    async def once(self, scheduled: FlowRun) -> Held | None:
        """The run as held, or None if it isn't ours: another worker's, not due, deleted.

        Only for a run from a poll just made: a run that crashed since would be claimed again.
        """
        run = ClaimedRun(
            run_id=scheduled.id,
            name=scheduled.name,
            claim_id=uuid4(),
            flow_id=scheduled.flow_id,
            deployment_id=scheduled.deployment_id,
            job_variables=scheduled.job_variables,
            tags=scheduled.tags,
            document=scheduled.document,
        )
        held = Held(run)
        self._ledger.take(held)
        state = None
        try:
            state = await self._propose(run)
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


def is_ours(answer: Orchestration, run: ClaimedRun) -> bool:
    """Whether the server's answer says that the run is Pending by this very claim."""
    if answer.status is Verdict.ACCEPT:
        return answer.state is not None and answer.state.type is StateType.PENDING
    state = answer.state
    return state is not None and state.type is StateType.PENDING and state.transition_id == run.claim_id
