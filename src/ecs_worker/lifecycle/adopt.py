"""Adopt: take up the runs that no live worker holds, after a restart or a colleague's death.

All it needs stands on the Prefect server and in ECS: the claim id and the claimant's name in the run's state, the
task in `infrastructure_pid` or under the claim's `startedBy`. Two workers that adopt the same run do no harm: they
describe the same task, and a launch repeats the same clientToken.

- With a task identifier: the task is watched.
- Without: the claim's task is looked up; found, it is watched and its name written; not found, it is launched with
  the same claim id.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import AwsError, JobInvalid, PrefectError, PrefectNotFound, UserError
from ecs_worker.lifecycle.claim import claimant, claims, ended_before, held_for, take_back
from ecs_worker.lifecycle.launch import WORKER_LABEL
from ecs_worker.lifecycle.loops import rim
from ecs_worker.lifecycle.report import task_of
from ecs_worker.model import AwsTarget, ClaimedRun, Placement, TaskFacts
from ecs_worker.prefect_api.schemas import StateType
from ecs_worker.verdicts.classify import NO_CLUSTER, Kind, classify

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from uuid import UUID

    from ecs_worker.aws.session import Aws
    from ecs_worker.lifecycle.journal.run_logs import RunLogs
    from ecs_worker.lifecycle.launch import Launch
    from ecs_worker.lifecycle.rendering.render import Render
    from ecs_worker.lifecycle.report import Report
    from ecs_worker.lifecycle.run.ledger import Held, Ledger
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun, RunState
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

EVERYTHING = 900.0  # seconds between two looks at all runs of the pool, while no worker goes
UNSETTLED = (StateType.PENDING, StateType.CANCELLING)
AT_ONCE = 10  # runs taken up at the same time
READ_AT_ONCE = 200  # the server's page


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim, as the run's states tell it.

    `worker` None: claimed by another kind of worker. `age` in seconds. `first`: the run was never claimed before, so
    what it names as its task is this claim's.
    """

    claim_id: UUID
    worker: str | None
    age: float
    first: bool = True
    lease_id: UUID | None = None


def chosen(run_id: UUID, workers: Collection[str]) -> str | None:
    """The one of the live workers that takes up a run: rendezvous hashing, the same answer for all who ask."""
    return max(workers, key=lambda name: hashlib.sha256(f"{name} {run_id}".encode()).digest(), default=None)


def latest_claim(states: Collection[RunState], now: datetime) -> Claimed | None:
    """The newest claim in a run's history."""
    found = claims(states)
    if not found:
        return None
    newest = max(found, key=lambda state: state.timestamp or now)
    assert newest.transition_id is not None, "claims have one"
    age = (now - newest.timestamp).total_seconds() if newest.timestamp else 0.0
    return Claimed(newest.transition_id, claimant(newest.message), age, first=len(found) == 1, lease_id=newest.lease_id)


def mine(run: FlowRun, claim: Claimed | None, live: Collection[str], me: str, *, settle: float) -> bool:
    """Whether the worker called `me` is to take up the run. `live` are the workers that beat, `me` among them.

    A live claimant looks after its own, and so does a live worker whose label the run bears: it launched it or took
    it up. (A label may also be left from an earlier attempt; then that worker takes the run up by the second rule.)
    A claim without a task is left alone for `settle` seconds: its worker may be about to launch.
    """
    claimed_by = claim.worker if claim is not None else None
    label = run.labels.get(WORKER_LABEL)
    if not run.infrastructure_pid and (claim is None or claim.age < settle):
        return False
    if run.state_type is StateType.PENDING and claimed_by in live and claimed_by != me:
        return False
    if me in {claimed_by, label}:
        return True
    if claimed_by in live or label in live:
        return False
    return chosen(run.id, live) == me


