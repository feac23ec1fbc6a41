from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError, ClientSession, WSMsgType, WSServerHandshakeError, web

from support.simulator.chaos_proxy import ChaosProxy, template
from support.simulator.faults import Phase, Point, What, fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio
RUN = "00000000-0000-4000-8000-000000000001"
SET_STATE = f"/flow_runs/{RUN}/set_state"


@dataclass
class Upstream:
    """A small server that remembers what reached it."""

    url: str = ""
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.path_qs, await request.read()))
        self.headers.append(dict(request.headers))
        if request.path.endswith("/nothing"):
            return web.Response(status=204)
        return web.json_response({"path": request.path, "filler": "x" * 1000}, status=201, headers={"X-Own": "yes"})

    async def echo(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=["prefect"])
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(f"{socket.ws_protocol}:{message.data}")
        return socket


@asynccontextmanager
async def _upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    app = web.Application()
    app.router.add_get("/api/events/out", upstream.echo)
    app.router.add_route("*", "/{path:.*}", upstream.answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield upstream
    await runner.cleanup()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with _upstream() as server:
        yield server


@pytest.fixture
async def proxy(upstream: Upstream) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(upstream.url) as chaos:
        yield chaos


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession(headers={"User-Agent": "ecs-worker/1"}) as session:
        yield session


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/flow_runs/{RUN}", "/flow_runs/{id}"),
        ("/work_pools/my-pool/get_scheduled_flow_runs", "/work_pools/{name}/get_scheduled_flow_runs"),
        ("/work_pools/my-pool/workers/heartbeat", "/work_pools/{name}/workers/heartbeat"),
        ("/work_pools/filter/workers/filter", "/work_pools/filter/workers/filter"),
        ("/work_pools/my-pool/workers/old-one", "/work_pools/{name}/workers/{worker}"),
        ("/work_pools/my-pool/queues/fast", "/work_pools/{name}/queues/{queue}"),
        ("/work_pools/", "/work_pools/"),
        ("/variables/name/region", "/variables/name/{name}"),
        (
            "/block_types/slug/aws-credentials/block_documents/name/mine",
            "/block_types/slug/{slug}/block_documents/name/{name}",
        ),
    ],
)
def test_paths_are_templated(path: str, expected: str) -> None:
    assert template(path) == expected


async def test_everything_passes_unchanged(upstream: Upstream, proxy: ChaosProxy, http: ClientSession) -> None:
    headers = {"Authorization": "Basic x", "X-PREFECT-API-VERSION": "0.8.4"}
    body = {"state": {"type": "PENDING"}}
    async with http.post(f"{proxy.api_url}{SET_STATE}?a=b%20c", json=body, headers=headers) as answer:
        assert (answer.status, answer.headers["X-Own"]) == (201, "yes")
        assert (await answer.json())["path"] == f"/api{SET_STATE}"
    method, path, sent = upstream.seen[0]
    assert (method, path, json.loads(sent)) == ("POST", f"/api{SET_STATE}?a=b%20c", body)
    assert upstream.headers[0]["Authorization"] == "Basic x"
    assert upstream.headers[0]["User-Agent"] == "ecs-worker/1"
    async with http.get(f"{proxy.api_url}/nothing") as answer:
        assert (answer.status, await answer.read()) == (204, b"")
    first = proxy.calls[0]
    assert (first.action, first.subject) == ("POST /flow_runs/{id}/set_state PENDING", RUN)
    assert (first.caller, first.outcome, first.effect) == ("ecs-worker/1", "201", True)


@pytest.mark.parametrize(("what", "status"), [(What.SERVER_ERROR, 503), (What.THROTTLE, 429)])
async def test_answers_that_ask_for_patience(
    upstream: Upstream, proxy: ChaosProxy, http: ClientSession, what: What, status: int
) -> None:
    proxy.fault(fault(what, action="POST *set_state*", retry_after=3, times=2))
    for expected in (status, status, 201):
        async with http.post(proxy.api_url + SET_STATE, json={}) as answer:
            assert answer.status == expected
            assert answer.headers.get("Retry-After") == ("3" if expected == status else None)
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("what", "reached"), [(What.LOST_BEFORE, 0), (What.HANG_BEFORE, 0), (What.LOST_AFTER, 1), (What.HANG_AFTER, 1)]
)
async def test_connections_that_close(
    upstream: Upstream, proxy: ChaosProxy, http: ClientSession, what: What, reached: int
) -> None:
    proxy.fault(fault(what, delay=0.01))
    with pytest.raises(ClientConnectionError):
        await http.post(proxy.api_url + SET_STATE, json={})
    assert len(upstream.seen) == reached
    assert proxy.calls[0].outcome == "dropped"


