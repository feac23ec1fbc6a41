"""Report: tell the server how a run ended, when the run could not.

`decide` is the whole judgement, and pure. If the process dies before the report, the run is still Pending or Running
with a stopped task, and `adopt` brings it here again.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import PrefectError, PrefectNotFound
from ecs_worker.lifecycle.claim import SPOT_LOST, of_claim, still_pending
from ecs_worker.lifecycle.loops import rim
from ecs_worker.model import Phase
from ecs_worker.prefect_api.schemas import ProposedState, SetStateStatus, StateType
from ecs_worker.verdicts.classify import Kind, classify
from ecs_worker.verdicts.diagnose import diagnose

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from ecs_worker.lifecycle.define import Define
    from ecs_worker.lifecycle.journal.output import ContainerOutput
    from ecs_worker.lifecycle.journal.run_logs import RunLogs
    from ecs_worker.lifecycle.run.ledger import Held, Ledger
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun

log = logging.getLogger(__name__)

# Paused, suspended, awaiting retry, rescheduled: the run goes on elsewhere or later.
ELSEWHERE = frozenset({StateType.PAUSED, StateType.SCHEDULED})

TICK = 2.0  # seconds between two looks: tasks stop in bursts, and one read serves 200 of them
AT_ONCE = 20  # ends told at the same time
RELEASE_PATIENCE = 10.0  # seconds for a claim to be given back
NAMED_WITHIN = 60.0  # seconds after its task's end that an ended run is held to have the task's name written

SPOT = frozenset({"SpotInterruption", "TerminationNotice"})  # stop codes of capacity that was taken away


class Decision(Enum):
    """What becomes of a held run whose task has stopped."""

    FORGET = "forget"  # it has told its end itself, or is not ours any more
    WAIT = "wait"  # it may still tell its end itself
    CANCEL = "cancel"
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the server says of a run, as far as `decide` needs it. `claim_id` None: the state tells none.

    `in_process`: should it be Scheduled, that is for its own container to go on; the server gives it to nobody else.
    """

    state_type: StateType
    claim_id: UUID | None = None
    identifier: str = ""
    in_process: bool = False


def decide(seen: Seen | None, *, claim_id: UUID, identifier: str, stopped_for: float, grace: float) -> Decision:
    """What to do about a run whose task stopped `stopped_for` seconds ago. `seen` None: the run was deleted.

    A run that was claimed anew, or that names another task, belongs to that claim or task.
    """
    if seen is None or seen.state_type.final or (seen.state_type in ELSEWHERE and not seen.in_process):
        return Decision.FORGET
    if not of_claim(seen.claim_id, claim_id):
        return Decision.FORGET
    if seen.identifier and task_of(seen.identifier) != task_of(identifier):
        return Decision.FORGET
    if seen.state_type is StateType.CANCELLING:
        return Decision.CANCEL
    return Decision.CRASH if stopped_for >= grace else Decision.WAIT


def task_of(identifier: str) -> str:
    """The task ARN of `<cluster>::<task ARN>`."""
    return identifier.rpartition("::")[2]


def may_start_again(seen: Seen | None, held: Held) -> bool:
    """Whether a task that failed to start, for a reason that passes, gets another attempt.

    A run that has begun is never started again here: what it did can't be undone.
    """
    if seen is None or seen.state_type is not StateType.PENDING or held.task is None or held.placement is None:
        return False
    if held.stop_reason or held.starts >= held.placement.start_attempts:
        return False
    return classify(held.task).kind is not Kind.PERMANENT