def as_held(run: FlowRun, claim: Claimed | None) -> Held:
    """The run as it is held, before anything is known of a task."""
    # A run that another kind of worker claimed has no claim id of ours; its own id stands in, unused.
    held = held_for(run, claim.claim_id if claim is not None else run.id)
    held.lease_id = claim.lease_id if claim is not None else None
    return held


async def placement_of(render: Render, run: ClaimedRun, identifier: str) -> Placement:
    """Where the run's task `<cluster>::<task ARN>` is. Raises PrefectError, or UserError for unusable credentials."""
    cluster, _, arn = identifier.partition("::")
    try:
        placement = (await render.once(run)).placement
    except (JobInvalid, PrefectNotFound):
        # Its job was changed or deleted since. The task says enough to be watched; only its output is not known.
        placement = Placement(AwsTarget(region=arn.split(":")[3] or None), cluster, container="")
    return replace(placement, cluster=cluster)


class Adopt:
    """Looks for orphans. `send` carries a held run on from rendering, as after a claim."""

    def __init__(
        self,
        api: PrefectClient,
        aws: Aws,
        ledger: Ledger,
        render: Render,
        launch: Launch,
        report: Report,
        feed: RunLogs,
        settings: WorkerSettings,
        send: Callable[[Held], None],
    ) -> None:
        self._api = api
        self._aws = aws
        self._ledger = ledger
        self._render = render
        self._launch = launch
        self._report = report
        self._feed = feed
        self._settings = settings
        self._send = send
        self._live: frozenset[str] = frozenset()
        self._looked_at_all = -math.inf
        self._open = False

    async def run(self) -> None:
        """Look at the start and every `adopt_seconds`."""
        while True:
            try:
                await self.once()
            except PrefectError as error:
                log.warning("Runs without a worker can't be looked for now: %s", error)
            await anyio.sleep(self._settings.adopt_seconds)

    async def once(self) -> None:
        """One look. Raises PrefectError.

        Pending and Cancelling runs are few and can't wait. All that run are listed only when a worker has gone (or
        at the start), since a pool may have thousands, and once in a while for safety.
        """
        pool = self._settings.pool
        online = await self._api.workers(pool, status="ONLINE")
        live = frozenset(worker.name for worker in online if worker.status == "ONLINE") | {self._settings.name}
        everything = self._open or bool(self._live - live) or time.monotonic() - self._looked_at_all >= EVERYTHING
        states = (*UNSETTLED, StateType.RUNNING) if everything else UNSETTLED
        orphans = [run_id for run_id in await self._api.run_ids(pool=pool, states=states) if run_id not in self._ledger]
        limiter = anyio.CapacityLimiter(AT_ONCE)
        self._open = True  # until all is known: a run that is Pending now may be Running at the next look
        settled: list[bool] = []

        async def consider(run: FlowRun) -> None:
            async with limiter:
                settled.append(await self._consider(run, live))

        # A few at a time are read whole: a dead worker may have left ten thousand.
        for start in range(0, len(orphans), READ_AT_ONCE):
            some = orphans[start : start + READ_AT_ONCE]
            async with anyio.create_task_group() as looks:
                for run in await self._api.runs(pool=pool, states=states, ids=some):
                    looks.start_soon(consider, run)
        self._live = live
        self._open = not all(settled)
        if everything:
            self._looked_at_all = time.monotonic()

    async def _consider(self, run: FlowRun, live: Collection[str]) -> bool:
        """Take the run up if it is this worker's to take. False: the next look has to see it again, whatever it is."""
        if (holder := run.labels.get(WORKER_LABEL)) in live and holder != self._settings.name:
            return True  # a live worker launched it, or took it up; no need to read its history
        with rim(run.name):
            try:
                return await self._take_up(run, live)
            except UserError as error:
                log.warning("%s can't be adopted: %s", run.name, error)
                return True
            except (PrefectError, AwsError) as error:
                log.warning("%s can't be adopted yet: %s", run.name, error)
        return False

    async def _take_up(self, run: FlowRun, live: Collection[str]) -> bool:
        me, settle = self._settings.name, self._settings.settle_seconds
        states = await self._api.state_history(run.id)
        claim = latest_claim(states, datetime.now(UTC))
        if not mine(run, claim, live, me, settle=settle):
            return claim is None or claim.age >= settle or (claim.worker in live and claim.worker != me)
        end = ended_before(states, claim.claim_id) if claim is not None else None
        if claim is not None and end is not None and run.state_type is StateType.PENDING:
            await take_back(self._api, as_held(run, claim).run, end)  # its worker died before it could do so
        elif await self._names_its_task(run, claim):
            await self._watch_task(run, claim)
        elif claim is not None:
            await self._find_or_launch(run, claim)
        return True

    async def _names_its_task(self, run: FlowRun, claim: Claimed | None) -> bool:
        """Whether the run names the task that this claim launched; the name may be an earlier attempt's."""
        if run.infrastructure_pid is None or "::" not in run.infrastructure_pid:
            return False
        if claim is None or claim.worker is None or claim.first:
            return True
        held = as_held(run, claim)
        placement = await placement_of(self._render, held.run, run.infrastructure_pid)
        ecs = await self._aws.ecs(placement.target)
        tasks, _ = await ecs.look_up(placement.cluster, [task_of(run.infrastructure_pid)])
        return any(task.started_by == held.run.started_by for task in tasks)

    async def _watch_task(self, run: FlowRun, claim: Claimed | None) -> None:
        """Watch the task that the run names. The next sweep describes it."""
        assert run.infrastructure_pid is not None, "the caller looked"
        held = as_held(run, claim)
        held.placement = await placement_of(self._render, held.run, run.infrastructure_pid)
        held.identifier_written = True
        await self._take(held, TaskFacts(arn=task_of(run.infrastructure_pid)))
        held.identifier = run.infrastructure_pid

    async def _find_or_launch(self, run: FlowRun, claim: Claimed) -> None:
        held = as_held(run, claim)
        task, obstacle = None, ""
        try:
            held.placement = (await self._render.once(held.run)).placement
            task = await self._launch.find(held)
        except (JobInvalid, PrefectNotFound) as error:
            obstacle = str(error)
        except AwsError as error:
            # Without its cluster there is no task. What else can't pass a launch by the same claim tells best.
            unlaunched = run.state_type is StateType.PENDING and classify(error).kind is Kind.PERMANENT
            if error.code != NO_CLUSTER and not unlaunched:
                raise
        if task is not None:
            await self._take(held, task)
            return
        if not await self._still(run, claim):
            return
        self._ledger.take(held)
        match run.state_type:
            case StateType.PENDING if obstacle:
                self._report.give_up(held, obstacle)
            case StateType.PENDING:
                log.info("%s was claimed by %s and never launched: launching it.", run.name, claim.worker)
                self._send(held)
            case StateType.CANCELLING:
                await self._report.cancel(held)
            case _:
                await self._report.crash(held, "Its worker died, and ECS knows no task of it (any more).")

    async def _still(self, run: FlowRun, claim: Claimed) -> bool:
        """Whether the run is as it was when it was listed, an instant ago: not ended, given back, or taken."""
        if claim.worker is None or run.id in self._ledger:
            return False
        now = await self._api.read_run(run.id)
        return now is not None and now.state_id == run.state_id and run.id not in self._ledger

    async def _take(self, held: Held, task: TaskFacts) -> None:
        if held.run.run_id in self._ledger:
            return
        held.adopted = True
        self._ledger.take(held)
        self._launch.settle(held, task)
        self._ledger.counts["adopted"] += 1
        self._feed.tell(held.run, f"ECS task {task.task_id} is watched by worker {self._settings.name} from now on.")
        if not held.identifier_written:
            await self._launch.write_identifier(held)
        await self._launch.write_labels(held)
