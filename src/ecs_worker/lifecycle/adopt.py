"""Adopt: take up the runs that no live worker holds, after a restart or a colleague's death.

All it needs stands on the Prefect server and in ECS: the claim id, the claimant's name and its place in the run's
state, the task in `infrastructure_pid` or under the claim's `startedBy`. Two workers that adopt the same run do no
harm: they describe the same task, and a launch repeats the same clientToken.

- With a task identifier: the task is watched, where its ARN says it is.
- Without: the claim's task is looked up where the claimant was; found, it is watched and its name written; not found,
  it is launched there with the same claim id.

A worker takes up only runs of its own work queues, and only what it can ask ECS about.
"""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import astuple
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ecs_worker.errors import AwsError, DocumentUnread, JobInvalid, PrefectError, PrefectNotFound, UserError
from ecs_worker.lifecycle.claim import undo_if_ended
from ecs_worker.lifecycle.lanes import Lanes
from ecs_worker.lifecycle.loops import every, guarded
from ecs_worker.lifecycle.run import decide
from ecs_worker.lifecycle.run.claims import WAITING, claim_in, latest_claim, recorded_run
from ecs_worker.lifecycle.run.decide import Crash, Launch
from ecs_worker.lifecycle.sign import WORKER_LABEL
from ecs_worker.model import TaskFacts, TaskName
from ecs_worker.prefect_api.budget import Urgency, as_urgent
from ecs_worker.prefect_api.schemas import StateType

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from anyio.abc import TaskGroup

    from ecs_worker.lifecycle.colleagues import Colleagues
    from ecs_worker.lifecycle.locate import Locate
    from ecs_worker.lifecycle.run.claims import ClaimRecord
    from ecs_worker.lifecycle.run.ledger import Ledger
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.lifecycle.way import Way
    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import FlowRun
    from ecs_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

EVERYTHING_EVERY = 900.0  # seconds between two looks at all runs of the pool, while no worker goes
UNSETTLED = (StateType.PENDING, StateType.CANCELLING)
HELD_STATES = frozenset({*UNSETTLED, StateType.RUNNING})
AWAITING_RETRY = "AwaitingRetry"  # Prefect's name of the state of runs that wait in their container
TAKEN_AT_ONCE = 10  # runs of one place
LONGEST_LOOK = 3600.0  # seconds: ten thousand runs of a dead colleague, within the Prefect API's limits
READ_AT_ONCE = 200  # the server's page


def _place_of(orphan: FlowRun) -> tuple[str, ...]:
    """Where ECS is to be asked about it, as far as the run says that."""
    if (name := TaskName.read(orphan.infrastructure_pid)) is not None:
        return name.region, name.account, name.cluster
    claim = claim_in(orphan)
    return astuple(claim.place) if claim is not None and claim.place is not None else ()


class Outcome(Enum):
    """What a look made of an orphan."""

    DONE = "done"  # taken up, or nobody need look again
    THEIRS = "theirs"  # a live worker looks after it, or will
    EXPECTED = "expected"  # it will be this worker's, unless its own worker still shows up
    OPEN = "open"  # could not be settled now: the next look has to see it again, whatever it is


def ranking(run_id: UUID, workers: Collection[str]) -> list[str]:
    """Who is to take up a run, first choice first: rendezvous hashing, the same answer for all who ask."""
    return sorted(workers, key=lambda name: hashlib.sha256(f"{name} {run_id}".encode()).digest(), reverse=True)