class Report:
    """Tells ends. Every call that fails is repeated by the next sweep, as long as the run is held.

    `again` sends a run on its way once more, from rendering.
    """

    def __init__(
        self,
        api: PrefectClient,
        ledger: Ledger,
        define: Define,
        feed: RunLogs,
        logs: ContainerOutput,
        grace: float,
        again: Callable[[Held], None],
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._define = define
        self._feed = feed
        self._logs = logs
        self._grace = grace
        self._again = again
        self._limiter = anyio.CapacityLimiter(AT_ONCE)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await anyio.sleep(TICK)
            await self.look()

    async def look(self) -> None:
        """Look once, whether or not the API answers."""
        try:
            await self.once()
        except PrefectError as error:
            log.warning("The ends of runs can't be told yet: %s", error)

    async def once(self) -> None:
        """Look at the held runs whose task has stopped: one bulk read for 200 of them. Raises PrefectError.

        Each is looked at when its task has stopped, and again when its grace is over.
        """
        now = time.monotonic()
        stopped = {
            held.run.run_id: held
            for held in self._ledger
            if held.phase is Phase.STOPPED and held.due <= now and not self._only_waits(held)
        }
        if not stopped:
            return
        for held in stopped.values():
            held.due = now + max(self._grace_of(held) - held.in_phase_for, TICK)
        runs = {run.id: run for run in await self._api.runs(ids=tuple(stopped))}
        async with anyio.create_task_group() as ends:
            for run_id, held in stopped.items():
                ends.start_soon(self._tell, held, runs.get(run_id))

    def _grace_of(self, held: Held) -> float:
        """A task that never started can't tell its own end: no grace for it."""
        return self._grace if held.task is not None and held.task.started_at is not None else 0.0

    def _only_waits(self, held: Held) -> bool:
        """Whether a look would be wasted: a dead container's run has its grace, unless somebody waits for its end."""
        if held.task is None or held.placement is None or held.cancelling_since is not None:
            return False
        own = held.task.container(held.placement.container)
        died = own is None or own.exit_code != 0
        return died and held.in_phase_for < self._grace_of(held)

    async def _tell(self, held: Held, run: FlowRun | None) -> None:
        async with self._limiter:
            with rim(held.run.name):
                try:
                    # A bulk read may miss a run; only the run's own absence says that it was deleted.
                    run = run or await self._api.read_run(held.run.run_id)
                except PrefectError as error:
                    log.warning("The end of %s can't be told yet: %s", held.run.name, error)
                else:
                    await self._settle(held, run)

    async def _settle(self, held: Held, run: FlowRun | None) -> None:
        if held.theirs:
            await self._let_go(held)
            return
        now = seen(run) if run is not None else None
        decision = decide(
            now,
            claim_id=held.run.claim_id,
            identifier=held.identifier,
            stopped_for=held.in_phase_for,
            grace=self._grace_of(held),
        )
        if decision in {Decision.FORGET, Decision.CRASH} and run is not None:
            await self._remember_spot(held)
        match decision:
            case Decision.WAIT:
                pass
            case Decision.FORGET if now is not None and _lacks_its_task(now, held):
                pass  # `launch` writes the task's name as long as the run is held
            case Decision.FORGET:
                ended = run.state_name if run is not None else "deleted"
                log.info("%s: its task has stopped, the run is %s.", held.run.name, ended)
                self._ledger.counts[f"ended_{run.state_type.lower() if run and run.state_type else 'deleted'}"] += 1
                await self._let_go(held)
            case Decision.CANCEL:
                await self.cancel(held)
            case Decision.CRASH if may_start_again(now, held):
                self._start_again(held)
            case Decision.CRASH:
                await self.crash(held, self._why(held))
                if now is not None and now.state_type is StateType.PENDING and held.run.run_id not in self._ledger:
                    self._logs.show_last(held)

    async def _remember_spot(self, held: Held) -> None:
        """Should the run be scheduled once more, its next claim, by whichever worker, goes without Spot."""
        lost = held.task is not None and held.task.stop_code in SPOT
        if lost and held.placement is not None and held.placement.spot_fallback and not held.on_demand:
            held.on_demand = True
            try:
                await self._api.label_run(held.run.run_id, {SPOT_LOST: True})
            except PrefectError as error:
                log.debug("%s has no label for its lost Spot capacity: %s", held.run.name, error)  # 2.20 has none

    def _start_again(self, held: Held) -> None:
        """Launch another task. The run stays Pending by the same claim; the attempt gets a token of its own."""
        assert held.task is not None, "a task has failed to start"
        assert held.placement is not None, "it was launched somewhere"
        attempts = f"Attempt {held.starts} of {held.placement.start_attempts}"
        message = f"{attempts} failed to start and is repeated: {self._why(held)}"
        self._feed.tell(held.run, message, level=logging.WARNING)
        self._logs.show_last(held)
        held.attempt += 1
        held.task = None
        held.identifier_written = False
        held.enter(Phase.CLAIMED)
        self._again(held)

    def _why(self, held: Held) -> str:
        if held.crashed_because:
            return held.crashed_because
        if held.task is None or held.placement is None:
            return "It has no ECS task."
        message = held.hide(diagnose(held.task, container=held.placement.container, log=held.placement.log).message)
        return f"{held.stop_reason} {message}" if held.stop_reason else message

    def give_up(self, held: Held, why: str) -> None:
        """There is no task, and there will be none: the next look ends the run, if it still is this worker's."""
        held.crashed_because = why
        held.identifier = held.identifier or _named_before(held)
        held.enter(Phase.STOPPED)
        held.due = 0.0

    async def crash(self, held: Held, why: str) -> None:
        """Write Crashed with its cause, and let the run go. What can't be written now is written by a later look."""
        held.crashed_because = why
        await self._end(held, StateType.CRASHED, why)

    async def cancel(self, held: Held) -> None:
        """Write Cancelled, once nothing of the run lives any more, and let the run go."""
        await self._end(held, StateType.CANCELLED, "Its ECS task has stopped.")

    async def _end(self, held: Held, kind: StateType, message: str) -> None:
        name = kind.capitalize()
        level = logging.ERROR if kind is StateType.CRASHED else logging.INFO
        state = ProposedState(kind, name, message)
        try:
            answer = await self._api.propose_state(held.run.run_id, state)
        except PrefectNotFound:
            log.info("%s was deleted.", held.run.name)
        except PrefectError as error:
            # The run stays held, in the phase for ends: the next sweep decides afresh.
            held.enter(Phase.STOPPED)
            log.warning("%s is not marked %s yet: %s", held.run.name, name, error)
            return
        else:
            if answer.status is SetStateStatus.ACCEPT:
                self._feed.tell(held.run, f"{name}: {message}", level=level)
                self._ledger.counts[f"ended_{kind.lower()}"] += 1
            elif answer.state is not None and not answer.state.type.final:
                held.enter(Phase.STOPPED)  # cancelling meanwhile, say: decide afresh
                return
        await self._let_go(held)

    async def _let_go(self, held: Held) -> None:
        self._ledger.drop(held)
        await self._define.retire(held, self._ledger)

    async def release(self, held: Held, why: str, after: float = 0.0) -> None:
        """Give an unlaunched claim back: Scheduled, `after` seconds from now, so that any worker takes it."""
        state = ProposedState(
            StateType.SCHEDULED,
            "Scheduled",
            message=f"No task was launched: {why}",
            scheduled_time=datetime.now(UTC) + timedelta(seconds=after),
        )
        try:
            # Just before, since another worker may have taken the run up, and an answer that is late does no good.
            run = await self._api.read_run(held.run.run_id)
            ours = run is not None and still_pending(run, held.run.claim_id)
            if ours and run is not None and (run.infrastructure_pid or "") == _named_before(held):
                await self._api.propose_state(held.run.run_id, state, patience_seconds=RELEASE_PATIENCE)
                self._feed.tell(held.run, f"No task was launched, the run is scheduled again: {why}")
        except PrefectError as error:
            # Still Pending by our claim: the next worker's `adopt` launches it.
            log.warning("%s could not be given back, it will be adopted: %s", held.run.name, error)
        self._ledger.drop(held)


def _named_before(held: Held) -> str:
    """The task of an earlier attempt, which the run named when it was claimed."""
    return held.run.named_before


def _lacks_its_task(now: Seen, held: Held) -> bool:
    """Whether an ended run doesn't name its task yet, and soon may."""
    unnamed = now.state_type.final and not now.identifier and held.identifier
    return bool(unnamed) and held.in_phase_for < NAMED_WITHIN


def seen(run: FlowRun) -> Seen:
    """What `decide` needs of a run."""
    return Seen(
        state_type=run.state_type or StateType.SCHEDULED,  # created, and not in any state yet
        claim_id=run.state.transition_id if run.state and run.state_type is StateType.PENDING else None,
        identifier=run.infrastructure_pid or "",
        in_process=run.state_type is StateType.SCHEDULED and run.in_process,
    )
