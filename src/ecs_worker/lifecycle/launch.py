"""Launch: RunTask, asked until it is answered one way or the other, and the task's name written on the run.

The crash windows:
- before RunTask: the run is Pending by our claim, without a task. `adopt` launches it with the same claim id.
- RunTask asked, answer not seen: the same clientToken is sent again, by this process or the next; ECS answers
  with the same task. `adopt` also finds the task by `startedBy`.
- task launched, `infrastructure_pid` not written: as above; the write is repeated until it holds.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_random_exponential
from tenacity.wait import wait_base

from ecs_worker.errors import AwsError, EcsWorkerError, PrefectError
from ecs_worker.job.requests import without_spot
from ecs_worker.lifecycle.claim import WAITING, claims, still_pending, waiting_id
from ecs_worker.model import AwsFailure, Phase, TaskFacts
from ecs_worker.prefect_api.schemas import ProposedState, StateType
from ecs_worker.verdicts.classify import Kind, classify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ecs_worker.aws.ecs import Ecs
    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.define import Define
    from ecs_worker.lifecycle.journal.event_feed import EventFeed
    from ecs_worker.lifecycle.journal.run_logs import RunLogs
    from ecs_worker.lifecycle.run.ledger import Held, Ledger
    from ecs_worker.model import LaunchRequest
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.verdicts.classify import Verdict

log = logging.getLogger(__name__)

T = TypeVar("T")

CONFLICT = "ConflictException"
INACTIVE = "inactive"
REWRITE_SECONDS = 3.0
REWRITES_AT_ONCE = 10
STALE = 5.0  # seconds in the queue after which the run is read again before its launch
WORKER_LABEL = "prefect.worker.name"
BEGUN = frozenset({StateType.RUNNING, StateType.PAUSED})
DESCRIBED_AT_ONCE = 100  # DescribeTasks takes no more

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class LaunchFailed(EcsWorkerError):
    """No task was launched and none will be: the message says why and what to do."""


class NotWanted(EcsWorkerError):
    """The run was cancelled, or this worker is stopping, before a task was launched."""


class NotOurs(EcsWorkerError):
    """While the launch waited the run was deleted, rescheduled or ended by others: it is theirs now."""


class _Refused(EcsWorkerError):
    """RunTask answered HTTP 200 with a failure instead of a task."""

    def __init__(self, failure: AwsFailure) -> None:
        self.failure = failure
        super().__init__(f"{failure.reason} {failure.detail}".strip())


class _Again(EcsWorkerError):
    """Worth asking again; `verdict` says why."""

    def __init__(self, verdict: Verdict, cause: EcsWorkerError) -> None:
        self.verdict = verdict
        self.cause = cause
        super().__init__(str(cause))


class Launch:
    """Launches held runs. `stopping` is set once the worker takes its leave: what only waits is then given back."""

    def __init__(
        self,
        api: PrefectClient,
        aws: Aws,
        ledger: Ledger,
        define: Define,
        feed: RunLogs,
        stopping: anyio.Event,
        worker: str,
        announce: EventFeed,
    ) -> None:
        self._api = api
        self._aws = aws
        self._ledger = ledger
        self._define = define
        self._feed = feed
        self._stopping = stopping
        self._worker = worker
        self._announce = announce
        self._breakable: set[anyio.CancelScope] = set()

    async def once(self, held: Held, request: LaunchRequest) -> None:
        """Launch the run's task and write its name on the run. Raises LaunchFailed or NotWanted."""
        held.placement = request.placement
        held.deregister = request.deregister
        held.enter(Phase.LAUNCHING)
        task = await self.patiently(held, lambda: self._run_task(held, request))
        self.settle(held, task)
        self._ledger.counts["launched"] += 1
        self._announce.launched(held)
        self._feed.tell(held.run, f"ECS task {task.task_id} is {task.last_status or 'PROVISIONING'}: {task.arn}")
        await self.write_identifier(held)
        await self.write_labels(held)  # not at the same time: both change one row, and SQLite refuses one of them

    async def find(self, held: Held) -> TaskFacts | None:
        """The task that the run's claim launched, if ECS has one: the newest, when there were several attempts.

        Raises AwsError. A task that has been stopped for more than an hour is not found.
        """
        assert held.placement is not None, "without a placement there is nowhere to look"
        ecs = await self._aws.ecs(held.placement.target)
        cluster = held.placement.cluster
        arns: list[str] = []
        for status in ("RUNNING", "STOPPED"):
            arns += await ecs.list_tasks(cluster, started_by=held.run.started_by, desired_status=status)
        if not arns:
            return None
        tasks, _ = await ecs.describe_tasks(cluster, arns[:DESCRIBED_AT_ONCE])
        return max(tasks, key=lambda task: (not task.stopped, task.created_at or _LONG_AGO), default=None)

    def settle(self, held: Held, task: TaskFacts) -> None:
        """From here on the run has a task."""
        assert held.placement is not None, "a task without a placement can't be watched"
        held.task = task
        held.starts += 1
        held.uncertain = False
        cluster = held.placement.cluster or task.cluster_arn
        held.identifier = f"{cluster}::{task.arn}"
        held.enter(Phase.STARTING)
        self._ledger.freed()

    async def patiently(self, held: Held, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask AWS until it answers, for at most the run's launch time-out.

        Throttles, capacity and passing faults are waited out; what can't pass raises LaunchFailed at once.
        """
        timeout = held.placement.launch_timeout if held.placement else 900
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Again),
            wait=_WaitByVerdict(),
            stop=stop_after_delay(timeout),
            sleep=self._sleep,
            before_sleep=partial(self._tell_wait, held),
            before=partial(self._look_again, held),
            reraise=True,
        )
        try:
            return await retrying(self._attempt, held, ask)
        except _Again as again:
            raise LaunchFailed(
                f"No ECS task could be launched{_place(held)} within {timeout:.0f} s; the last answer was: "
                f"{_told(again.cause, again.verdict)}"
            ) from again

    async def _attempt(self, held: Held, ask: Callable[[], Awaitable[T]]) -> T:
        if held.cancelling_since is not None:
            raise NotWanted("The run was cancelled before its task was launched.")
        try:
            return await ask()
        except (AwsError, _Refused) as error:
            error.args = (held.hide(str(error)),)
            verdict = classify(error.failure if isinstance(error, _Refused) else error)
            if verdict.kind in {Kind.PERMANENT, Kind.CONFLICT}:
                raise LaunchFailed(f"ECS refuses to launch the task{_place(held)}: {_told(error, verdict)}") from error
            raise _Again(verdict, error) from error

    async def while_wanted(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What may be broken off at any time, on the way to RunTask. Raises NotWanted once the worker stops."""
        if not self._stopping.is_set():
            with anyio.CancelScope() as scope:
                self._breakable.add(scope)
                try:
                    return await ask()
                finally:
                    self._breakable.discard(scope)
        raise NotWanted("The worker stops before the run's task was launched.")

    def break_off(self) -> None:
        """The worker stops: what waits for its turn, for a look-up or for Prefect waits no longer."""
        for scope in tuple(self._breakable):
            scope.cancel()

    async def _run_task(self, held: Held, request: LaunchRequest) -> TaskFacts:
        arn = await self.while_wanted(lambda: self._define.once(request))
        run = held.run
        ecs = await self._aws.ecs(request.placement.target)
        await self.while_wanted(lambda: self._turn(held, ecs))
        on_demand = held.on_demand and request.placement.spot_fallback
        asked: dict[str, Any] = {
            **(without_spot(request.run_task) if on_demand else request.run_task),
            "taskDefinition": arn,
            "clientToken": run.client_token(held.attempt),
            "startedBy": run.started_by,
        }
        try:
            tasks, failures = await ecs.run_task(asked)
        except AwsError as error:
            if error.code == CONFLICT:
                # This very claim and attempt was asked for before, in other words (a new worker's name).
                return await self._asked_before(held, error)
            if INACTIVE in error.message.lower() and not isinstance(request.definition, str):
                self._define.forget(request)  # deregistered by somebody: the next attempt finds or registers another
            held.uncertain = held.uncertain or error.retried or classify(error).kind is Kind.AMBIGUOUS
            raise
        if tasks:
            return tasks[0]
        # ECS records a failure under its token and repeats it: a new attempt needs a new one.
        held.attempt += 1
        held.on_demand = held.on_demand or request.placement.spot_fallback
        raise _Refused(failures[0] if failures else AwsFailure(reason="ECS launched no task and gave no reason"))

    async def _turn(self, held: Held, ecs: Ecs) -> None:
        """Wait for the turn that AWS's limits leave to this launch: behind hundreds of others that takes a while."""
        began = time.monotonic()
        await ecs.turn("RunTask")
        if time.monotonic() - began > STALE:
            await self._still_wanted(held)
        if held.cancelling_since is not None:
            raise NotWanted("The run was cancelled before its task was launched.")

    async def _asked_before(self, held: Held, conflict: AwsError) -> TaskFacts:
        """The task that the token stands for; where it stands for a failure, which ECS keeps, a new token is needed."""
        if conflict.resource_ids:
            return TaskFacts(arn=conflict.resource_ids[0])
        task = await self.find(held)
        if task is not None and not task.stopped:
            return task
        held.attempt += 1
        raise _Refused(AwsFailure(reason="an earlier attempt to launch it had failed")) from conflict

    async def _sleep(self, seconds: float) -> None:
        """Wait, but no longer than the worker means to live."""
        with anyio.move_on_after(seconds):
            await self._stopping.wait()

    async def _tell_wait(self, held: Held, state: RetryCallState) -> None:
        """Say on the run what its launch waits for: in its logs each time, in its state when that is news."""
        again = state.outcome.exception() if state.outcome else None
        seconds = state.next_action.sleep if state.next_action else 0
        self._feed.tell(held.run, f"The launch waits {seconds:.0f} s: {again}", level=logging.WARNING)
        assert isinstance(again, _Again), "nothing else is repeated"
        kind = again.verdict.kind
        # A container may have ended the run by now, and the server lets an ended run become Pending again.
        if kind is held.waits_for or kind is Kind.AMBIGUOUS:
            return
        held.waits_for = kind
        waiting = ProposedState(
            StateType.PENDING, WAITING, f"The launch waits: {again}", transition_id=waiting_id(held.run.claim_id, kind)
        )
        try:
            run = await self._api.read_run(held.run.run_id)
            if run is not None and still_pending(run, held.run.claim_id):  # users may have ended it, too
                await self._api.propose_state(held.run.run_id, waiting)  # 2.20 refuses sub-states; the log has it
        except PrefectError as error:
            log.debug("%s: its state doesn't say what it waits for: %s", held.run.name, error)

    async def _look_again(self, held: Held, state: RetryCallState) -> None:
        if state.attempt_number > 1:
            await self._still_wanted(held)

    async def _still_wanted(self, held: Held) -> None:
        """After a wait the run may be another's, or nobody's. Raises NotOurs."""
        try:
            run = await self._api.read_run(held.run.run_id)
        except PrefectError as error:
            log.debug("%s can't be read before its next attempt: %s", held.run.name, error)
            return
        if run is None:
            raise NotOurs("The run was deleted while its launch waited.")
        if run.state_type is StateType.CANCELLING:
            held.cancelling_since = held.cancelling_since or time.monotonic()
        elif run.state_type in BEGUN and held.uncertain and await self._claimed_last(held):
            return  # the task whose launch was not answered runs already: asked again, ECS tells its name
        elif not still_pending(run, held.run.claim_id):
            raise NotOurs(f"The run became {run.state_name} while its launch waited.")

    async def _claimed_last(self, held: Held) -> bool:
        """Whether no other claim followed this one; taken for so while it can't be read."""
        try:
            states = await self._api.state_history(held.run.run_id)
        except PrefectError as error:
            log.debug("The states of %s can't be read: %s", held.run.name, error)
            return True
        newest = max(claims(states), key=lambda state: state.timestamp or _LONG_AGO, default=None)
        return newest is not None and newest.transition_id == held.run.claim_id

    async def run(self) -> None:
        """Repeat for ever the writes of identifiers that failed: `adopt` of others goes by them."""
        while True:
            await anyio.sleep(REWRITE_SECONDS)
            limiter = anyio.CapacityLimiter(REWRITES_AT_ONCE)
            async with anyio.create_task_group() as writes:
                for held in self._ledger:
                    if held.task is not None and not held.identifier_written:
                        writes.start_soon(self._rewrite, held, limiter)

    async def _rewrite(self, held: Held, limiter: anyio.CapacityLimiter) -> None:
        async with limiter:
            await self.write_identifier(held)

    async def write_identifier(self, held: Held) -> None:
        """Write `infrastructure_pid`, once. When it fails, `run` calls again."""
        held.identifier_written = True  # while it is under way, nobody else begins
        try:
            written = await self._api.update_run(held.run.run_id, infrastructure_pid=held.identifier)
        except PrefectError as error:
            held.identifier_written = False
            log.warning("%s: its task is not written on the run yet: %s", held.run.name, error)
            return
        if not written:
            held.cancelling_since = held.cancelling_since or time.monotonic()  # deleted: nobody wants the task

    async def write_labels(self, held: Held) -> None:
        """Name this worker on the run: `adopt` of other workers then leaves it alone while this one lives."""
        labels = {WORKER_LABEL: self._worker, "prefect.worker.type": "ecs"}
        try:
            await self._api.label_run(held.run.run_id, labels)
        except PrefectError as error:
            log.debug("%s has no worker labels: %s", held.run.name, error)  # 2.20 has none


def _place(held: Held) -> str:
    """The cluster for messages; empty while the job is still being rendered."""
    return held.hide(f" on cluster {held.placement.cluster or 'default'}") if held.placement is not None else ""


def _told(error: EcsWorkerError, verdict: Verdict) -> str:
    """AWS's words (which may end with a full stop) and the remedy."""
    return f"{str(error).rstrip('. ')}. {verdict.remedy}".strip()


class _WaitByVerdict(wait_base):
    """Throttles pass within seconds; capacity comes back within a minute."""

    _SLOW = wait_random_exponential(multiplier=2, max=60)
    _QUICK = wait_random_exponential(multiplier=0.5, max=15)

    def __call__(self, retry_state: RetryCallState) -> float:
        again = retry_state.outcome.exception() if retry_state.outcome else None
        slow = isinstance(again, _Again) and again.verdict.kind is Kind.CAPACITY
        return (self._SLOW if slow else self._QUICK)(retry_state)