def mine(
    run: FlowRun, claim: ClaimRecord | None, live: Collection[str], me: str, *, settle: float, waited: float = 0.0
) -> bool:
    """Whether the worker called `me` is to take up the run. `live` are the workers that beat, `me` among them.

    A live claimant looks after its own, and so does a live worker whose label the run bears: it launched it or took
    it up. (A label may also be left from an earlier attempt; then that worker takes the run up by the second rule.)
    A claim without a task is left alone for `settle` seconds: its worker may be about to launch. A worker that is not
    the first choice waits another `settle` for each one before it (`waited`: since it saw the orphan first), as those
    may serve other queues, or be out of reach of the task.
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
    return waited >= settle * ranking(run.id, live).index(me)


class Adopt:
    """Looks for orphans."""

    def __init__(
        self,
        api: PrefectClient,
        ledger: Ledger,
        locate: Locate,
        way: Way,
        settings: WorkerSettings,
        colleagues: Colleagues,
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._locate = locate
        self._way = way
        self._settings = settings
        self._colleagues = colleagues
        self._looked_at_all = -math.inf
        self._lanes = Lanes(TAKEN_AT_ONCE)
        self._open: set[UUID] = set()  # what the next look is to see again, whatever it lists
        self._kept: set[UUID] = set()  # what keeps a slot, with a limit: it may be this worker's, or isn't decided yet
        self._since: dict[UUID, float] = {}  # orphan → when it was seen first
        self._theirs: set[UUID] = set()  # claimed by a live colleague
        self._said: set[UUID] = set()

    async def run(self) -> None:
        """Look at the start and every `adopt_seconds`."""
        trouble = "Runs without a worker can't be looked for now"
        seconds = self._settings.adopt_seconds
        async with anyio.create_task_group() as lanes:
            look = partial(self.look, lanes)
            await every(seconds, look, trouble=trouble, at_once=True, hangs_after=LONGEST_LOOK)

    async def look(self, lanes: TaskGroup) -> None:
        """One look, which begins to take up what is found: each run in the lane of its place. Raises PrefectError.

        With `--limit`, whatever is not decided by its end has its slot kept.

        Pending and Cancelling runs are few and can't wait. All that run are listed only when a worker has gone (or
        at the start), since a pool may have thousands, and once in a while for safety.
        """
        with as_urgent(Urgency.ADOPT):  # whatever it takes, the runs of today come first
            await self._look(lanes)

    async def _look(self, lanes: TaskGroup) -> None:
        await self._colleagues.look()
        now = self._ledger.clock()
        doubt = self._settings.limit is not None and bool(self._colleagues.doubtful)
        everything = self._colleagues.gone or doubt or now - self._looked_at_all >= EVERYTHING_EVERY
        orphans = [run_id for run_id in await self._list(everything) if run_id not in self._ledger]
        self._since = {run_id: self._since.get(run_id, now) for run_id in orphans}
        self._theirs &= self._since.keys()
        self._said &= self._since.keys()
        self._open &= self._since.keys()
        self._kept &= self._since.keys()
        await self._consider_all(lanes, [run_id for run_id in orphans if run_id not in self._lanes])
        self._ledger.reserve(len(self._kept))
        if everything:
            self._looked_at_all = self._ledger.clock()

    async def _list(self, everything: bool) -> list[UUID]:
        pool, queues = self._settings.pool, self._settings.work_queues
        states = (*UNSETTLED, StateType.RUNNING) if everything else UNSETTLED
        found = await self._api.run_ids(pool=pool, states=states, queues=queues)
        if everything:
            found += await self._api.run_ids(
                pool=pool, states=(StateType.SCHEDULED,), queues=queues, named=AWAITING_RETRY
            )
        return list(dict.fromkeys([*found, *self._open]))

    async def _consider_all(self, lanes: TaskGroup, orphans: Sequence[UUID]) -> None:
        # A few at a time are read whole, as the lanes have room: a dead worker may have left ten thousand.
        for start in range(0, len(orphans), READ_AT_ONCE):
            some = orphans[start : start + READ_AT_ONCE]
            found = {run.id: run for run in await self._api.runs(pool=self._settings.pool, ids=some)}
            for gone in set(some) - found.keys():
                self._note(gone, Outcome.DONE)
            for run in found.values():
                place = _place_of(run)
                self._note(run.id, Outcome.EXPECTED)
                if await self._lanes.room(place):  # else its place is sick
                    self._lanes.begin(lanes, place, run.id, run.name, partial(self._settle, run))

    async def _settle(self, orphan: FlowRun) -> None:
        self._note(orphan.id, await self._consider(orphan))
        self._ledger.reserve(len(self._kept))

    def _note(self, run_id: UUID, outcome: Outcome) -> None:
        """Whether the next look is to see the run again, and whether it keeps a slot."""
        if outcome in {Outcome.OPEN, Outcome.EXPECTED}:
            self._open.add(run_id)
        else:
            self._open.discard(run_id)
        if outcome is Outcome.EXPECTED:
            self._kept.add(run_id)
        else:
            self._kept.discard(run_id)

    async def _consider(self, orphan: FlowRun) -> Outcome:
        """Take the run up if it is this worker's to take."""
        in_container = orphan.state_type is StateType.SCHEDULED and orphan.in_process
        if orphan.id in self._ledger or not (orphan.state_type in HELD_STATES or in_container):
            return Outcome.DONE
        outcome = Outcome.OPEN  # it stays so after a fault of ours, which `guarded` tells
        with guarded(orphan.name):
            try:
                outcome = await self._take_up(orphan)
            except (PrefectError, AwsError, DocumentUnread) as error:
                self._say_once(orphan, f"can't be adopted yet: {error}")
            except UserError as error:
                self._say_once(orphan, f"can't be watched from here: {error}")
                outcome = Outcome.DONE
        return outcome

    async def _take_up(self, orphan: FlowRun) -> Outcome:
        me, settle = self._settings.name, self._settings.settle_seconds
        live = self._colleagues.online
        if (outcome := self._known(orphan)) is not None:
            return outcome
        name = TaskName.read(orphan.infrastructure_pid)
        begun = orphan.state_type is not StateType.PENDING and name is not None
        # What runs and names its task needs no history: should it end badly, `report` asks before it judges.
        states = [] if begun else await self._api.state_history(orphan.id)
        claim = None if begun else latest_claim(states, datetime.now(UTC))
        waited = self._ledger.clock() - self._since.get(orphan.id, self._ledger.clock())
        if not mine(orphan, claim, live, me, settle=settle, waited=waited):
            return self._not_mine(orphan, claim)
        run = recorded_run(orphan, claim, self._ledger.clock, proven=not begun)
        pending = claim is not None and orphan.state_type is StateType.PENDING
        if pending and await undo_if_ended(self._api, run.claim, states):
            return Outcome.DONE  # the claimant died before it could do so
        if name is not None and await self._is_its_task(run, claim, name):
            return await self._watch(orphan, run, name, claim)
        if claim is not None:
            return await self._find_or_launch(orphan, run, claim)
        return Outcome.DONE

    def _known(self, orphan: FlowRun) -> Outcome | None:
        """What label, message or an earlier look say already: no need to read the run's history."""
        me, live = self._settings.name, self._colleagues.online
        if orphan.state_type is StateType.PENDING:
            claim = claim_in(orphan)
            if claim is not None and claim.worker in live:  # whoever the label of an earlier attempt names
                if claim.worker == me:
                    return None
                self._theirs.add(orphan.id)
                return self._expected_from(claim.worker)
            waits = orphan.state is not None and orphan.state.name == WAITING
            if waits and orphan.id in self._theirs:
                return Outcome.THEIRS
        holder = orphan.labels.get(WORKER_LABEL)
        if holder in live and holder != me:
            return self._expected_from(holder)
        return None

    def _expected_from(self, holder: str) -> Outcome:
        """A run that another worker holds may be this worker's, should that one turn out to be dead.

        Who else would take it up is not known: the others may serve other queues, or be out of reach of its task.
        """
        return (
            Outcome.EXPECTED
            if holder in self._colleagues.doubtful and self._settings.limit is not None
            else Outcome.THEIRS
        )

    def _not_mine(self, orphan: FlowRun, claim: ClaimRecord | None) -> Outcome:
        live, me = self._colleagues.online, self._settings.name
        if claim is None and not orphan.infrastructure_pid:
            return Outcome.THEIRS  # no worker of ours has claimed it
        if claim is not None and claim.worker in live and claim.worker != me:
            self._theirs.add(orphan.id)
            return Outcome.THEIRS
        return Outcome.EXPECTED  # the claim is too fresh to be taken up, or a colleague is to do so, if it can

    async def _is_its_task(self, run: Run, claim: ClaimRecord | None, name: TaskName) -> bool:
        """Whether this claim launched the task that the run names; the name may be an earlier attempt's."""
        if claim is None or claim.worker is None or claim.first:
            return True
        return await self._locate.is_of_claim(run.claim, name)

    async def _watch(self, orphan: FlowRun, run: Run, name: TaskName, claim: ClaimRecord | None) -> Outcome:
        placement = await self._locate.placement_of(run.claim, name)
        if not await self._locate.reaches(placement.target, name.account):
            self._say_once(orphan, f"can't be watched from here: its task is in account {name.account}.")
            return Outcome.DONE
        run.placed(placement)
        labelled = orphan.labels.get(WORKER_LABEL) == self._settings.name
        await self._way.adopt(
            run, TaskFacts(arn=name.arn), name, labelled=labelled, held_until=self._held_until(orphan, claim)
        )  # the next sweep describes it
        return Outcome.DONE

    async def _find_or_launch(self, orphan: FlowRun, run: Run, claim: ClaimRecord) -> Outcome:
        task, obstacle = None, ""
        try:
            run.placed(await self._locate.place(run))
            # A job with credentials of its own runs in their account, wherever its claimant is.
            own = run.target.credentials is None
            if own and claim.place is not None and not await self._locate.reaches(run.target, claim.place.account):
                self._say_once(orphan, f"was claimed in {claim.place}, which can't be reached from here.")
                return Outcome.DONE
            task = await self._locate.find(run)
        except (JobInvalid, PrefectNotFound, UserError) as error:
            obstacle = str(error)
        except AwsError as error:
            if not decide.lets_launch_tell(error, orphan.state_type):
                raise
        if task is not None:
            await self._way.adopt(run, task, held_until=self._held_until(orphan, claim))
        elif await self._is_unchanged(orphan, claim):
            match decide.of_orphan(orphan.state_type, obstacle):
                case Launch():
                    log.info("%s was claimed by %s and never launched: launching it.", run.label, claim.worker)
                    self._ledger.take(run)
                    self._way.send(run)
                case Crash(why):
                    run.abandoned(why)  # `report` ends it
                    self._ledger.take(run)
        return Outcome.DONE

    def _held_until(self, orphan: FlowRun, claim: ClaimRecord | None) -> datetime | None:
        """When the worker that held the run was last known to live."""
        return self._colleagues.lived_until(
            orphan.labels.get(WORKER_LABEL) or (claim.worker if claim is not None else None)
        )

    async def _is_unchanged(self, orphan: FlowRun, claim: ClaimRecord) -> bool:
        """Whether the run is as it was when it was listed, an instant ago: not ended, given back, or taken."""
        if claim.worker is None or orphan.id in self._ledger:
            return False
        now = await self._api.read_run(orphan.id)
        return now is not None and now.state_id == orphan.state_id and orphan.id not in self._ledger

    def _say_once(self, orphan: FlowRun, what: str) -> None:
        level = logging.DEBUG if orphan.id in self._said else logging.WARNING
        self._said.add(orphan.id)
        log.log(level, "%s %s", orphan.name, what)
