"""An HTTP server that answers what it is told and remembers what it was asked: faults no real server shows at will."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping


@dataclass(frozen=True)
class Answer:
    """One answer. `disconnect`: the connection is closed instead, after the request has been read."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    content: bytes | None = None
    disconnect: bool = False


@dataclass(frozen=True)
class Request:
    """One request as it came, and when (the event loop's clock)."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    time: float


class ScriptedServer:
    """Gives the answers in turn, and the last one for ever."""

    def __init__(self, *answers: Answer, scheme: str = "http") -> None:
        self.answers = list(answers)
        self.scheme = scheme
        self.requests: list[Request] = []
        self.address = ""

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}/api"

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        now = asyncio.get_running_loop().time()
        self.requests.append(Request(request.method, request.path_qs, dict(request.headers), body, now))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.disconnect:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if answer.content is not None:
            return web.Response(status=answer.status, body=answer.content, headers=answer.headers)
        if answer.text is not None:
            return web.Response(status=answer.status, text=answer.text, headers=answer.headers)
        return web.json_response(answer.body, status=answer.status, headers=answer.headers)


@asynccontextmanager
async def scripted(*answers: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    """Run a scripted server on 127.0.0.1, over HTTPS if `tls` is given."""
    server = ScriptedServer(*answers, scheme="https" if tls else "http")
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.address = f"{host}:{port}"
        yield server
    finally:
        await runner.cleanup()
