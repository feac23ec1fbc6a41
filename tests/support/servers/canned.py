"""A Prefect API that keeps flow runs in memory and is never the bottleneck: for measuring the worker alone.

It orchestrates as far as a worker can tell: a claim is won once and known again by its transition id, what is final
stays so. Events and log lines are taken and counted. It says which calls it doesn't know: see `unknown`.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter, deque
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from aiohttp import WSMsgType, web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping

VERSION = "3.8.8"
FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})
_PAGE = 200
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def shape(method: str, path: str, pool: str = "") -> str:
    """A call's name: `POST /flow_runs/{id}/set_state`."""
    named = _ID.sub("{id}", path.removeprefix("/api"))
    return f"{method} {named.replace(f'/work_pools/{pool}', '/work_pools/{name}') if pool else named}"


class CannedApi:
    """One work pool, one flow, one deployment. `runs` are the flow runs as the API gives them, by id.

    `calls`: when each request came (monotonic seconds), and its name. `told`: how often each state was accepted for
    each run. `read_by_id`: how many runs each bulk read asked for. `unlisted`: runs that bulk reads miss. `leases`:
    how often each was renewed. `log_lines`: the newest. `listed`: the state types of each listing of all runs.
    `on_call` is called with each name before the answer.
    """

    def __init__(self, pool: str, template: Mapping[str, Any], job_variables: Mapping[str, Any] | None = None) -> None:
        now = _now()
        self.pool: dict[str, Any] = {
            "id": str(uuid4()),
            "created": now,
            "updated": now,
            "name": pool,
            "description": None,
            "type": "ecs",
            "base_job_template": dict(template),
            "is_paused": False,
            "concurrency_limit": None,
            "status": "READY",
            "default_queue_id": str(uuid4()),
            "storage_configuration": {},
        }
        self.flow = {"id": str(uuid4()), "created": now, "updated": now, "name": "flow", "tags": [], "labels": {}}
        self.deployment: dict[str, Any] = {
            "id": str(uuid4()),
            "created": now,
            "updated": now,
            "name": "deployment",
            "flow_id": self.flow["id"],
            "job_variables": dict(job_variables or {}),
            "entrypoint": "flow.py:flow",
            "path": "/opt/flows",
            "parameters": {},
            "tags": [],
            "work_pool_name": pool,
            "work_queue_name": "default",
        }
        self.runs: dict[str, dict[str, Any]] = {}
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.told: Counter[tuple[str, str]] = Counter()
        self.calls: list[tuple[float, str]] = []
        self.unknown: Counter[str] = Counter()
        self.log_lines: deque[dict[str, Any]] = deque(maxlen=1000)
        self.read_by_id: list[int] = []
        self.unlisted: set[str] = set()
        self.blocks: dict[str, dict[str, Any]] = {}
        self.leases: dict[str, int] = {}
        self.listed: list[frozenset[str]] = []
        self.on_call: Callable[[str], None] = lambda _: None
        self.url = ""
        self._workers: dict[str, dict[str, Any]] = {}
        self._sockets: set[web.WebSocketResponse] = set()

    # -- what tests and benchmarks say

    def add_run(self, state_type: str = "SCHEDULED", *, identifier: str | None = None) -> str:
        """A flow run in that state, since now; its id."""
        run_id = str(uuid4())
        self.runs[run_id] = {
            "id": run_id,
            "created": _now(),
            "updated": _now(),
            "name": f"run-{len(self.runs)}",
            "flow_id": self.flow["id"],
            "deployment_id": self.deployment["id"],
            "parameters": {},
            "job_variables": {},
            "tags": [],
            "labels": {},
            "infrastructure_pid": identifier,
            "work_pool_name": self.pool["name"],
            "work_queue_name": "default",
            "work_queue_id": self.pool["default_queue_id"],
            "run_count": 0,
            "next_scheduled_start_time": _now(),
            "expected_start_time": _now(),
        }
        self.history[run_id] = []
        self.enter(run_id, {"type": state_type, "name": state_type.title()})
        return run_id

    def add_worker(self, name: str, *, status: str = "ONLINE", later: float = 0.0) -> None:
        """A worker of the pool beats, so many seconds from now."""
        self._workers[name] = {
            "id": str(uuid4()),
            "created": _now(),
            "updated": _now(),
            "name": name,
            "work_pool_id": self.pool["id"],
            "last_heartbeat_time": _now(later),
            "heartbeat_interval_seconds": 10,
            "status": status,
        }

    def remove_worker(self, name: str) -> None:
        """Nobody hears of it any more."""
        self._workers.pop(name, None)

    def in_state(self, *types: str) -> int:
        """How many runs are in a state of these types."""
        return sum(run["state_type"] in types for run in self.runs.values())

    # -- HTTP

    def routes(self) -> dict[str, Any]:
        """The calls that it knows: `METHOD /path` → handler."""
        return {
            "GET /health": lambda _: web.json_response(data=True),
            "GET /admin/version": lambda _: _json(VERSION),
            "GET /csrf-token": lambda _: _json({"detail": "CSRF protection is disabled."}, 422),
            "GET /work_pools/{name}": lambda _: _json(self.pool),
            "PATCH /work_pools/{name}": lambda _: web.Response(status=204),
            "POST /work_pools/{name}/workers/heartbeat": self._heartbeat,
            "POST /work_pools/{name}/workers/filter": lambda _: _json(list(self._workers.values())),
            "GET /work_pools/{name}/workers/connect": lambda _: web.Response(status=403),
            "POST /work_pools/{name}/get_scheduled_flow_runs": self._scheduled,
            "POST /flow_runs/filter": self._filter,
            "POST /flow_runs/count": self._count_runs,
            "GET /flow_runs/{id}": self._run,
            "PATCH /flow_runs/{id}": self._update,
            "PATCH /flow_runs/{id}/labels": self._label,
            "POST /flow_runs/{id}/set_state": self._set_state,
            "GET /flow_run_states/": lambda request: _json(self.history.get(request.query["flow_run_id"], [])),
            "GET /flows/{id}": lambda _: _json(self.flow),
            "GET /deployments/{id}": lambda _: _json(self.deployment),
            "GET /block_types/slug/{slug}/block_documents/name/{name}": self._block,
            "POST /v2/concurrency_limits/leases/{id}/renew": self._renew,
            "POST /logs/": self._logs,
            "POST /logs/filter": lambda _: _json([]),
            "POST /events": lambda _: web.Response(status=204),
            "GET /events/in": self._socket,
            "GET /events/out": self._socket,
        }

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._count], client_max_size=2**26)
        for route, handler in self.routes().items():
            method, path = route.split()
            app.router.add_route(method, f"/api{path}", _coroutine(handler))
        app.router.add_route("*", "/{path:.*}", self._not_known)
        return app

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        name = shape(request.method, request.path, self.pool["name"])
        self.calls.append((time.monotonic(), name))
        self.on_call(name)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _not_known(self, request: web.Request) -> web.Response:
        self.unknown[shape(request.method, request.path)] += 1
        return _json({"detail": "Not Found"}, 404)

    async def _heartbeat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.add_worker(body["name"])
        return web.Response(status=204)

    async def _scheduled(self, request: web.Request) -> web.Response:
        limit = (await request.json()).get("limit") or _PAGE
        found: list[dict[str, Any]] = []
        for run in self.runs.values() if not self.pool["is_paused"] else ():
            if run["state_type"] == "SCHEDULED":
                polled = {key: value for key, value in run.items() if key != "state"}
                ids = {"work_pool_id": self.pool["id"], "work_queue_id": self.pool["default_queue_id"]}
                found.append(ids | {"flow_run": polled | {"state": None}})
                if len(found) == limit:
                    break
        return _json(found)

    async def _filter(self, request: web.Request) -> web.Response:
        body = await request.json()
        wanted = body.get("flow_runs") or {}
        ids: Collection[str] | None = (wanted.get("id") or {}).get("any_")
        types: Collection[str] | None = ((wanted.get("state") or {}).get("type") or {}).get("any_")
        if ids is not None:
            self.read_by_id.append(len(ids))
        named: Collection[str] | None = ((wanted.get("state") or {}).get("name") or {}).get("any_")
        queues: Collection[str] | None = ((body.get("work_pool_queues") or {}).get("name") or {}).get("any_")
        runs = self.runs.values() if ids is None else [self.runs[run] for run in ids if run in self.runs]
        found = [
            run
            for run in runs
            if run["id"] not in self.unlisted
            and (types is None or run["state_type"] in types)
            and (named is None or run["state_name"] in named)
            and (queues is None or run["work_queue_name"] in queues)
        ]
        if ids is None and types is not None and not body.get("offset") and named is None:
            self.listed.append(frozenset(types))
        if body.get("sort") == "ID_DESC":
            found.sort(key=lambda run: str(run["id"]), reverse=True)
        offset = body.get("offset", 0)
        return _json(found[offset : offset + min(body.get("limit", _PAGE), _PAGE)])

    async def _count_runs(self, request: web.Request) -> web.Response:
        ids = (await request.json())["flow_runs"]["id"]["any_"]
        return _json(sum(run_id in self.runs for run_id in ids))

    async def _run(self, request: web.Request) -> web.Response:
        run = self.runs.get(request.match_info["id"])
        return _json(run) if run is not None else _json({"detail": "Flow run not found"}, 404)

    async def _update(self, request: web.Request) -> web.Response:
        run = self.runs.get(request.match_info["id"])
        if run is None:
            return _json({"detail": "Flow run not found"}, 404)
        run |= await request.json()
        return web.Response(status=204)

    async def _label(self, request: web.Request) -> web.Response:
        run = self.runs.get(request.match_info["id"])
        if run is None:
            return _json({"detail": "Flow run not found"}, 404)
        run["labels"] |= await request.json()
        return web.Response(status=204)

    async def _set_state(self, request: web.Request) -> web.Response:
        run_id = request.match_info["id"]
        run = self.runs.get(run_id)
        if run is None:
            return _json({"detail": "Flow run not found"}, 404)
        state = (await request.json())["state"]
        verdict = _verdict(run["state"], state)
        if verdict == "ACCEPT":
            self.enter(run_id, state)
        details = {"type": f"{verdict.lower()}_details"} | ({} if verdict == "ACCEPT" else {"reason": "not allowed"})
        return _json({"state": run["state"], "status": verdict, "details": details}, 201)

    def enter(self, run_id: str, proposed: Mapping[str, Any], *, ago: float = 0.0) -> None:
        """Put the run into that state, so many seconds ago."""
        state = {
            "id": str(uuid4()),
            "type": proposed["type"],
            "name": proposed.get("name") or proposed["type"].title(),
            "timestamp": _now(-ago),
            "message": proposed.get("message"),
            "state_details": {"flow_run_id": run_id, **(proposed.get("state_details") or {})},
        }
        self.runs[run_id] |= {
            "state": state,
            "state_id": state["id"],
            "state_type": state["type"],
            "state_name": state["name"],
        }
        self.history[run_id].append(state)
        self.told[run_id, state["type"]] += 1

    async def _block(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.blocks:
            return _json({"detail": "Block document not found"}, 404)
        return _json({"id": str(uuid4()), "name": name, "data": self.blocks[name]})

    async def _renew(self, request: web.Request) -> web.Response:
        lease = request.match_info["id"]
        if lease not in self.leases:
            return _json({"detail": "Lease not found"}, 410)
        self.leases[lease] += 1
        return web.Response(status=204)

    async def _logs(self, request: web.Request) -> web.Response:
        self.log_lines.extend(await request.json())
        return web.Response(status=201)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        """Events go in, and none come out."""
        socket = web.WebSocketResponse(protocols=("prefect",))
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT and '"auth"' in message.data:
                    await socket.send_json({"type": "auth_success"})
        finally:
            self._sockets.discard(socket)
        return socket

    async def close(self) -> None:
        """End the WebSockets, which would hold the server up."""
        await asyncio.gather(*(socket.close() for socket in tuple(self._sockets)))


def _verdict(current: Mapping[str, Any], proposed: Mapping[str, Any]) -> str:
    """ACCEPT, REJECT or ABORT, as Prefect's rules have it for what workers propose."""
    before, after = current["type"], proposed["type"]
    transition = (proposed.get("state_details") or {}).get("transition_id")
    if transition is not None and transition == current["state_details"].get("transition_id"):
        return "REJECT"
    if before in FINAL and after != "SCHEDULED":
        return "ABORT"
    if after == "PENDING" and before != "SCHEDULED" and proposed.get("name") == "Pending":
        return "ABORT"
    if before == "CANCELLING" and after != "CANCELLED":
        return "REJECT"
    return "ACCEPT"


@asynccontextmanager
async def serve(api: CannedApi) -> AsyncIterator[CannedApi]:
    """Serve it on 127.0.0.1; `api.url` is what PREFECT_API_URL is set to."""
    runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        api.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api"
        yield api
    finally:
        await api.close()
        await runner.cleanup()


def _coroutine(handler: Any) -> Any:
    async def handle(request: web.Request) -> web.StreamResponse:
        answer = handler(request)
        return answer if isinstance(answer, web.StreamResponse) else await answer

    return handle


def _json(document: Any, status: int = 200) -> web.Response:
    body = json.dumps(document, separators=(",", ":")).encode()
    return web.Response(body=body, status=status, content_type="application/json")


def _now(later: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=later)).isoformat()
