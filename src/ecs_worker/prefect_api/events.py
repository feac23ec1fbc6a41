"""Cancellations as they happen, by the server's event stream. Polling stays the truth: this only makes it sooner."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import aiohttp
from aiohttp import WSCloseCode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from typing import Any

    from ecs_worker.prefect_api.client import PrefectClient

logger = logging.getLogger(__name__)

_SUBPROTOCOL = "prefect"  # the subprotocol with authentication by the first message
_ANSWER_SECONDS = 10.0  # for the handshake and the authentication
_PING_SECONDS = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
# 2.20 answers 403 or 500, a server without events 404: none of them changes while the worker runs. Servers in
# trouble answer 502 or 503, or nothing.
_UNSUPPORTED = frozenset({401, 403, 404, 405, 500, 501})
# The server sends live events only inside the filter's time range, whose default end is now. The start leaves room
# for clocks that differ.
_PAST, _FUTURE = timedelta(days=1), timedelta(days=3650)


class _Unsupported(Exception):
    """The server has no event stream for us."""


async def cancelling_runs(api: PrefectClient, pool_id: UUID) -> AsyncGenerator[UUID]:
    """The id of each run of the pool that becomes Cancelling, while the worker runs.

    Connections that break are made again, after pauses of up to 30 s; what happens meanwhile is left to polling,
    as the server stores events seconds after it sends them and would not tell all of them again. It ends by
    itself, with one log line, when the server has no event stream (2.20) or refuses the credentials.
    Iterate inside `contextlib.aclosing`, so that the connection is closed with the loop.
    """
    proven = False
    failures = 0
    async with aiohttp.ClientSession(headers=api.transport.headers, trust_env=True) as session:
        while True:
            began = time.monotonic()
            try:
                async with await _connect(session, api, proven=proven) as socket:
                    proven = True
                    await socket.send_json({"type": "filter", "filter": _cancelling(pool_id), "backfill": False})
                    async for message in socket:
                        if message.type is aiohttp.WSMsgType.TEXT and (run_id := _run_id(message.data)) is not None:
                            yield run_id
                    _ensure_welcome(socket)
            except _Unsupported as unsupported:
                logger.info("No cancel events: %s. Cancellations are found by polling.", unsupported)
                return
            except (aiohttp.ClientError, OSError, ValueError) as error:
                logger.debug("The event stream broke: %s", type(error).__name__)
            failures = 0 if time.monotonic() - began > _LONGEST_PAUSE else min(failures + 1, 10)
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**failures)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not cryptography


async def _connect(
    session: aiohttp.ClientSession, api: PrefectClient, *, proven: bool
) -> aiohttp.ClientWebSocketResponse:
    """An authenticated connection. `proven`: there was one before, so that an error status must be temporary."""
    url = "ws" + api.transport.base_url.removeprefix("http") + "/events/out"
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            socket = await session.ws_connect(
                url, protocols=(_SUBPROTOCOL,), heartbeat=_PING_SECONDS, ssl=api.transport.ssl or True
            )
    except aiohttp.WSServerHandshakeError as error:
        if error.status in _UNSUPPORTED and not proven:
            raise _Unsupported(f"the server answered {error.status}") from None
        raise
    try:
        await _authenticate(socket, api.transport.token)
    except BaseException:
        await socket.close()
        raise
    return socket


async def _authenticate(socket: aiohttp.ClientWebSocketResponse, token: str | None) -> None:
    await socket.send_json({"type": "auth", "token": token})
    answer = await socket.receive(_ANSWER_SECONDS)
    _ensure_welcome(socket)
    if answer.type is not aiohttp.WSMsgType.TEXT:
        raise aiohttp.ClientConnectionError("closed before it authenticated")
    if json.loads(answer.data).get("type") != "auth_success":
        raise _Unsupported("the server refused the credentials")


def _ensure_welcome(socket: aiohttp.ClientWebSocketResponse) -> None:
    """A refusal by close code will be the same next time."""
    if socket.close_code in {WSCloseCode.POLICY_VIOLATION, WSCloseCode.PROTOCOL_ERROR}:
        raise _Unsupported(f"the server closed the connection with code {socket.close_code}")


def _cancelling(pool_id: UUID) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "event": {"name": ["prefect.flow-run.Cancelling"]},
        "any_resource": {"id": [f"prefect.work-pool.{pool_id}"]},
        "occurred": {"since": (now - _PAST).isoformat(), "until": (now + _FUTURE).isoformat()},
    }


def _run_id(text: str) -> UUID | None:
    """The run that an event message is about; None for messages of other kinds."""
    message: Mapping[str, Any] = json.loads(text)
    resource = message.get("event", {}).get("resource", {}).get("prefect.resource.id", "")
    kind, _, run_id = resource.rpartition(".")
    return UUID(run_id) if kind == "prefect.flow-run" else None
