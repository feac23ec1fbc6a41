"""An HTTP and WebSocket reverse proxy in front of a real Prefect server, with faults on request.

Actions are templated: `POST /flow_runs/{id}/set_state PENDING`, `POST /work_pools/{name}/get_scheduled_flow_runs`,
`WS /events/out`. As a command: `python -m support.simulator proxy --upstream http://127.0.0.1:4200 --port 4201`.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Self

from aiohttp import ClientConnectionError, ClientSession, TCPConnector, WSMsgType, WSServerHandshakeError, web

from support.simulator.aws import Truncated
from support.simulator.control import PREFIX, Control
from support.simulator.faults import Call, ConnectionDropped, Director, Fault, Injected, Pause, Point, What

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from aiohttp import ClientWebSocketResponse

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# The segment after one of these is a name, unless it is one of the API's own words.
_NAMED = {"work_pools": "{name}", "workers": "{worker}", "queues": "{queue}", "slug": "{slug}", "name": "{name}"}
_WORDS = {"filter", "paginate", "count", "heartbeat", "connect", ""}
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "content-length",
}
_WEBSOCKET = re.compile(r"sec-websocket-.*", re.IGNORECASE)
_LARGEST = 64 * 2**20


def template(path: str) -> str:
    """The path with its names and ids left out, so that calls of one kind have one name."""
    parts = path.split("/")
    result: list[str] = []
    for position, part in enumerate(parts):
        before = parts[position - 1] if position else ""
        if before in _NAMED and part not in _WORDS:
            result.append(_NAMED[before])
        else:
            result.append(_UUID.sub("{id}", part))
    return "/".join(result)


class ChaosProxy:
    """Use it as `async with ChaosProxy("http://127.0.0.1:4200") as proxy:` and give workers `proxy.api_url`.

    Only what passes through it is recorded and goes wrong: containers can be given the server's own address. `heard`
    is given each call's action and body, which the records don't keep.
    """

    def __init__(
        self,
        upstream: str,
        *,
        port: int = 0,
        seed: int = 0,
        api_path: str = "/api",
        heard: Callable[[str, str], None] | None = None,
    ) -> None:
        self._heard = heard
        self.director = Director(seed)
        self._upstream = upstream.rstrip("/")
        self._api_path = api_path
        self._port = port
        self._client: ClientSession | None = None
        self._sockets: set[web.WebSocketResponse] = set()
        self._control = Control(self.director, {"POST disconnect": lambda _rest, _body: self._disconnect_soon()})
        app = web.Application(client_max_size=_LARGEST)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=False)
        self._closing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._client = ClientSession(connector=TCPConnector(limit=0), auto_decompress=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.director.close()
        await self.disconnect()
        await self._runner.cleanup()
        if self._client is not None:
            await self._client.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def api_url(self) -> str:
        return self.url + self._api_path

    @property
    def calls(self) -> list[Call]:
        return self.director.calls

    def fault(self, *rules: Fault) -> None:
        self.director.add(*rules)

    def pause_at(self, point: Point, *, freeze: bool = False) -> Pause:
        return self.director.pause_at(point, freeze=freeze)

    async def disconnect(self) -> None:
        """Closes every WebSocket that is open now."""
        for socket in tuple(self._sockets):
            await socket.close(code=1011)

    def _disconnect_soon(self) -> None:
        closing = asyncio.get_running_loop().create_task(self.disconnect())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    # -- a request --------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith(PREFIX):
            return await self._control.handle(request)
        body = await request.read()
        socket = request.headers.get("Upgrade", "").lower() == "websocket"
        path = request.path.removeprefix(self._api_path) or "/"
        action = f"{'WS' if socket else request.method} {template(path)}{_detail(path, body)}"
        if operation := request.headers.get("X-Amz-Target", "").rpartition(".")[2]:  # AWS's JSON protocol
            action += f" {operation}"
        text = body.decode(errors="replace")
        if self._heard is not None:
            self._heard(action, text)
        run = _UUID.search(path)
        call = self.director.receive(
            action,
            caller=request.headers.get("User-Agent", ""),
            subject=run[0] if run else "",
            text=text,
        )
        try:
            await self.director.before(call)
            if socket:
                return await self._pass_socket(request, call)
            return await self._pass_on(request, body, call)
        except ConnectionDropped:
            self.director.done(call, "dropped")
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        except Injected as injected:
            response = _injected(injected)
            self.director.done(call, str(response.status))
            return response

    async def _pass_on(self, request: web.Request, body: bytes, call: Call) -> web.StreamResponse:
        try:
            async with self._session.request(
                request.method,
                self._upstream + request.path_qs,
                data=body,
                headers=_passed_on(request.headers),
                allow_redirects=False,
            ) as answer:
                content = await answer.read()
                headers = _passed_on(answer.headers)
                response = web.Response(body=content, status=answer.status, headers=headers)
        except ClientConnectionError:
            self.director.done(call, "502")
            return web.Response(status=502, text="The server behind the proxy can't be reached.")
        try:
            await self.director.after(call)
        except Injected as injected:
            if injected.what is not What.TRUNCATED:
                raise
            response = Truncated(response)
        self.director.done(call, str(response.status))
        return response

    # -- WebSockets -------------------------------------------------------------------

    async def _pass_socket(self, request: web.Request, call: Call) -> web.StreamResponse:
        protocols = [p.strip() for p in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if p.strip()]
        headers = {k: v for k, v in _passed_on(request.headers).items() if not _WEBSOCKET.fullmatch(k)}
        try:
            upstream = await self._session.ws_connect(
                self._upstream.replace("http", "ws", 1) + request.path_qs,
                protocols=protocols,
                headers=headers,
                max_msg_size=_LARGEST,
            )
        except (WSServerHandshakeError, ClientConnectionError) as error:
            status = error.status if isinstance(error, WSServerHandshakeError) else 502
            self.director.done(call, str(status))
            return web.Response(status=status)
        async with upstream:
            await self.director.after(call)
            client = web.WebSocketResponse(
                protocols=[upstream.protocol] if upstream.protocol else [], max_msg_size=_LARGEST
            )
            try:
                await client.prepare(request)
            except ConnectionResetError:  # who asked has died meanwhile
                raise ConnectionDropped from None
            self._sockets.add(client)
            self.director.done(call, "101")
            try:
                await self._relay(client, upstream, call)
            finally:
                self._sockets.discard(client)
        return client

    async def _relay(self, client: web.WebSocketResponse, upstream: ClientWebSocketResponse, call: Call) -> None:
        """Until one side closes, or a fault does."""
        ways = [
            asyncio.ensure_future(_copy(client, upstream)),
            asyncio.ensure_future(_copy(upstream, client)),
        ]
        seconds = None
        if call.what is What.DISCONNECT and call.fault is not None:
            seconds = call.fault.delay or 0.0
        await asyncio.wait(ways, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        await client.close(code=upstream.close_code or 1011)

    @property
    def _session(self) -> ClientSession:
        if self._client is None:
            raise RuntimeError("the proxy is not open: use `async with`")
        return self._client


async def _copy(
    source: web.WebSocketResponse | ClientWebSocketResponse, sink: web.WebSocketResponse | ClientWebSocketResponse
) -> None:
    async for message in source:
        if message.type is WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await sink.send_bytes(message.data)


def _detail(path: str, body: bytes) -> str:
    """Which state is proposed: a claim and a crash are not the same call."""
    if not path.endswith("/set_state"):
        return ""
    try:
        return f" {json.loads(body)['state']['type']}"
    except (ValueError, KeyError, TypeError):
        return ""


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}


def _injected(injected: Injected) -> web.Response:
    rule = injected.rule
    status = 429 if injected.what is What.THROTTLE else 503
    headers = {} if rule.retry_after is None else {"Retry-After": f"{rule.retry_after:g}"}
    text = rule.message or "The server can't answer now."
    if rule.code:  # an error of AWS's query protocol
        error = f"<ErrorResponse><Error><Code>{rule.code}</Code><Message>{text}</Message></Error></ErrorResponse>"
        return web.Response(text=error, content_type="text/xml", status=rule.status or status)
    return web.json_response({"exception_message": text}, status=rule.status or status, headers=headers)


async def serve(proxy: ChaosProxy) -> None:
    """Runs until cancelled."""
    async with proxy:
        print(json.dumps({"url": proxy.url, "api_url": proxy.api_url}), flush=True)  # noqa: T201 - tells the port
        await asyncio.Event().wait()
