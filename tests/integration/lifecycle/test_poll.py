"""What a poll takes, when the server's answer holds runs that this worker has already, and when queues are missing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from ecs_worker.errors import PrefectNotFound
from ecs_worker.lifecycle.poll import Poll
from ecs_worker.lifecycle.run.ledger import Ledger
from ecs_worker.model import Phase
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings, WorkerSettings
from support.builders import HandClock, claimed_run, run_in
from support.servers.canned import CannedApi, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ecs_worker.prefect_api.schemas import FlowRun
    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio


class Bench:
    """A poll whose runs go no further than `sent`."""

    def __init__(self, canned: CannedApi, api: PrefectClient) -> None:
        self.canned = canned
        self.ledger = Ledger(limit=3, max_launching=10)
        self.sent: list[str] = []
        self.poll = Poll(api, self.ledger, WorkerSettings(pool="pool", name="worker"), self._send)

    def _send(self, run: FlowRun, _: float) -> None:
        self.sent.append(str(run.id))
        self.hold(str(run.id), Phase.CLAIMED)

    def hold(self, run_id: str, phase: Phase = Phase.RUNNING) -> None:
        self.ledger.take(run_in(phase, claim=claimed_run(run_id)))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with (
        serve(CannedApi("pool", {})) as canned,
        PrefectClient(PrefectSettings(api_url=canned.url)) as api,
    ):
        yield Bench(canned, api)


async def test_held_runs_that_were_set_back_to_scheduled_take_no_others_slot(bench: Bench) -> None:
    set_back = [bench.canned.add_run() for _ in range(2)]
    for run in set_back:
        bench.hold(run)
    waiting = [bench.canned.add_run() for _ in range(2)]
    assert await bench.poll.look()  # there may be more
    await bench.poll.look()
    assert bench.sent == waiting[:1]  # as many as there are slots


async def test_held_runs_alone_are_no_reason_to_poll_on(bench: Bench) -> None:
    for _ in range(2):
        bench.hold(bench.canned.add_run())
    assert await bench.poll.look()
    assert not await bench.poll.look()


async def test_what_no_longer_stands_in_the_way_lets_the_poll_see_that_more_wait(bench: Bench) -> None:
    set_back = [bench.canned.add_run() for _ in range(2)]
    for run in set_back:
        bench.hold(run)
    await bench.poll.look()
    await bench.poll.look()
    for run in set_back:
        bench.canned.runs[run]["state_type"] = "RUNNING"
    waiting = [bench.canned.add_run() for _ in range(2)]
    assert await bench.poll.look()
    assert bench.sent == waiting[:1]


# -- queues, on real servers


class Queued:
    """A pool with the queue `day`, and a poll of it for some queues."""

    def __init__(self, admin: Admin, api: PrefectClient, pool: str, *queues: str) -> None:
        self.admin = admin
        self.api = api
        self.pool = pool
        self.clock = HandClock()
        self.sent: list[str] = []
        settings = WorkerSettings(pool=pool, name="worker", work_queues=queues)
        ledger = Ledger(limit=None, max_launching=50, clock=self.clock)
        self.poll = Poll(api, ledger, settings, lambda run, _: self.sent.append(str(run.id)))

    async def add_queue(self, name: str) -> None:
        await self.admin.post(f"/work_pools/{self.pool}/queues", {"name": name})

    async def remove_queue(self, name: str) -> None:
        await self.admin.call("DELETE", f"/work_pools/{self.pool}/queues/{name}")

    async def run_of(self, queue: str) -> str:
        return await self.admin.create_run(await self.admin.create_deployment(self.pool, work_queue_name=queue))

    async def look(self) -> list[str]:
        """What the next poll takes, an interval later."""
        self.clock.advance(10.0)
        self.sent.clear()
        await self.poll.look()
        return sorted(self.sent)


@pytest.fixture
async def pool(admin: Admin) -> str:
    return await admin.create_pool()


async def test_a_missing_queue_is_left_out_named_and_taken_in_when_it_appears(
    admin: Admin, api: PrefectClient, pool: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ecs_worker.lifecycle.poll")
    queued = Queued(admin, api, pool, "day", "nihgt", "late")
    await queued.add_queue("day")
    of_day = await queued.run_of("day")
    for _ in range(3):
        assert await queued.look() == [of_day]
    (named,) = caplog.messages
    assert f"The work pool {pool} has no work queue nihgt and no late: create it, or correct its name" in named

    await queued.add_queue("late")
    of_late = await queued.run_of("late")
    assert await queued.look() == sorted([of_day, of_late])
    assert caplog.messages[1:] == [f"The work pool {pool} has the work queue late now."]

    await queued.remove_queue("day")
    assert await queued.look() == [of_late]
    assert "has no work queue day:" in caplog.messages[-1]
    assert len(caplog.messages) == 3


async def test_a_worker_none_of_whose_queues_is_there_says_so(admin: Admin, api: PrefectClient, pool: str) -> None:
    queued = Queued(admin, api, pool, "nihgt", "dya")
    for _ in range(2):
        with pytest.raises(PrefectNotFound, match=f"^The work pool {pool} has no work queue nihgt or dya$"):
            await queued.look()
    await queued.add_queue("dya")
    run = await queued.run_of("dya")
    assert await queued.look() == [run]


@pytest.mark.parametrize("queues", [(), ("day",)], ids=["all queues", "one queue"])
async def test_a_missing_pool_is_told_as_such(admin: Admin, api: PrefectClient, queues: tuple[str, ...]) -> None:
    with pytest.raises(PrefectNotFound, match=r"^The work pool no-such-pool does not exist$"):
        await Queued(admin, api, "no-such-pool", *queues).look()


async def test_nothing_more_is_asked_while_all_queues_are_there(bench: Bench) -> None:
    """The canned API has every queue."""
    async with PrefectClient(PrefectSettings(api_url=bench.canned.url)) as api:
        settings = WorkerSettings(pool="pool", name="worker", work_queues=("day", "night"))
        poll = Poll(api, bench.ledger, settings, lambda _run, _at: None)
        for _ in range(3):
            await poll.look()
    polls = "POST /work_pools/{name}/get_scheduled_flow_runs"
    assert [name for _, name in bench.canned.calls if name != "GET /csrf-token"] == [polls] * 3
