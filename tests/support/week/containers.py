"""What the flows of the week do in their containers. They call the server directly: workers are under test here."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from support.simulator.flow_container import FlowEnd
from support.simulator.tasks import FlowScript, Scripts, TaskScript, fails_to_start
from support.week.prefect import Deleted, NotNow

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from support.simulator.fleet import Task
    from support.week.book import Book, Fate
    from support.week.prefect import Answer, WeekApi

T = TypeVar("T")

PATIENCE = 1800.0  # seconds that a container tries to reach the server
_STARTED_BY = "prefect/"


class Containers:
    """Plays the flows."""

    def __init__(self, api: WeekApi, book: Book, chance: random.Random) -> None:
        self._api = api
        self._book = book
        self._chance = chance

    async def play(self, task: Task, on_running: Callable[[], None]) -> FlowEnd:
        """The flow of that task, as its run's plan says."""
        fate = self._book.fates.get(task.flow_run_id)
        if fate is None:
            return FlowEnd.DONE  # its run was judged long ago
        try:
            return await self._play(task, fate, on_running)
        except Deleted:
            return FlowEnd.DONE
        except NotNow:
            fate.causes.add("its container could not reach the server")
            return FlowEnd.UNREACHABLE

    async def _play(self, task: Task, fate: Fate, on_running: Callable[[], None]) -> FlowEnd:
        run, plan = fate.run_id, fate.plan
        if await self._ask(lambda: self._api.state_of(run)) == "CANCELLING":
            await self._tell(fate, "CANCELLED")
            return FlowEnd.DONE
        answer = await self._tell(fate, "RUNNING")
        if answer.status == "WAIT":
            await asyncio.sleep(answer.delay)
            answer = await self._tell(fate, "RUNNING")
        if answer.status != "ACCEPT":
            return FlowEnd.DONE
        on_running()
        self._book.ran(task)
        if await self._cancelled(fate, plan.seconds):
            await self._tell(fate, "CANCELLED")
            return FlowEnd.DONE
        return await self._end(fate)

    async def _end(self, fate: Fate) -> FlowEnd:
        match fate.plan.kind:
            case "dies":
                fate.causes.add("its flow dies without a word")
                return FlowEnd.UNTOLD
            case "fails":
                await self._tell(fate, "FAILED")
            case "suspends" if not fate.resumed:
                await self._tell(fate, "PAUSED", "Suspended")
            case "retries":
                await self._tell(fate, "FAILED")
                cancelled = await self._cancelled(fate, fate.plan.then)
                if not cancelled and (await self._tell(fate, "RUNNING")).status == "ACCEPT":
                    cancelled = await self._cancelled(fate, 30.0)
                await self._tell(fate, "CANCELLED" if cancelled else "COMPLETED")
            case _:
                await self._tell(fate, "COMPLETED")
        return FlowEnd.DONE

    async def _cancelled(self, fate: Fate, seconds: float) -> bool:
        """Work for so long; whether the run was cancelled meanwhile, and its flow heeds that."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if await self._api.changed(fate.run_id, left) and fate.plan.heeds and fate.deleted is None:
                await asyncio.sleep(self._chance.uniform(1, 10))
                if await self._ask(lambda: self._api.state_of(fate.run_id)) == "CANCELLING":
                    return True
        return False

    async def _tell(self, fate: Fate, kind: str, name: str | None = None) -> Answer:
        state = {"type": kind, "name": name or kind.title()}
        answer = await self._ask(lambda: self._api.propose(fate.run_id, state))
        if answer.status == "ACCEPT":
            fate.told = kind
        return answer

    async def _ask(self, question: Callable[[], T]) -> T:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._api.reachable()
                return question()
            except NotNow:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(self._chance.uniform(1, 10))


class PlannedScripts(Scripts):
    """Each task does what its run's plan says. `on_launch` is told of each launch before it happens."""

    def __init__(self, book: Book, chance: random.Random, on_launch: Callable[[Fate], None]) -> None:
        super().__init__(TaskScript())
        self._book = book
        self._chance = chance
        self._on_launch = on_launch

    def choose(self, text: str) -> TaskScript:
        """By the run that the request's `startedBy` names."""
        run_id = text.partition(_STARTED_BY)[2][:36]
        usual = TaskScript(
            missing=self._chance.choice([0.0, 0.0, self._chance.uniform(0, 15)]),
            provisioning=self._chance.uniform(0.5, 20),
            pending=self._chance.uniform(0.5, 20),
            activating=self._chance.uniform(0.5, 20),
            stopping=self._chance.uniform(0, 30),
            exit_code=1,
            flow=FlowScript(),
        )
        fate = self._book.fates.get(run_id)
        if fate is None:
            self._book.complain(f"a task was launched for a run that was judged already: {run_id}")
            return TaskScript()
        fate.starts += 1
        self._on_launch(fate)
        if fate.plan.kind == "never-starts":
            fate.causes.add("its image does not exist")
            return fails_to_start("image_not_found", missing=usual.missing, provisioning=usual.provisioning)
        if fate.plan.kind == "starts-late" and fate.starts == 1:
            return fails_to_start("image_timeout", missing=usual.missing, provisioning=usual.provisioning)
        return usual
