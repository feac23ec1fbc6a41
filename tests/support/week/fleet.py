"""The workers of the week: real ones, in one process, started, stopped politely, and killed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from ecs_worker.errors import UserError
from ecs_worker.settings import PrefectSettings, WorkerSettings
from ecs_worker.worker import LAST_WORDS, Worker
from support.week.prefect import POOL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import TaskGroup

    from support.week.book import Book
    from support.week.prefect import WeekApi

LIMIT = 3
"""Of the worker that serves the queue `limited` alone, and so adopts what its dead forerunner left."""
QUEUES = ("fast", "batch", "limited")
POSTS: dict[str, dict[str, Any]] = {
    "one": {"work_queues": ("fast",)},
    "two": {"work_queues": ("fast",), "limit": 40},
    "three": {"work_queues": ("fast", "batch")},
    "four": {"work_queues": ("batch",)},
    "five": {"work_queues": ("limited",), "limit": LIMIT},
}
"""What each of the five workers serves."""
POLITE = 25.0  # seconds that a worker may take to stop (its `stop_seconds`)
STARTS_AGAIN = 10.0  # seconds after which ECS starts a worker that ended


@dataclass(eq=False)
class Member:
    """One worker process, so to say."""

    post: str
    name: str
    worker: Worker
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    done: anyio.Event = field(default_factory=anyio.Event)
    since: float = field(default_factory=time.time)
    hung: bool = False


class Fleet:
    """Keeps every post manned. `deaths`: when workers died or left.

    `new_name`: the worker with a limit may come back under another name.
    """

    def __init__(
        self, api: WeekApi, book: Book, pace: Mapping[str, Any], group: TaskGroup, *, new_name: bool = True
    ) -> None:
        self._api = api
        self._book = book
        self._pace = pace
        self._group = group
        self._serial = 0
        self._closing = False
        self._new_name = new_name
        self._redeploying = anyio.Lock()
        self.members: dict[str, Member] = {}
        self.deaths: list[float] = []
        self.redeploys = 0

    def start(self, post: str, name: str | None = None) -> Member:
        """Start a worker there, of a new name if none is given."""
        self._serial += 1
        name = name or f"{post}-{self._serial}"
        settings = WorkerSettings(pool=POOL, name=name, stop_seconds=POLITE, **POSTS[post], **self._pace)
        member = Member(post, name, Worker(settings, PrefectSettings(api_url=self._api.url)))
        self.members[post] = member
        self._group.start_soon(self._host, member)
        return member

    async def _host(self, member: Member) -> None:
        """Run it to its end; one that ends by itself is started again, as ECS does."""
        again = False
        with member.scope:
            try:
                await member.worker.run()
            except Exception as error:  # noqa: BLE001 - whatever ends a worker is what this is about
                again = True
                parts = member.worker.parts
                if _only_user_errors(error) and not (parts is not None and parts.pulse.ages()):
                    self._book.note("a worker could not start", member.name)
                else:
                    self._book.complain(f"worker {member.name} ended by itself: {error!r}")
        self.deaths.append(time.time())
        member.done.set()
        if again and not self._closing:
            await anyio.sleep(STARTS_AGAIN)
            if self.members[member.post] is member:
                self.start(member.post, member.name)

    async def redeploy(self, between: float) -> None:
        """Every worker is replaced: the new one comes first, except where only one may be at work."""
        async with self._redeploying:  # two at the same time would leave two workers at one post
            for post, serves in POSTS.items():
                old = self.members[post]
                if serves["work_queues"] == ("limited",):
                    await self._stop(old)
                    self.start(post, self._next_name(old, same=self._serial % 2 == 0))
                else:
                    self.start(post)
                    await anyio.sleep(between)
                    await self._stop(old)
                self.redeploys += 1
                await anyio.sleep(between)

    def _next_name(self, old: Member, *, same: bool) -> str | None:
        stays = same or (old.post == "five" and not self._new_name)
        return old.name if stays else None

    async def kill(self, post: str, away: float, *, same_name: bool) -> None:
        """It dies where it stands; some time later another takes its post."""
        member = self.members[post]
        member.scope.cancel()
        await member.done.wait()
        await anyio.sleep(away)
        if self.members[post] is member and not self._closing:
            self.start(post, self._next_name(member, same=same_name))

    async def close(self) -> None:
        """All stop politely."""
        self._closing = True
        async with anyio.create_task_group() as stops:
            for member in self.members.values():
                stops.start_soon(self._stop, member)

    def check(self) -> None:
        """Whether every worker's /health says that it is well."""
        for member in self.members.values():
            parts = member.worker.parts
            if parts is None or member.done.is_set() or member.hung:
                continue
            if hanging := parts.pulse.hanging():
                member.hung = True
                self._book.complain(f"/health of {member.name} says 503: {', '.join(hanging)} hang")

    async def _stop(self, member: Member) -> None:
        asked = time.time()
        member.worker.stopping.set()
        with anyio.move_on_after(POLITE + LAST_WORDS + 3):
            await member.done.wait()
            return
        self._book.complain(f"{member.name} had not stopped {time.time() - asked:.0f} s after it was asked to")
        member.scope.cancel()
        await member.done.wait()


def _only_user_errors(error: BaseException) -> bool:
    """Whether this is how a worker says that it can't begin now."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_only_user_errors, error.exceptions))
    return isinstance(error, UserError) and not isinstance(error, asyncio.CancelledError)
