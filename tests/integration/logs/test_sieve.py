"""What Prefect's logger in the container has sent to the server is not sent a second time."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from ecs_worker.aws.logs import LogEvent
from ecs_worker.lifecycle.journal.sieve import GIVE_UP, RECHECK, SENT_WITHIN, Sieve, Strainer
from ecs_worker.prefect_api.schemas import LogEntry
from support.builders import HandClock, claimed_run

if TYPE_CHECKING:
    from ecs_worker.prefect_api.client import PrefectClient
    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio

SOURCES = {"prefect.flow_runs": "Flow run 'fox'", "prefect.task_runs": "Task run 't-1'"}


class Container:
    """Writes to its console and, where its settings say so, to the server; `shown` is what the worker sends of it."""

    def __init__(self, api: PrefectClient, run_id: UUID, deployment: UUID, sieve: Sieve, *, sends: bool = True) -> None:
        self.shown: list[tuple[int, str]] = []
        self.strainer = Strainer(claimed_run(run_id, deployment_id=deployment), self._show)
        self._api = api
        self._sieve = sieve
        self._sends = sends
        self._now = datetime.now(UTC)
        self._lines: list[LogEvent] = []

    def _show(self, line: LogEvent, level: int) -> None:
        self.shown.append((level, line.message))

    async def log(self, message: str, level: int = logging.INFO, name: str = "prefect.flow_runs") -> None:
        """As Prefect's logger does. Loggers of other names are for the console only."""
        self._now += timedelta(milliseconds=1234.567)
        prefix = f"{self._now:%H:%M:%S}.{self._now.microsecond // 1000:03}"
        text = f"{prefix} | {logging.getLevelName(level):7} | {SOURCES.get(name, name)} - {message}"
        for line in text.splitlines():
            self._put(line)
        if self._sends and name in SOURCES:
            entry = LogEntry(self.strainer.run.run_id, level, message, self._now, name)
            assert await self._api.write_logs([entry]) == 0

    def print(self, text: str, *, later: float = 1.0) -> None:
        self._now += timedelta(seconds=later)
        self._put(text)

    def _put(self, line: str) -> None:
        self._lines.append(LogEvent(int(self._now.timestamp() * 1000) + 2, line))

    def read(self) -> None:
        """The worker reads what was written."""
        lines, self._lines = self._lines, []
        self._sieve.take(self.strainer, lines)

    def messages(self) -> list[tuple[int, str]]:
        """What was shown, without times."""
        return [(level, line.rpartition(" | ")[2]) for level, line in self.shown]


class Yard:
    """A worker's sieve, and containers of one deployment."""

    def __init__(self, admin: Admin, api: PrefectClient) -> None:
        self.api = api
        self.clock = HandClock()
        self.sieve = Sieve(api, self.clock)
        self.deployment = uuid4()
        self._admin = admin

    async def container(self, *, sends: bool = True) -> Container:
        run_id = UUID(
            await self._admin.create_run(await self._admin.create_deployment(await self._admin.create_pool()))
        )
        return Container(self.api, run_id, self.deployment, self.sieve, sends=sends)

    async def look(self, seconds: float = SENT_WITHIN) -> None:
        self.clock.advance(seconds)
        await self.sieve.look()


@pytest.fixture
def each_yard(admin: Admin, api: PrefectClient) -> Yard:
    """With each Prefect server in turn."""
    return Yard(admin, api)


@pytest.fixture
def yard(admin3: Admin, api3: PrefectClient) -> Yard:
    return Yard(admin3, api3)


async def test_lines_on_the_server_are_left_out_and_others_keep_their_level(each_yard: Yard) -> None:
    yard = each_yard
    container = await yard.container()
    await container.log("hello")
    await container.log("hello again", logging.WARNING, "prefect.task_runs")
    await container.log("careful", logging.WARNING, "mylib")
    container.print("plain")
    container.read()
    assert container.messages() == [(logging.INFO, "plain")]
    await yard.look()
    assert container.messages()[1:] == [(logging.WARNING, "mylib - careful")]
    assert len(yard.sieve) == 0


async def test_what_is_known_of_a_deployment_needs_no_look(yard: Yard) -> None:
    first, second = await yard.container(), await yard.container()
    for container in (first, second):
        await container.log("hello")
        await container.log("careful", logging.WARNING, "mylib")
        container.read()
        await yard.look()
    assert second.messages() == first.messages() == [(logging.WARNING, "mylib - careful")]
    await second.log("once more")
    await second.log("careful again", logging.WARNING, "mylib")
    second.read()
    assert len(yard.sieve) == 0
    assert second.messages()[1:] == [(logging.WARNING, "mylib - careful again")]


async def test_a_container_that_does_not_send_its_lines_is_shown_and_asked_about_again_later(yard: Yard) -> None:
    silent = await yard.container(sends=False)
    await silent.log("one", logging.ERROR)
    silent.read()
    await yard.look()
    await silent.log("two", logging.ERROR)
    silent.read()
    assert [level for level, _ in silent.shown] == [logging.ERROR, logging.ERROR]
    yard.clock.advance(RECHECK)
    talking = await yard.container()
    await talking.log("three", logging.ERROR)
    talking.read()
    await yard.look()
    assert talking.shown == []


async def test_messages_of_several_lines(yard: Yard) -> None:
    """What is printed right after a message is not of it."""
    container = await yard.container()
    for _ in range(2):  # not known, and known
        await container.log("oops\nTraceback (most recent call last):\n  File x\nValueError: boom", logging.ERROR)
        container.print("printed", later=0.01)
        container.print("  File x", later=0.01)
        container.print("and later")
        container.read()
        assert container.messages() == [(logging.INFO, "and later")]
        await yard.look()
        assert container.messages()[1:] == [(logging.INFO, "printed"), (logging.INFO, "  File x")]
        container.shown.clear()


async def test_lines_alike_are_each_looked_for(yard: Yard) -> None:
    container = await yard.container()
    await container.log("again")
    container._sends = False  # noqa: SLF001 - from now on the server doesn't take them
    await container.log("again")
    container.read()
    await yard.look()
    assert len(container.shown) == 1


async def test_the_last_lines_of_a_container_that_died_are_looked_for(yard: Yard) -> None:
    container = await yard.container()
    await container.log("first")
    container.read()
    await yard.look()
    await container.log("sent")
    container._sends = False  # noqa: SLF001 - it dies before the next batch
    await container.log("not sent")
    container.read()
    assert container.shown == []
    yard.sieve.doubt(container.strainer)
    await container.log("not sent either")
    container.read()
    await yard.look()
    assert [message.rpartition(" - ")[2] for _, message in container.shown] == ["not sent", "not sent either"]


async def test_many_lines_take_few_looks(yard: Yard) -> None:
    container = await yard.container()
    for number in range(250):
        await container.log(f"line {number}")
    container.read()
    assert len(yard.sieve) == 250
    await yard.look()
    assert (len(yard.sieve), container.shown) == (0, [])


async def test_what_can_not_be_looked_for_is_shown_in_the_end(yard: Yard) -> None:
    container = await yard.container()
    await container.log("hello", logging.WARNING)
    container.read()
    await yard.look(GIVE_UP)
    assert container.messages() == [(logging.WARNING, "Flow run 'fox' - hello")]
    assert len(yard.sieve) == 0
