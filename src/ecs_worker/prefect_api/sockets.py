"""WebSockets to the Prefect API: authenticated, and connected again when they break."""

from __future__ import annotations

import json
import logging
import random
import time
from typing import TYPE_CHECKING

import aiohttp
import anyio
from aiohttp import WSCloseCode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from typing import Any

    from ecs_worker.prefect_api.client import PrefectClient

logger = logging.getLogger(__name__)

_SUBPROTOCOL = "prefect"  # the subprotocol with authentication by the first message
_ANSWER_SECONDS = 10.0  # for the handshake, and again for the authentication
_PING_SECONDS = 10.0  # so that a lost peer is noticed within 15 s, before three missed heartbeats
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
# With these the server will refuse every time. Servers in trouble answer other codes, or nothing.
_REFUSALS = frozenset({401, 403, 404, 405, 501})
_REFUSING_CODES = frozenset({WSCloseCode.POLICY_VIOLATION, WSCloseCode.PROTOCOL_ERROR})


class _Refused(Exception):
    """The server has no such WebSocket for us, now or later."""


class Socket:
    """One authenticated connection."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._connection = connection

    async def send(self, frame: Mapping[str, Any]) -> bool:
        """Send a JSON object. False: the connection is gone. True does not mean that the object has arrived."""
        try:
            await self._connection.send_json(frame)
        except (aiohttp.ClientError, OSError):
            return False
        return True

    async def receive(self) -> Mapping[str, Any] | None:
        """The next JSON object, or None once the connection has ended. Anything else that comes ends it."""
        while (message := await self._connection.receive()).type is aiohttp.WSMsgType.TEXT:
            try:
                frame = json.loads(message.data)
            except ValueError:
                break
            if isinstance(frame, dict):
                return frame
        await self._connection.close()
        return None

    def ensure_welcome(self) -> None:
        """Raise _Refused if the connection ended with a close code that the next connection would get, too."""
        code = self._connection.close_code
        if code in _REFUSING_CODES:
            raise _Refused(f"the server closed the connection with code {code}")


async def connections(
    api: PrefectClient, path: str, *, otherwise: str, refusals: frozenset[int] = _REFUSALS
) -> AsyncGenerator[Socket]:
    """Connect to a path of the API, again and again. Each connection is yielded, and closed afterwards.

    Between two connections are pauses of 1 to 30 s. The generator ends if the server has no such WebSocket (it answers
    the first attempt with one of `refusals`) or refuses the credentials. It then logs one line, which ends with
    `otherwise`: what is done instead. Iterate inside `contextlib.aclosing`.
    """
    proven = False  # there was a connection before, so an error status must be temporary
    failures = 0
    async with aiohttp.ClientSession(headers=api.transport.headers, trust_env=True) as session:
        while True:
            began = time.monotonic()
            try:
                async with await _connect(session, api, path, frozenset() if proven else refusals) as connection:
                    proven = True
                    socket = Socket(connection)
                    yield socket
                    socket.ensure_welcome()
            except _Refused as refused:
                logger.info("No %s: %s. %s", path, refused, otherwise)
                return
            except (aiohttp.ClientError, OSError) as error:
                logger.debug("%s broke: %s", path, type(error).__name__)
            failures = 0 if time.monotonic() - began > _LONGEST_PAUSE else min(failures + 1, 10)
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**failures)
            await anyio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not cryptography


async def obstacle(api: PrefectClient, path: str) -> str:
    """Why there can't be a WebSocket to that path of the API now, in words; empty: one was opened, and closed again."""
    try:
        async with (
            aiohttp.ClientSession(headers=api.transport.headers, trust_env=True) as session,
            await _connect(session, api, path, _REFUSALS),
        ):
            return ""
    except _Refused as refused:
        return str(refused)
    except aiohttp.WSServerHandshakeError as error:
        return f"the server answered {error.status}"
    except (aiohttp.ClientError, OSError) as error:
        return f"no connection ({type(error).__name__})"


async def _connect(
    session: aiohttp.ClientSession, api: PrefectClient, path: str, refusals: frozenset[int]
) -> aiohttp.ClientWebSocketResponse:
    url = "ws" + api.transport.base_url.removeprefix("http") + path
    try:
        with anyio.fail_after(_ANSWER_SECONDS):
            connection = await session.ws_connect(
                url,
                protocols=(_SUBPROTOCOL,),
                heartbeat=_PING_SECONDS,
                ssl=api.transport.ssl or True,
                max_msg_size=0,  # the length of a pool's template is not limited
            )
    except aiohttp.WSServerHandshakeError as error:
        if error.status in refusals:
            raise _Refused(f"the server answered {error.status}") from None
        raise
    try:
        with anyio.fail_after(_ANSWER_SECONDS):
            await _authenticate(Socket(connection), api.transport.token)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _authenticate(socket: Socket, token: str | None) -> None:
    await socket.send({"type": "auth", "token": token})
    answer = await socket.receive()
    socket.ensure_welcome()
    if answer is None:
        raise aiohttp.ClientConnectionError("closed before it authenticated")
    if answer.get("type") != "auth_success":
        raise _Refused("the server refused the credentials")
