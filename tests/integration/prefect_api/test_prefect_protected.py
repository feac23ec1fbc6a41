"""Servers with authentication and CSRF protection on, and the event stream."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import aclosing, closing
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from ecs_worker.errors import PrefectUnauthorized
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.prefect_api.event_stream import cancelling_runs
from ecs_worker.settings import PrefectSettings
from support.servers.prefect import Admin, PrefectServer, prefect_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("protected")]  # one process, as the servers are its own

AUTH = "worker:s3cret"


@pytest.fixture(scope="module")
def protected3(session_directory: Path) -> Iterator[PrefectServer]:
    with prefect_server("3", session_directory, auth_string=AUTH, csrf=True) as server:
        yield server


@pytest.fixture(scope="module")
def protected2(session_directory: Path) -> Iterator[PrefectServer]:
    with prefect_server("2", session_directory, csrf=True) as server:
        yield server


@pytest.fixture(params=["protected3", "protected2"])
def protected(request: pytest.FixtureRequest) -> PrefectServer:
    server: PrefectServer = request.getfixturevalue(request.param)
    return server


def client(server: PrefectServer, auth_string: str | None = None) -> PrefectClient:
    return PrefectClient(PrefectSettings(api_url=server.url, api_auth_string=auth_string or server.auth_string))


# -- CSRF


async def test_concurrent_writes_share_one_csrf_token(protected: PrefectServer) -> None:
    async with client(protected) as api:
        pools = await asyncio.gather(*(api.create_pool(f"pool-{uuid4().hex[:8]}", {}) for _ in range(8)))
    assert len({pool.id for pool in pools}) == 8
    with closing(sqlite3.connect(protected.home / "prefect.db")) as database:
        (tokens,) = database.execute("SELECT count(*) FROM csrf_token").fetchone()
    assert tokens == 1


async def test_a_csrf_token_that_the_server_forgot_is_renewed(protected: PrefectServer) -> None:
    async with client(protected) as api:
        pool = await api.create_pool(f"pool-{uuid4().hex[:8]}", {})
        with closing(sqlite3.connect(protected.home / "prefect.db", timeout=30)) as database, database:
            database.execute("DELETE FROM csrf_token")
        await asyncio.gather(*(api.heartbeat(pool.name, f"worker-{n}", 30) for n in range(5)))
        assert len(await api.workers(pool.name, "ONLINE")) == 5


async def test_csrf_support_can_be_turned_off(protected: PrefectServer) -> None:
    settings = PrefectSettings(
        api_url=protected.url, api_auth_string=protected.auth_string, client_csrf_support_enabled=False
    )
    async with PrefectClient(settings) as api:
        with pytest.raises(PrefectUnauthorized, match="403: Missing CSRF token"):
            await api.create_pool("never", {})


# -- authentication


async def test_the_right_auth_string_is_let_in(protected3: PrefectServer) -> None:
    async with client(protected3) as api:
        assert (await api.server_version() or "").startswith("3.")


@pytest.mark.parametrize("wrong", ["worker:wr0ng", "wr0ng"])
async def test_a_wrong_auth_string_is_refused_and_not_told(protected3: PrefectServer, wrong: str) -> None:
    async with client(protected3, wrong) as api:
        assert await api.health()
        with pytest.raises(PrefectUnauthorized, match="GET /admin/version answered 401") as caught:
            await api.server_version()
        with pytest.raises(PrefectUnauthorized):
            await api.create_pool("never", {})
    assert "wr0ng" not in str(caught.value)


# -- the event stream


async def pending(admin: Admin, pool: str) -> UUID:
    run_id = await admin.create_run(await admin.create_deployment(pool))
    await admin.set_state(run_id, "PENDING")
    return UUID(run_id)


async def heard(stream: AsyncIterator[UUID], admin: Admin, pool: str, other_pool: str) -> None:
    """Cancel runs of both pools until the stream tells one of `pool`: when it connects can't be seen from outside."""
    cancelled: set[UUID] = set()
    elsewhere: set[UUID] = set()

    async def cancel() -> None:
        while True:
            elsewhere.add(other := await pending(admin, other_pool))
            await admin.cancel(other)
            cancelled.add(run_id := await pending(admin, pool))
            await admin.cancel(run_id)

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        canceller = tasks.create_task(cancel())
        async for run_id in stream:  # first, perhaps, what was cancelled before a restart
            assert run_id not in elsewhere
            if run_id in cancelled:
                break
        else:
            pytest.fail("the stream ended")
        canceller.cancel()


async def test_cancelled_runs_are_heard_of_across_a_restart(protected3: PrefectServer) -> None:
    async with Admin(protected3) as admin, client(protected3) as api:
        name, other = await admin.create_pool(), await admin.create_pool()
        pool = await api.read_pool(name)
        assert pool is not None
        async with aclosing(cancelling_runs(api, pool.id)) as stream:
            await heard(stream, admin, name, other)
            protected3.stop()
            protected3.start()
            await heard(stream, admin, name, other)


async def test_the_stream_ends_where_there_is_none_or_it_is_refused(
    prefect2: PrefectServer, protected3: PrefectServer
) -> None:
    async with asyncio.timeout(30):
        async with client(prefect2) as api, aclosing(cancelling_runs(api, uuid4())) as stream:
            assert [run_id async for run_id in stream] == []
        async with client(protected3, "worker:wr0ng") as api, aclosing(cancelling_runs(api, uuid4())) as stream:
            assert [run_id async for run_id in stream] == []
