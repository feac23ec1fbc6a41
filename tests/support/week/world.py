"""The week itself: the servers, the fleet, and what its script has happen to them."""

from __future__ import annotations

import gc
import heapq
import itertools
import logging
import os
import random
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import anyio

from support.builders import quick_template
from support.servers.canned import FINAL, serve
from support.simulator import AwsSimulator, What, fault
from support.simulator.faults import Call
from support.virtual import VirtualTime
from support.week.book import Book, Fate, Listening
from support.week.containers import Containers, PlannedScripts
from support.week.fleet import POSTS, QUEUES, Fleet
from support.week.judge import SLOTS, Judge
from support.week.prefect import Deleted, NotNow, Weather, WeekApi
from support.week.script import DAY, HOUR, draw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from anyio.abc import TaskGroup

    from support.week.script import Plan, Script, Trouble

OWN, OTHER = "111111111111", "222222222222"
EAST, WEST = "us-east-1", "us-west-2"
KEY, SECRET = "AKIAOWN", "an-example"
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
LOOK = 60.0  # seconds between two looks of the judge
AHEAD = 900.0  # seconds before its due time that a run is made
CALM = 6 * HOUR  # after the last of the script, for all to come to its end
BLOCKS = {"own-west": (OWN, WEST), "other-east": (OTHER, EAST), "other-west": (OTHER, WEST)}
PACE: dict[str, Any] = {
    "heartbeat_seconds": 120,
    "query_seconds": 90,
    "adopt_seconds": 150,
    "cancel_seconds": 150,
    "watch_seconds": 20,
}
"""Settings of the workers. At the default intervals, asking would cost most of the time."""


