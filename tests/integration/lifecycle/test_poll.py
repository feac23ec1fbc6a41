"""What a poll takes, when the server's answer holds runs that this worker has already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ecs_worker.lifecycle.poll import Poll
from ecs_worker.lifecycle.run.ledger import Ledger
from ecs_worker.model import Phase
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings, WorkerSettings
from support.builders import claimed_run, run_in
from support.servers.canned import CannedApi, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ecs_worker.prefect_api.schemas import FlowRun

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
