"""Whether the deployed worker serves its pool: that Prefect says so, and not only ECS."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from ecs_worker.deploy.stack import looks
from ecs_worker.errors import PrefectNotFound, PrefectUnavailable, PrefectUnreachable

if TYPE_CHECKING:
    from collections.abc import Collection

    from ecs_worker.prefect_api.client import PrefectClient
    from ecs_worker.prefect_api.schemas import Worker

ARRIVES = 180.0  # seconds from when ECS calls the service steady; a worker beats before it calls itself healthy


async def online(api: PrefectClient, pool: str) -> list[Worker]:
    """The pool's workers that live; none if there is no such pool (yet)."""
    try:
        return await api.workers(pool, "ONLINE")
    except PrefectNotFound:
        return []


async def arrives(api: PrefectClient, pool: str, before: Collection[str], *, seconds: float = ARRIVES) -> Worker | None:
    """The first live worker of the pool whose name is not among those of `before`; None if none comes in time.

    That Prefect doesn't answer meanwhile is no end.
    """
    pause = looks()
    with anyio.move_on_after(seconds):
        while True:
            with suppress(PrefectUnavailable, PrefectUnreachable):
                for worker in await online(api, pool):
                    if worker.name not in before:
                        return worker
            await pause()
    return None
