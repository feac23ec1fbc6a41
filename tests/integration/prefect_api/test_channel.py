"""The worker channel against real Prefect servers, and where there is none."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from ecs_worker.prefect_api.channel import Channel
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings, WorkerSettings
from support.servers.prefect import Admin, PrefectServer, prefect_server
from support.servers.scripted import Answer, scripted
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from ecs_worker.prefect_api.channel import Teardown
    from ecs_worker.prefect_api.schemas import WorkPool

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("channel")]  # one process, as the servers are its own

TEMPLATE = {"job_configuration": {"image": "{{ image }}"}, "variables": {"properties": {"image": {"type": "string"}}}}
AUTH_STRING = "worker:s3cret"
LEASE_SECONDS = 2
QUICK = {
    # The server gives up on a cancellation, and takes orders back, in no time.
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS": "0.5",
    "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_LEASE_SECONDS": str(LEASE_SECONDS),
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "0.5",
}


@pytest.fixture(scope="module")
def server(session_directory: Path) -> Iterator[PrefectServer]:
    with prefect_server("3", session_directory, auth_string=AUTH_STRING, env=QUICK) as started:
        yield started


@pytest.fixture
async def admin(server: PrefectServer) -> AsyncIterator[Admin]:
    async with Admin(server) as administrator:
        yield administrator


class Ear:
    """A worker's channel and what came over it."""

    def __init__(self, api: PrefectClient, settings: WorkerSettings) -> None:
        self.pools: list[WorkPool] = []
        self.orders: asyncio.Queue[Teardown] = asyncio.Queue()
        self.channel = Channel(api, settings, self.pools.append)

    async def run(self) -> None:
        await self.channel.run(self.orders.put_nowait)

    async def ready(self) -> None:
        async def is_ready() -> bool:
            return self.channel.ready

        await until(is_ready, 60)

    async def next_order(self) -> Teardown:
        async with asyncio.timeout(30):
            return await self.orders.get()


@asynccontextmanager
async def listening(
    url: str, pool: str, *, auth_string: str | None = AUTH_STRING, **settings: Any
) -> AsyncIterator[tuple[Ear, asyncio.Task[None]]]:
    """The ear, and the task in which it listens."""
    prefect = PrefectSettings.model_validate({"api_url": url, "api_auth_string": auth_string})
    async with PrefectClient(prefect) as api, asyncio.TaskGroup() as tasks:
        ear = Ear(api, WorkerSettings(pool=pool, name=f"worker-{uuid4().hex[:8]}", **settings))
        task = tasks.create_task(ear.run())
        yield ear, task
        task.cancel()


async def timed_out(admin: Admin, pool: str, *, pid: str | None = None) -> str:
    """A run whose cancellation the server has given up waiting for."""
    run_id = await admin.create_run(await admin.create_deployment(pool))
    await admin.set_state(run_id, "PENDING")
    if pid is not None:
        await admin.call("PATCH", f"/flow_runs/{run_id}", json={"infrastructure_pid": pid})
    await admin.set_state(run_id, "RUNNING")
    await admin.cancel(run_id)
    await admin.wait_for_state(run_id, "CANCELLED")
    return run_id


# -- the pool and the heartbeat


async def test_the_pool_is_known_at_once_and_after_a_restart(admin: Admin, server: PrefectServer) -> None:
    pool = await admin.create_pool(f"pool é+?# {uuid4().hex[:8]}", base_job_template=TEMPLATE)

    async with listening(server.url, pool) as (ear, _):
        await ear.ready()
        assert (ear.pools[-1].name, ear.pools[-1].base_job_template) == (pool, TEMPLATE)

        changed = {**TEMPLATE, "job_configuration": {"image": "other"}}
        path = f"/work_pools/{pool.replace('?', '%3F').replace('#', '%23')}"
        await admin.call("PATCH", path, json={"base_job_template": changed})

        async def told() -> bool:
            return ear.pools[-1].base_job_template == changed

        await until(told)
        server.stop()

        async def broken() -> bool:
            return not ear.channel.ready

        await until(broken)
        assert not await ear.channel.beat()
        server.start()
        await ear.ready()
        assert ear.pools[-1].base_job_template == changed


