"""Cancellations as they happen, by the server's event stream.

If the process dies here, nothing is lost: polling finds every cancellation, and this only finds it sooner.
"""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from ecs_worker.prefect_api.sockets import connections

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from typing import Any

    from ecs_worker.prefect_api.client import PrefectClient

PATH = "/events/out"
# 2.20 answers 403 or 500, a server without events 404.
_REFUSALS = frozenset({401, 403, 404, 405, 500, 501})
# The server sends live events only inside the filter's time range, whose default end is now. The start leaves room
# for clocks that differ.
_PAST, _FUTURE = timedelta(days=1), timedelta(days=3650)


async def cancelling_runs(api: PrefectClient, pool_id: UUID) -> AsyncGenerator[UUID]:
    """The id of each run of the pool that becomes Cancelling, while the worker runs.

    Connections that break are made again; what happens meanwhile is left to polling, as the server stores events
    seconds after it sends them and would not tell all of them again. It ends by itself, with one log line, when the
    server has no event stream (2.20) or refuses the credentials.
    Iterate inside `contextlib.aclosing`, so that the connection is closed with the loop.
    """
    otherwise = "Cancellations are found by polling."
    async with aclosing(connections(api, PATH, otherwise=otherwise, refusals=_REFUSALS)) as sockets:
        async for socket in sockets:
            await socket.send({"type": "filter", "filter": _cancelling(pool_id), "backfill": False})
            while (message := await socket.receive()) is not None:
                if (run_id := _run_id(message)) is not None:
                    yield run_id


def _cancelling(pool_id: UUID) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "event": {"name": ["prefect.flow-run.Cancelling"]},
        "any_resource": {"id": [f"prefect.work-pool.{pool_id}"]},
        "occurred": {"since": (now - _PAST).isoformat(), "until": (now + _FUTURE).isoformat()},
    }


def _run_id(message: Mapping[str, Any]) -> UUID | None:
    """The run that an event message is about; None for messages of other kinds, and for made-up events."""
    try:
        kind, _, run_id = message["event"]["resource"]["prefect.resource.id"].rpartition(".")
        return UUID(run_id) if kind == "prefect.flow-run" else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