class Week:
    """`play()` it, and read the book."""

    def __init__(self, script: Script, book: Book) -> None:
        self.book = book
        self._script = script
        # One source of chance each, so that more of the one doesn't change the other.
        self._chance = random.Random(script.seed + 1)  # noqa: S311 - a script of events, not a secret
        self._start = book.start
        self.api = WeekApi(quick_template(), QUEUES, random.Random(script.seed + 2))  # noqa: S311 - likewise
        self.aws = AwsSimulator(seed=script.seed, limits="aws-fargate")
        self._keys = dict.fromkeys(BLOCKS, "")
        self._serial = itertools.count(1)
        self._agenda: list[tuple[float, int, Callable[[], Awaitable[None]]]] = []
        self._deployments: dict[str, str] = {}
        self.judge: Judge
        self.fleet: Fleet
        self._group: TaskGroup

    async def play(self) -> Self:
        """From the first hour to the last, and the calm after it."""
        async with serve(self.api), self.aws, anyio.create_task_group() as group:
            with _variables(self._variables()):
                self._set_up(group)
                group.start_soon(self._look_for_ever)
                await self._follow()
                await self._calm_down()
                await self.fleet.close()
                self.judge.keep_little()
                self.judge.budgets()
                self.judge.flat()
                self.judge.empty()
                group.cancel_scope.cancel()
        return self

    # -- what there is

    def _variables(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.aws.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": EAST,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _set_up(self, group: TaskGroup) -> None:
        self._group = group
        self.aws.accounts[KEY] = OWN
        new_name = "new-name" not in self._script.without
        self.fleet = Fleet(self.api, self.book, PACE, group, new_name=new_name)
        self.judge = Judge(self.api, self.aws, self.fleet, self.book)
        containers = Containers(self.api, self.book, self._chance)
        scripts = PlannedScripts(self.book, self._chance, self.judge.at_launch)
        for account, region in ((OWN, EAST), (OWN, WEST), (OTHER, EAST), (OTHER, WEST)):
            ecs = self.aws.site(region, account).ecs
            ecs.scripts, ecs.fleet.player = scripts, containers.play
            ecs.create_cluster("crowded")
        for block in BLOCKS:
            self._renew_block(block)
        self._deploy()
        for post in POSTS:
            self.fleet.start(post)
        self._plan()

    def _renew_block(self, block: str) -> str:
        """New credentials for the block; the old ones."""
        old, new = self._keys[block], f"AKIA{next(self._serial):08}"
        account, region = BLOCKS[block]
        self.aws.accounts[new] = account
        credentials = {"aws_access_key_id": new, "aws_secret_access_key": SECRET, "region_name": region}
        self.api.blocks[_block_id(block)] = credentials
        self._keys[block] = new
        return old

    def _deploy(self) -> None:
        def of(block: str) -> dict[str, Any]:
            return {"aws_credentials": {"$ref": {"block_document_id": _block_id(block)}}}

        network = {"network_configuration": {"subnets": ["subnet-0a"]}}
        spot = [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
        for name, queue, more in (
            ("fast-east", "fast", {}),
            ("fast-west", "fast", of("own-west") | network),
            ("batch-east", "batch", of("other-east") | network),
            ("batch-west", "batch", of("other-west") | network),
            ("spot", "batch", of("other-east") | network | {"capacity_provider_strategy": spot, "spot_fallback": True}),
            ("slots", "fast", {"limit": SLOTS}),
            ("limited", "limited", network),
            ("crowded", "batch", network | {"cluster": "crowded"}),
        ):
            self._deployments[name] = self.api.deploy(name, queue, **more)

    # -- the script

    def _plan(self) -> None:
        guests = {name for _, _, name in self._script.guests}
        for plan in [plan for plan in self._script.plans if plan.deployment not in guests]:
            self._at(plan.at - AHEAD, lambda plan=plan: self._schedule(plan))  # type: ignore[misc]
        for made, deleted, name in self._script.guests:
            self._at(made, lambda name=name: self._make_guest(name))  # type: ignore[misc]
            self._at(deleted, lambda name=name: self._delete_guest(name))  # type: ignore[misc]
        for trouble in self._script.troubles:
            self._at(trouble.at, lambda trouble=trouble: self._begin(trouble))  # type: ignore[misc]
        for day in range(1, int(self._script.days) + 1):
            self._at(day * DAY, self._end_day)

    def _at(self, seconds: float, what: Callable[[], Awaitable[None]]) -> None:
        heapq.heappush(self._agenda, (self._start + max(seconds, 0), next(self._serial), what))

    def _in(self, seconds: float, what: Callable[[], Awaitable[None]]) -> None:
        self._at(time.time() - self._start + seconds, what)

    async def _follow(self) -> None:
        while self._agenda:
            when, _, what = self._agenda[0]
            if when > time.time():
                await anyio.sleep(min(when - time.time(), LOOK))
                continue
            heapq.heappop(self._agenda)
            await what()

    async def _calm_down(self) -> None:
        self.api.weather.clear()
        self.aws.director.clear()
        deadline = time.monotonic() + CALM
        while self.book.fates and time.monotonic() < deadline:  # noqa: ASYNC110 - the judge empties it, minute by minute
            await anyio.sleep(LOOK)

    async def _look_for_ever(self) -> None:
        while True:
            await anyio.sleep(LOOK)
            self.api.mark_late()
            self.judge.look()

    async def _end_day(self) -> None:
        gc.collect()
        self.judge.keep_little()
        self.book.note("a day has ended", f"{self.judge.memory[-1] / 1e6:.0f} MB")

    # -- runs

    async def _schedule(self, plan: Plan) -> None:
        deployment = self._deployments.get(plan.deployment)
        if deployment is None:
            return  # deleted by now, or not made yet
        retries = 1 if plan.kind == "retries" else 0
        due = max(self._start + plan.at, time.time())
        run_id = self.api.schedule(deployment, plan.name, due, retries=retries)
        fate = self.book.fates[run_id] = Fate(run_id, plan, due)
        if plan.kind == "cancelled":
            self._at(plan.at + plan.then, lambda: self._cancel(fate))
        elif plan.kind == "deleted":
            self._at(plan.at + plan.then, lambda: self._delete(fate))
        elif plan.kind == "suspends":
            self._in(LOOK, lambda: self._resume(fate))

    async def _cancel(self, fate: Fate) -> None:
        try:
            self.api.reachable()
            if self.api.state_of(fate.run_id) in FINAL:
                return
            fate.cancelled = time.time()
            self.api.propose(fate.run_id, {"type": "CANCELLING", "name": "Cancelling"})
        except NotNow:
            self._in(30, lambda: self._cancel(fate))
        except Deleted:
            return

    async def _delete(self, fate: Fate) -> None:
        try:
            self.api.reachable()
        except NotNow:
            self._in(30, lambda: self._delete(fate))
            return
        if fate.run_id in self.api.runs:
            fate.deleted = time.time()
            self.api.delete(fate.run_id)

    async def _resume(self, fate: Fate) -> None:
        """Once its flow has suspended itself, and the time has come."""
        run = self.api.runs.get(fate.run_id)
        if run is None or run["state_type"] in FINAL:
            return
        if run["state_type"] != "PAUSED" or time.time() < self._start + fate.plan.at + fate.plan.then:
            self._in(LOOK, lambda: self._resume(fate))
            return
        fate.resumed, fate.since = True, time.time()
        fate.ran.clear()
        self.api.propose(fate.run_id, {"type": "SCHEDULED", "name": "Resuming"})

    async def _make_guest(self, name: str) -> None:
        self._deployments[name] = self.api.deploy(name, "fast")
        # Their runs are made at once: some of them are due after the deployment's end.
        for plan in self._script.plans:
            if plan.deployment == name:
                await self._schedule(plan)

    async def _delete_guest(self, name: str) -> None:
        deployment = self._deployments.pop(name)
        for run_id in self.api.delete_deployment(deployment):
            self.book.fates[run_id].deleted = time.time()
        for fate in self.book.fates.values():
            if fate.plan.deployment == name and fate.deleted is None:
                fate.causes.add("its deployment was deleted")
        self.book.note("deployment deleted", name)

    # -- troubles

    async def _begin(self, trouble: Trouble) -> None:
        self.book.note(trouble.kind, f"{trouble.seconds:.0f} s {trouble.number:.2f}")
        self._group.start_soon(self._troubles()[trouble.kind], trouble)

    def _troubles(self) -> dict[str, Callable[[Trouble], Coroutine[Any, Any, None]]]:
        return {
            "api-away": self._api_away,
            "api-slow": lambda trouble: self._weather(trouble, Weather("slow", 0.5, seconds=40)),
            "api-broken": lambda trouble: self._weather(trouble, Weather("broken", 0.3)),
            "api-limit": lambda trouble: self._weather(trouble, Weather("limit", most=int(120 + 130 * trouble.number))),
            "region-away": self._region_away,
            "aws-rough": self._aws_rough,
            "rotation": self._rotate,
            "full-cluster": self._fill_cluster,
            "spot": self._take_spot,
            "hosts-lost": self._lose_host,
            "clean-up": self._clean_up,
            "worker-killed": self._kill_worker,
            "redeploy": lambda trouble: self.fleet.redeploy(trouble.seconds),
        }

    async def _weather(self, trouble: Trouble, weather: Weather) -> None:
        self.api.weather.append(weather)
        await anyio.sleep(trouble.seconds)
        if weather in self.api.weather:
            self.api.weather.remove(weather)

    async def _api_away(self, trouble: Trouble) -> None:
        await self._weather(trouble, Weather("away" if trouble.number < 0.6 else "gateway"))

    async def _region_away(self, trouble: Trouble) -> None:
        account, region = _chosen([(OWN, EAST), (OWN, WEST), (OTHER, EAST), (OTHER, WEST)], trouble.number)
        what = _chosen([What.SERVER_ERROR, What.LOST_BEFORE, What.HANG_BEFORE, What.HANG_AFTER], trouble.number * 7 % 1)
        rule = fault(what, place=f"{account}/{region}", end=trouble.seconds)
        self.aws.fault(rule)
        await anyio.sleep(trouble.seconds)
        self.aws.director.remove(rule)

    async def _aws_rough(self, trouble: Trouble) -> None:
        kinds = (What.THROTTLE, What.SERVER_ERROR, What.LOST_AFTER, What.TRUNCATED, What.SERVER_ERROR_AFTER)
        rule = fault(*kinds, probability=0.15, end=trouble.seconds)
        self.aws.fault(rule)
        await anyio.sleep(trouble.seconds)
        self.aws.director.remove(rule)

    async def _rotate(self, trouble: Trouble) -> None:
        old = self._renew_block(_chosen(list(BLOCKS), trouble.number))
        await anyio.sleep(trouble.seconds)
        self.aws.expired.add(old)

    async def _fill_cluster(self, trouble: Trouble) -> None:
        cluster = self.aws.site(EAST, OWN).ecs.clusters["crowded"]
        cluster.most_tasks = 0 if trouble.number < 0.5 else 1
        end = time.time() + trouble.seconds
        while time.time() < end:
            await anyio.sleep(min(LOOK, max(end - time.time(), 0.0)))
            for fate in self.book.fates.values():
                if fate.plan.deployment == "crowded" and fate.since <= time.time():
                    fate.causes.add("its cluster was full")
        cluster.most_tasks = None

    async def _take_spot(self, trouble: Trouble) -> None:
        self._harm(trouble, "SpotInterruption", "Your Spot Task was interrupted.", 143, spot=True)

    async def _lose_host(self, trouble: Trouble) -> None:
        self._harm(trouble, "TerminationNotice", "Host EC2 (instance i-0lost) terminated.", None, spot=False)

    def _harm(self, trouble: Trouble, code: str, reason: str, exit_code: int | None, *, spot: bool) -> None:
        """Some tasks of one place end where they stand."""
        site = _chosen(self.aws.sites, trouble.number)
        for number, task in enumerate([task for task in site.ecs.fleet.tasks.values() if not task.stopping]):
            on_spot = task.document.get("capacityProviderName") == "FARGATE_SPOT"
            if on_spot != spot or number % 2 or (fate := self.book.fates.get(task.flow_run_id)) is None:
                continue
            fate.causes.add(reason)
            site.ecs.fleet.stop(task, code, reason, exit_code)

    async def _clean_up(self, trouble: Trouble) -> None:
        """Somebody's script tidies the account: all but the newest revisions, or all, and deletes some for good."""
        nobody = Call(0, "", 1, "clean-up", "", 0.0)
        for site in self.aws.sites:
            definitions = site.ecs.definitions
            newest = {family.last for family in definitions.families.values()} if trouble.number < 0.3 else set()
            doomed = [known for known in definitions.all() if known.active and known.document["revision"] not in newest]
            for definition in doomed:
                definitions.actions["DeregisterTaskDefinition"]({"taskDefinition": definition.arn}, nobody)
                if trouble.number > 0.6:
                    definitions.actions["DeleteTaskDefinitions"]({"taskDefinitions": [definition.arn]}, nobody)

    async def _kill_worker(self, trouble: Trouble) -> None:
        post = _chosen(list(POSTS), trouble.number)
        await self.fleet.kill(post, trouble.seconds, same_name=trouble.number * 10 % 1 < 0.5)


def play(seed: int, days: float, *, without: frozenset[str] = frozenset()) -> Week:
    """A week, or some days of one, and what the book says of it."""
    root, level = logging.getLogger("ecs_worker"), logging.getLogger("ecs_worker").level
    random.seed(seed)  # the workers' jitter
    with VirtualTime(MONDAY) as virtual:
        script, book = draw(seed, days, without=without), Book(time.time())
        listening = Listening(book)
        root.addHandler(listening)
        root.propagate = False  # pytest would keep every line of the week in memory
        root.setLevel(logging.INFO)
        try:
            return virtual.run(_played(script, book))
        finally:
            root.removeHandler(listening)
            root.propagate = True
            root.setLevel(level)


async def _played(script: Script, book: Book) -> Week:
    return await Week(script, book).play()


def _block_id(name: str) -> str:
    return f"00000000-0000-4000-8000-{list(BLOCKS).index(name):012}"


def _chosen(of: list[Any], number: float) -> Any:
    return of[int(number * len(of)) % len(of)]


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """The environment of the workers, and nothing else of AWS's or theirs."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("AWS_", "ECS_WORKER_"))]:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
