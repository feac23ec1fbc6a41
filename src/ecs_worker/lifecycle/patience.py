"""Patience: ask AWS until it answers, until it is clear that it won't, or until nobody wants the answer any more.

Throttles, missing capacity and passing faults are waited out, for at most the run's launch time-out. If the process
dies while it waits, the run is still Pending by our claim, and `adopt` goes on.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_random_exponential
from tenacity.wait import wait_base

from ecs_worker.errors import AwsError, EcsWorkerError, LaunchFailed, NoRoom, NotOurs, NotWanted, PrefectError
from ecs_worker.lifecycle.run.claims import WAITING, latest_claim, still_pending, waiting_id
from ecs_worker.prefect_api.schemas import ProposedState, StateType
from ecs_worker.verdicts.classify import Kind, classify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from ecs_worker.lifecycle.journal.journal import Journal
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.model import AwsFailure
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.verdicts.classify import Verdict

log = logging.getLogger(__name__)

T = TypeVar("T")

SLOW_AFTER = 1.0  # seconds without an answer, from which on the run's launching slot is others'
UNPLACED_TIMEOUT = 900.0  # seconds for what AWS is asked before the job's own launch time-out is known
BEGUN = frozenset({StateType.RUNNING, StateType.PAUSED})


class Refused(EcsWorkerError):
    """RunTask answered HTTP 200 with a failure instead of a task."""

    def __init__(self, failure: AwsFailure) -> None:
        self.failure = failure
        super().__init__(f"{failure.reason} {failure.detail}".strip())


class _Again(EcsWorkerError):
    """Worth asking again; `verdict` says why. Its text may be told."""

    def __init__(self, verdict: Verdict, text: str) -> None:
        self.verdict = verdict
        super().__init__(text)


class Patience:
    """`stopping` is set once the worker takes its leave: what only waits is then given back."""

    def __init__(self, api: PrefectClient, ledger: Ledger, journal: Journal, stopping: anyio.Event) -> None:
        self._api = api
        self._ledger = ledger
        self._journal = journal
        self._stopping = stopping
        self._breakable: set[anyio.CancelScope] = set()

    async def ask(self, run: Run, place: Hashable, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question about the run. Raises LaunchFailed, NotWanted, NotOurs or what isn't AWS's.

        `place`: what answers as one. While its answer is awaited for longer, the run's launching slot is others'; and
        where too many wait for capacity already, the question isn't repeated: NoRoom.
        """
        timeout = run.placement.launch_timeout if run.placement else UNPLACED_TIMEOUT
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Again),
            wait=_WaitByVerdict(),
            stop=stop_after_delay(timeout),
            sleep=partial(self._sleep, run),
            before_sleep=partial(self._tell_wait, run),
            before=partial(self._look_again, run),
            reraise=True,
        )
        try:
            return await retrying(self._once, run, place, question)
        except _Again as again:
            raise LaunchFailed(
                f"No ECS task could be launched{_place(run)} within {timeout:.0f} s; the last answer was: "
                f"{_with_remedy(str(again), again.verdict)}"
            ) from None
        finally:
            self._ledger.aside.back(run.id)

    def make_way(self, run: Run, place: Hashable) -> None:
        """Raises NoRoom where too many launches wait already: one more would only wait, too."""
        if why := self._ledger.aside.refusal(place):
            raise self._no_room(run, place, why)

    async def while_wanted(self, run: Run, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to what may be broken off at any time.

        Raises NotWanted once the worker stops or the run is cancelled.
        """
        refuse_if_cancelled(run)
        if not self._stopping.is_set():
            with anyio.CancelScope() as scope:
                self._breakable.add(scope)
                run.when_cancelled(scope.cancel)
                try:
                    return await question()
                finally:
                    run.when_cancelled(None)
                    self._breakable.discard(scope)
        refuse_if_cancelled(run)
        raise NotWanted("The worker stops before the run's task was launched.")

    def break_off(self) -> None:
        """The worker stops: what waits for its turn, for a look-up or for Prefect waits no longer."""
        for scope in tuple(self._breakable):
            scope.cancel()

    async def still_wanted(self, run: Run) -> None:
        """After a wait the run may be another's, or nobody's. Raises NotOurs; `run` knows if it was cancelled."""
        try:
            now = await self._api.read_run(run.id)
        except PrefectError as error:
            log.debug("%s can't be read before its next attempt: %s", run.label, error)
            return
        if now is None:
            raise NotOurs("The run was deleted while its launch waited.")
        if now.state_type is StateType.CANCELLING:
            run.cancel()
        elif now.state_type in BEGUN and run.unanswered and await self._claimed_last(run):
            return  # the task whose launch was not answered runs already: asked again, ECS tells its name
        elif not still_pending(now, run.claim.claim_id):
            raise NotOurs(f"The run became {now.state_name} while its launch waited.")

    def _no_room(self, run: Run, place: Hashable, why: str) -> NoRoom:
        after = self._ledger.aside.later(place)
        return NoRoom(
            f"No ECS task is launched{_place(run)} now: {why.rstrip('. ')}. It is tried again in {after:.0f} s.", after
        )

    async def _once(self, run: Run, place: Hashable, question: Callable[[], Awaitable[T]]) -> T:
        refuse_if_cancelled(run)
        slow = asyncio.get_running_loop().call_later(SLOW_AFTER, self._ledger.step_aside, run, place)
        try:
            return await question()
        except (AwsError, Refused) as error:
            verdict = classify(error.failure if isinstance(error, Refused) else error)
            text = run.hide(str(error))
            if verdict.kind in {Kind.PERMANENT, Kind.CONFLICT}:
                told = _with_remedy(text, verdict)
                raise LaunchFailed(f"ECS refuses to launch the task{_place(run)}: {told}") from None
            stands = self._ledger.step_aside(run, place, text)
            if verdict.kind is Kind.CAPACITY and not stands and not run.unanswered:
                raise self._no_room(run, place, text) from None
            raise _Again(verdict, text) from None
        finally:
            slow.cancel()

    async def _sleep(self, run: Run, seconds: float) -> None:
        """Wait, but no longer than the worker means to live, or the run is wanted."""
        with suppress(NotWanted):
            await self.while_wanted(run, partial(anyio.sleep, seconds))

    async def _tell_wait(self, run: Run, state: RetryCallState) -> None:
        """Say on the run what its launch waits for: in its logs each time, in its state when that is news."""
        again = _again(state)
        seconds = state.next_action.sleep if state.next_action else 0
        self._journal.waits(run, seconds, str(again))
        kind = again.verdict.kind
        # A container may have ended the run by now, and the server lets an ended run become Pending again.
        if kind is Kind.AMBIGUOUS or not run.waits(kind):
            return
        claim_id = run.claim.claim_id
        waiting = ProposedState(
            StateType.PENDING, WAITING, f"The launch waits: {again}", transition_id=waiting_id(claim_id, kind)
        )
        try:
            now = await self._api.read_run(run.id)
            if now is not None and still_pending(now, claim_id):  # users may have ended it, too
                await self._api.propose_state(run.id, waiting)  # 2.20 refuses sub-states; the log has it
        except PrefectError as error:
            log.debug("%s: its state doesn't say what it waits for: %s", run.label, error)

    async def _look_again(self, run: Run, state: RetryCallState) -> None:
        if state.attempt_number > 1:
            await self.still_wanted(run)

    async def _claimed_last(self, run: Run) -> bool:
        """Whether no other claim followed this one; taken for so while it can't be read."""
        try:
            claim = latest_claim(await self._api.state_history(run.id), datetime.now(UTC))
        except PrefectError as error:
            log.debug("The states of %s can't be read: %s", run.label, error)
            return True
        return claim is not None and claim.claim_id == run.claim.claim_id


def refuse_if_cancelled(run: Run) -> None:
    """Raises NotWanted if somebody wants the run to end."""
    if run.cancelled:
        raise NotWanted("The run was cancelled before its task was launched.")


def _again(state: RetryCallState) -> _Again:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, _Again), "nothing else is repeated"
    return error


def _place(run: Run) -> str:
    """The cluster for messages; empty while the job is still being rendered."""
    return run.hide(f" on cluster {run.placement.cluster or 'default'}") if run.placement is not None else ""


def _with_remedy(text: str, verdict: Verdict) -> str:
    """AWS's words (which may end with a full stop) and the remedy."""
    return f"{text.rstrip('. ')}. {verdict.remedy}".strip()


class _WaitByVerdict(wait_base):
    """Throttles pass within seconds; capacity comes back within a minute."""

    _SLOW = wait_random_exponential(multiplier=2, max=60)
    _QUICK = wait_random_exponential(multiplier=0.5, max=15)

    def __call__(self, retry_state: RetryCallState) -> float:
        slow = _again(retry_state).verdict.kind is Kind.CAPACITY
        return (self._SLOW if slow else self._QUICK)(retry_state)
