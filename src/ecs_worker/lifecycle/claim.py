"""Claim: make a scheduled run ours by proposing Pending, or give it back.

The proposal carries a `transition_id`, the claim id. A retry after a lost answer repeats it, and the server then
says REJECT with the state that we made: the claim is known as ours. If the process dies after the server accepted,
the claim id stands in the run's state, where `adopt` reads it.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from ecs_worker.errors import PrefectError, PrefectNotFound
from ecs_worker.lifecycle.run.claims import claim_message, ended_before, is_ours, run_of, still_pending
from ecs_worker.prefect_api.schemas import ProposedState, StateType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ecs_worker.lifecycle.journal.journal import Journal
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.model import ClaimedRun, Place
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun, RunState

log = logging.getLogger(__name__)

CLAIMABLE_FOR = 10.0
"""Seconds after its poll that a run may still be claimed, and a claim be repeated until it is answered."""
DOUBTFUL_AFTER = 2.0
"""Seconds from the poll to the claim's answer, after which another worker's task may have ended the run in between.
The server lets an ended run become Pending again, so the run's history is asked then."""
RELEASED_WITHIN = 10.0  # seconds for a claim to be given back


class Claim:
    """Claims one run at a time for the worker called `worker`, which is in `place`."""

    def __init__(
        self, api: PrefectClient, ledger: Ledger, journal: Journal, worker: str, place: Callable[[], Place]
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._journal = journal
        self._worker = worker
        self._place = place

    async def take(self, scheduled: FlowRun, polled_at: float) -> Run | None:
        """The run as held, or None if it isn't ours: another worker's, not due, deleted, or ended meanwhile.

        `polled_at`: when the poll that told of it was sent, on the ledger's clock.
        """
        clock = self._ledger.clock
        if clock() - polled_at > CLAIMABLE_FOR:
            polled_at, found = clock(), await self._read_again(scheduled)
            if found is None:
                return None
            scheduled = found
        run = run_of(scheduled, uuid4(), clock)
        self._ledger.take(run)
        state = None
        try:
            state = await self._propose(run.claim)
            if state is not None and clock() - polled_at > DOUBTFUL_AFTER and await self._undone(run.claim):
                state = None
        finally:
            if state is None:
                self._ledger.drop(run)
        if state is None:
            return None
        run.leased(state.lease_id)
        self._journal.claimed()
        return run

    async def release(self, run: Run, why: str, after: float = 0.0) -> None:
        """Give an unlaunched claim back: Scheduled, `after` seconds from now, so that any worker takes it."""
        state = ProposedState(
            StateType.SCHEDULED,
            "Scheduled",
            message=f"No task was launched: {why}",
            scheduled_time=datetime.now(UTC) + timedelta(seconds=after),
        )
        try:
            # Just before, since another worker may have taken the run up, and an answer that is late does no good.
            now = await self._api.read_run(run.id)
            if now is not None and _is_unlaunched(now, run.claim):
                await self._api.propose_state(run.id, state, patience_seconds=RELEASED_WITHIN)
                self._journal.released(run, why)
        except PrefectError as error:
            # Still Pending by our claim: the next worker's `adopt` launches it.
            log.warning("%s could not be given back, it will be adopted: %s", run.label, error)
        self._ledger.drop(run)

    async def _read_again(self, scheduled: FlowRun) -> FlowRun | None:
        """A run of a poll that took long, if it still waits as it did then."""
        try:
            now = await self._api.read_run(scheduled.id)
        except PrefectError as error:
            log.warning(
                "%s was polled long ago and can't be read again, so it is not claimed: %s", scheduled.name, error
            )
            return None
        if now is None or now.state_type is not StateType.SCHEDULED:
            log.debug("%s was polled long ago, and others have it by now.", scheduled.name)
            return None
        return now

    async def _propose(self, claim: ClaimedRun) -> RunState | None:
        """The Pending state that is ours; None if the run isn't."""
        message = claim_message(self._worker, self._place())
        state = ProposedState(StateType.PENDING, "Pending", message=message, transition_id=claim.claim_id)
        try:
            answer = await self._api.propose_state(claim.run_id, state, patience_seconds=CLAIMABLE_FOR)
        except PrefectNotFound:
            log.info("%s was deleted before it could be claimed.", claim.name)
            return None
        except PrefectError as error:
            # The claim may stand all the same. `adopt` sees the run, Pending with our name, and takes it up.
            log.warning("Whether %s is claimed is not known, it will be looked up: %s", claim.name, error)
            return None
        if is_ours(answer, claim.claim_id):
            return answer.state
        log.debug("%s is not ours: %s %s", claim.name, answer.status, answer.reason)
        return None

    async def _undone(self, claim: ClaimedRun) -> bool:
        """Whether the claim turned out to be of a run that had ended, and is taken back (or left to `adopt`)."""
        try:
            return await undo_if_ended(self._api, claim, await self._api.state_history(claim.run_id))
        except PrefectError as error:
            # Still Pending with our name: `adopt` asks the same question before it launches anything.
            log.warning("Whether %s had ended before its claim is not known yet: %s", claim.name, error)
            return True


def _is_unlaunched(run: FlowRun, claim: ClaimedRun) -> bool:
    return still_pending(run, claim.claim_id) and (run.infrastructure_pid or "") == claim.named_before


async def undo_if_ended(api: PrefectClient, claim: ClaimedRun, states: Sequence[RunState]) -> bool:
    """Give a run that was claimed after its end the end again; whether it was one. Raises PrefectError."""
    end = ended_before(states, claim.claim_id)
    if end is None:
        return False
    log.info("%s had ended %s before it was claimed; it stays so.", claim.name, end.name)
    again = ProposedState(end.type, end.name, end.message, data=end.data)
    await api.propose_state(claim.run_id, again, force=True)  # the rules of Pending don't lead back
    return True