async def test_beats_over_the_channel_count_as_heartbeats(admin: Admin, server: PrefectServer) -> None:
    pool = await admin.create_pool()

    async def seen() -> datetime:
        (worker,) = await admin.post(f"/work_pools/{pool}/workers/filter", {})
        assert worker["status"] == "ONLINE"
        assert worker["heartbeat_interval_seconds"] == 7
        return datetime.fromisoformat(worker["last_heartbeat_time"])

    async with listening(server.url, pool, heartbeat_seconds=7) as (ear, _):
        assert not await ear.channel.beat()
        await ear.ready()
        first = await seen()
        assert await ear.channel.beat()

        async def later() -> bool:
            return await seen() > first

        await until(later)


# -- clean-up messages


async def test_an_order_comes_until_it_is_acknowledged(admin: Admin, server: PrefectServer) -> None:
    pool = await admin.create_pool()
    run_id = await timed_out(admin, pool, pid="cluster::arn")  # nobody listens yet
    async with listening(server.url, pool, work_queues=("default",)) as (ear, _):
        order = await ear.next_order()
        assert (str(order.run_id), order.infrastructure_pid) == (run_id, "cluster::arn")
        assert order.lease_seconds == pytest.approx(LEASE_SECONDS, abs=0.5)
        assert order.reservation not in repr(order)

        await ear.channel.release(order, "just so")
        again = await ear.next_order()
        assert again.message_id == order.message_id
        assert again.reservation != order.reservation
        await ear.channel.acknowledge(again)

        # One that is neither acknowledged nor kept comes again after its lease. The first doesn't.
        other = await timed_out(admin, pool)
        unanswered = await ear.next_order()
        assert (str(unanswered.run_id), unanswered.infrastructure_pid) == (other, None)
        assert (await ear.next_order()).message_id == unanswered.message_id


async def test_an_order_that_is_kept_comes_no_second_time(admin: Admin, server: PrefectServer) -> None:
    pool = await admin.create_pool()
    async with listening(server.url, pool) as (ear, _), asyncio.TaskGroup() as tasks:
        await ear.ready()
        first = await timed_out(admin, pool)
        kept = await ear.next_order()
        assert str(kept.run_id) == first
        keeping = tasks.create_task(ear.channel.keep(kept))
        # Twice in a row another order outlives its lease meanwhile.
        second = await timed_out(admin, pool)
        for _ in range(3):
            assert str((await ear.next_order()).run_id) == second
        keeping.cancel()
        assert (await ear.next_order()).message_id == kept.message_id


# -- where there is none


@pytest.mark.parametrize("status", [403, 404])
async def test_servers_without_it_are_asked_once(status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ecs_worker")
    async with scripted(Answer(status)) as old, asyncio.timeout(10):
        async with listening(old.url, "pool") as (ear, task):
            await task
        assert not await ear.channel.beat()
    (request,) = old.requests
    assert request.path == "/api/work_pools/pool/workers/connect"
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert f"answered {status}" in record.getMessage()


async def test_prefect_2_has_none(prefect2: PrefectServer) -> None:
    async with asyncio.timeout(30), listening(prefect2.url, "pool", auth_string=None) as (_, task):
        await task


async def test_servers_in_trouble_are_asked_again() -> None:
    async with scripted(Answer(503), Answer(500)) as server, listening(server.url, "pool"):

        async def asked_again() -> bool:
            return len(server.requests) >= 3

        await until(asked_again)
    first, second, third = (request.time for request in server.requests[:3])
    assert second - first >= 1
    assert third - second >= 2


@pytest.mark.parametrize(
    ("auth_string", "exists"), [("worker:wr0ng", True), (AUTH_STRING, False)], ids=["credentials", "pool"]
)
async def test_a_refusal_is_final(
    admin: Admin, server: PrefectServer, auth_string: str, caplog: pytest.LogCaptureFixture, *, exists: bool
) -> None:
    caplog.set_level(logging.INFO, "ecs_worker")
    pool = await admin.create_pool() if exists else "no-such-pool"
    async with asyncio.timeout(30), listening(server.url, pool, auth_string=auth_string) as (ear, task):
        await task
        assert ear.pools == []
    assert "code 1008" in caplog.text
    assert "wr0ng" not in caplog.text


async def test_the_pools_deletion_ends_it(admin: Admin, server: PrefectServer) -> None:
    pool = await admin.create_pool()
    async with asyncio.timeout(30), listening(server.url, pool) as (ear, task):
        await ear.ready()
        await admin.call("DELETE", f"/work_pools/{pool}")
        await task
        assert not ear.channel.ready
