"""Whether the worker serves its pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ecs_worker.deploy.arrival import arrives, online

if TYPE_CHECKING:
    from ecs_worker.prefect_api.client import PrefectClient
    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio


async def test_a_worker_of_before_is_not_the_new_one(admin: Admin, api: PrefectClient) -> None:
    pool = await admin.create_pool()
    await api.heartbeat(pool, "old", 30)
    before = {worker.name for worker in await online(api, pool)}
    assert before == {"old"}
    assert await arrives(api, pool, before, seconds=0.5) is None
    await api.heartbeat(pool, "new", 30)
    found = await arrives(api, pool, before, seconds=10)
    assert found is not None
    assert found.name == "new"


async def test_a_pool_that_is_not_there_has_no_workers(api3: PrefectClient) -> None:
    assert await online(api3, "no-such-pool") == []