async def test_errors_after_the_effect_and_half_answers(
    upstream: Upstream, proxy: ChaosProxy, http: ClientSession
) -> None:
    proxy.fault(fault(What.SERVER_ERROR_AFTER, nth=(1,), status=504), fault(What.TRUNCATED, nth=(2,)))
    async with http.post(proxy.api_url + SET_STATE, json={}) as answer:
        assert answer.status == 504
    async with http.post(proxy.api_url + SET_STATE, json={}) as answer:
        with pytest.raises(ClientPayloadError):
            await answer.read()
    assert len(upstream.seen) == 2


async def test_rules_can_be_for_one_caller(proxy: ChaosProxy, http: ClientSession) -> None:
    proxy.fault(fault(What.SERVER_ERROR, caller="ecs-worker/*"))
    for caller, status in (("ecs-worker/1", 503), ("simulated-container/1", 201)):
        async with http.get(f"{proxy.api_url}/x", headers={"User-Agent": caller}) as answer:
            assert answer.status == status


async def test_pauses(upstream: Upstream, proxy: ChaosProxy, http: ClientSession) -> None:
    action = "POST /flow_runs/{id}/set_state PENDING"
    body = {"state": {"type": "PENDING"}}
    before = proxy.pause_at(Point(action, Phase.BEFORE))
    asking = asyncio.ensure_future(http.post(proxy.api_url + SET_STATE, json=body))
    call = await before.wait(5)
    assert (call.subject, upstream.seen) == (RUN, [])
    after = proxy.pause_at(Point(action, Phase.AFTER))  # counts from now: this call is not the first it sees
    before.resume()
    (await asking).close()
    again = asyncio.ensure_future(http.post(proxy.api_url + SET_STATE, json=body))
    await after.wait(5)
    assert len(upstream.seen) == 2
    after.drop()
    with pytest.raises(ClientConnectionError):
        await again


async def test_a_dead_upstream_is_a_bad_gateway(http: ClientSession) -> None:
    async with _upstream() as gone:
        url = gone.url
    async with ChaosProxy(url) as proxy, http.get(f"{proxy.api_url}/x") as answer:
        assert answer.status == 502
        with pytest.raises(WSServerHandshakeError):
            await http.ws_connect(f"{proxy.api_url}/events/out")


async def test_websockets_pass_both_ways(proxy: ChaosProxy, http: ClientSession) -> None:
    async with http.ws_connect(f"{proxy.api_url}/events/out", protocols=["prefect"]) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "prefect:hello"
    assert [(call.action, call.outcome) for call in proxy.calls] == [("WS /events/out", "101")]


async def test_websockets_are_refused_and_cut(proxy: ChaosProxy, http: ClientSession) -> None:
    proxy.fault(
        fault(What.SERVER_ERROR, action="WS *", nth=(1,)), fault(What.DISCONNECT, action="WS *", nth=(2,), delay=0.05)
    )
    with pytest.raises(WSServerHandshakeError):
        await http.ws_connect(f"{proxy.api_url}/events/out")
    async with http.ws_connect(f"{proxy.api_url}/events/out") as socket:
        assert (await socket.receive(timeout=5)).type in {WSMsgType.CLOSE, WSMsgType.CLOSED}
    async with http.ws_connect(f"{proxy.api_url}/events/out") as socket:
        await socket.send_str("still here")
        assert (await socket.receive_str()).endswith("still here")
        await proxy.disconnect()
        closing = await socket.receive(timeout=5)
        assert (closing.type, socket.close_code) == (WSMsgType.CLOSE, 1011)


async def test_no_such_websocket(proxy: ChaosProxy, http: ClientSession) -> None:
    with pytest.raises(WSServerHandshakeError) as refused:
        await http.ws_connect(f"{proxy.api_url}/somewhere")
    assert refused.value.status == 201  # what the server behind answered, not a socket


async def test_control_over_http(upstream: Upstream, proxy: ChaosProxy, http: ClientSession) -> None:
    control = f"{proxy.url}/__sim__"

    async def say(method: str, what: str, body: Any = None) -> Any:
        async with http.request(method, f"{control}/{what}", json=body) as answer:
            return answer.status, await answer.json()

    assert (await say("POST", "faults", [{"what": ["nonsense"]}]))[0] == 400
    assert (await say("POST", "nonsense"))[0] == 404
    await say("POST", "faults", [{"what": ["throttle"], "action": "GET *", "retry_after": 1}])
    async with http.get(f"{proxy.api_url}/x") as answer:
        assert answer.status == 429
    await say("DELETE", "faults")
    _, pause = await say("POST", "pauses", {"action": "GET *", "phase": "before"})
    assert await say("GET", f"pauses/{pause['id']}?wait=0.01") == (200, {"reached": False})
    asking = asyncio.ensure_future(http.get(f"{proxy.api_url}/y"))
    _, reached = await say("GET", f"pauses/{pause['id']}?wait=5")
    assert (reached["reached"], reached["call"]["action"], upstream.seen) == (True, "GET /y", [])
    await say("POST", f"pauses/{pause['id']}", {"then": "resume"})
    (await asking).close()
    _, calls = await say("GET", "calls?since=1")
    assert [(call["action"], call["outcome"]) for call in calls] == [("GET /y", "201")]
