"""The Prefect server of the week: the canned API with queues, deployments, blocks, limits, rules, and weather."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from aiohttp import WSMsgType, web

from support.servers.canned import FINAL, CannedApi, shape

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

POOL = "fleet"
HELD = frozenset({"PENDING", "RUNNING", "CANCELLING"})
LEASE = 300.0  # seconds that a deployment's slot is granted for at the claim
SLOT_LATER = 30.0  # seconds after which a run without a slot is offered again
LATE_AFTER = 15.0
GATEWAY = "<html><body><h1>502 Bad Gateway</h1></body></html>"
_NONSENSE: tuple[tuple[int, str, str], ...] = (
    (200, "application/json", '{"detail": "half an ans'),
    (200, "text/html", "<html>Sign in</html>"),
    (200, "application/json", '"a text"'),
    (200, "application/json", "[17, null]"),
    (200, "application/json", "{}"),
    (404, "text/html", "<html>No such host</html>"),
    (500, "application/json", '{"exception_message": "Internal Server Error"}'),
    (503, "application/json", '{"exception_message": "Service Unavailable"}'),
)


@dataclass(frozen=True)
class Weather:
    """What becomes of calls in a time. `chance` (0 to 1) is each call's.

    away: the connection is closed. gateway: 502. slow: up to `seconds` pass before the answer. broken: nonsense is
    answered, half of the times after the call took effect. limit: no more than `most` calls a minute, then 429.
    """

    kind: str
    chance: float = 1.0
    seconds: float = 0.0
    most: int = 0


class NotNow(Exception):
    """The server can't be reached."""


class Deleted(Exception):
    """There is no such run (any more)."""


@dataclass(slots=True)
class Answer:
    """What became of a proposed state."""

    status: str
    reason: str = ""
    delay: float = 0.0


@dataclass(slots=True)
class Lapse:
    """A deployment's slot fell back because nobody renewed its lease."""

    at: float
    run_id: str


@dataclass
class Traffic:
    """How many calls came, by minute, and how many of them were refused for the limit."""

    calls: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    limited: set[int] = field(default_factory=set)  # minutes in which a limit was in force
    names: Counter[str] = field(default_factory=Counter)


class WeekApi(CannedApi):
    """One work pool with several queues. Containers and users of the week call it directly, workers over HTTP."""

    def __init__(self, template: Mapping[str, Any], queues: tuple[str, ...], chance: random.Random) -> None:
        super().__init__(POOL, template)
        self.queues = {name: str(uuid4()) for name in queues}
        self.deployments: dict[str, dict[str, Any]] = {}
        self.blocks: dict[str, dict[str, Any]] = {}
        self.weather: list[Weather] = []
        self.traffic = Traffic()
        self.deleted: dict[str, float] = {}
        self.lapses: list[Lapse] = []
        self.recent: deque[tuple[float, str, str, str]] = deque(maxlen=4000)  # changes, for histories
        self.due: dict[str, float] = {}
        self._leases: dict[str, tuple[str, float]] = {}  # id → run, end
        self._waiting: defaultdict[str, list[asyncio.Event]] = defaultdict(list)
        self._retries: dict[str, int] = {}
        self._listeners: set[web.WebSocketResponse] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._chance = chance

    def routes(self) -> dict[str, Any]:
        return super().routes() | {
            "POST /work_pools/{name}/workers/filter": self._filter_workers,
            "GET /deployments/{id}": self._deployment,
            "GET /block_documents/{id}": self._block,
            "POST /v2/concurrency_limits/leases/{id}/renew": self._renew,
            "GET /events/out": self._events,
        }

    # -- what users do

    def deploy(self, name: str, queue: str, *, limit: int | None = None, **job_variables: Any) -> str:
        """A deployment's id. `limit`: so many of its runs at once."""
        known = self.deployment | {"id": str(uuid4()), "name": name, "work_queue_name": queue}
        self.deployments[known["id"]] = known | {"job_variables": job_variables, "concurrency_limit": limit}
        return str(known["id"])

    def delete_deployment(self, deployment_id: str) -> list[str]:
        """As Prefect does it: its runs that have not begun go with it. Which ones."""
        del self.deployments[deployment_id]
        gone = [
            run_id
            for run_id, run in self.runs.items()
            if run["deployment_id"] == deployment_id and run["state_type"] == "SCHEDULED" and not run["run_count"]
        ]
        for run_id in gone:
            self.delete(run_id)
        return gone

    def schedule(self, deployment_id: str, name: str, due: float, *, retries: int = 0) -> str:
        """A run of the deployment, due at that time (seconds since 1970); its id."""
        run_id = super().add_run()
        queue = self.deployments[deployment_id]["work_queue_name"]
        fields = {"deployment_id": deployment_id, "work_queue_name": queue, "work_queue_id": self.queues[queue]}
        self.runs[run_id] |= fields | {"name": name, "empirical_policy": {"retry_type": None}}
        self._retries[run_id] = retries
        self._due(run_id, due)
        return run_id

    def delete(self, run_id: str) -> None:
        """Delete the run, with all that is known of it."""
        self.recent.append((time.time(), run_id, "DELETED", ""))
        self.deleted[run_id] = time.time()
        self.forget(run_id)

    def forget(self, run_id: str) -> None:
        """As if there had never been such a run: of those that are judged, the week keeps nothing."""
        self.runs.pop(run_id, None)
        self.history.pop(run_id, None)
        self.due.pop(run_id, None)
        self._retries.pop(run_id, None)
        for event in self._waiting.pop(run_id, ()):
            event.set()
        for key in [key for key in self.told if key[0] == run_id]:
            del self.told[key]

    def mark_late(self) -> None:
        """What the server does with runs that nobody takes."""
        now = time.time()
        for run_id, run in self.runs.items():
            if run["state_name"] == "Scheduled" and self.due[run_id] + LATE_AFTER < now:
                self.enter(run_id, {"type": "SCHEDULED", "name": "Late"})

    # -- what flows do, and users as well

    def reachable(self) -> None:
        """Raises NotNow while calls from outside don't come through."""
        for weather in self.weather:
            if weather.kind in {"away", "gateway"} and self._chance.random() < weather.chance:
                raise NotNow

    def state_of(self, run_id: str) -> str:
        """The run's state type. Raises Deleted."""
        if run_id not in self.runs:
            raise Deleted
        return str(self.runs[run_id]["state_type"])

    async def changed(self, run_id: str, seconds: float) -> bool:
        """Wait for the run's state to change, or its deletion, but no longer than that; whether it came."""
        event = asyncio.Event()
        self._waiting[run_id].append(event)
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return False
        finally:
            if event in self._waiting.get(run_id, ()):
                self._waiting[run_id].remove(event)
        return True

    def propose(self, run_id: str, state: Mapping[str, Any], *, force: bool = False) -> Answer:
        """Propose a state, and enter it, or what the rules have instead. Raises Deleted."""
        if run_id not in self.runs:
            raise Deleted
        run = self.runs[run_id]
        answer = Answer("ACCEPT") if force else self._judged(run, state)
        if answer.status == "ACCEPT":
            self._accept(run, state)
        return answer

    def enter(self, run_id: str, proposed: Mapping[str, Any], *, ago: float = 0.0) -> None:
        super().enter(run_id, proposed, ago=ago)
        state = self.runs[run_id]["state"]
        self.recent.append((time.time(), run_id, f"{state['type']}/{state['name']}", state["message"] or ""))
        for event in self._waiting.pop(run_id, ()):
            event.set()
        if state["type"] == "CANCELLING":
            for listener in tuple(self._listeners):
                task = asyncio.get_running_loop().create_task(_tell(listener, run_id))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)

    # -- the rules

    def _judged(self, run: dict[str, Any], state: Mapping[str, Any]) -> Answer:
        before, after = run["state_type"], state["type"]
        transition = (state.get("state_details") or {}).get("transition_id")
        if transition is not None and transition == run["state"]["state_details"].get("transition_id"):
            return Answer("REJECT", "This run has already made this state transition.")
        if before == "CANCELLING" and after != "CANCELLED":
            return Answer("REJECT", "Cannot leave Cancelling.")
        if after == "PENDING":
            return self._judged_claim(run, state)
        if before in FINAL:
            again = after == "SCHEDULED" or (before == "CRASHED" and after == "RUNNING")
            return Answer("ACCEPT") if again else Answer("ABORT", "The run has ended.")
        return self._judged_others(run, before, after)

    def _judged_others(self, run: dict[str, Any], before: str, after: str) -> Answer:
        if after == "CANCELLING" and before == "SCHEDULED" and not run["infrastructure_pid"]:
            self.enter(run["id"], {"type": "CANCELLED"})
            return Answer("REJECT", "It had not begun.")
        if after == "RUNNING" and before == "PENDING" and self.due[run["id"]] > time.time():
            return Answer("WAIT", "It is not due yet.", self.due[run["id"]] - time.time())
        if after == "FAILED" and before == "RUNNING" and self._retries.get(run["id"]):
            self._retries[run["id"]] -= 1
            run["empirical_policy"] = {"retry_type": "in_process"}
            self.enter(run["id"], {"type": "SCHEDULED", "name": "AwaitingRetry"})
            return Answer("REJECT", "It is to be retried.")
        return Answer("ACCEPT")

    def _judged_claim(self, run: dict[str, Any], state: Mapping[str, Any]) -> Answer:
        before, claim = run["state_type"], (state.get("name") or "Pending") == "Pending"
        if before == "PENDING":
            return Answer("ABORT", "It is Pending.") if claim else Answer("ACCEPT")
        if before in {"RUNNING", "CANCELLED"}:
            return Answer("ABORT", f"It is {before}.")
        if before == "PAUSED":
            return Answer("REJECT", "It is Paused.")
        limit = self.deployments.get(run["deployment_id"], {}).get("concurrency_limit")
        if limit is not None and self.slots(run["deployment_id"]) >= limit:
            self.enter(run["id"], {"type": "SCHEDULED", "name": "AwaitingConcurrencySlot"})
            self._due(run["id"], time.time() + SLOT_LATER)
            return Answer("REJECT", "No slot is free.")
        return Answer("ACCEPT")

    def _accept(self, run: dict[str, Any], state: Mapping[str, Any]) -> None:
        details = dict(state.get("state_details") or {})
        run_id = run["id"]
        claimed = state["type"] == "PENDING" and run["state_type"] != "PENDING"
        if claimed and self.deployments.get(run["deployment_id"], {}).get("concurrency_limit") is not None:
            lease = str(uuid4())
            self._leases[lease] = run_id, time.time() + LEASE
            details["deployment_concurrency_lease_id"] = lease
        if state["type"] == "RUNNING":
            run["run_count"] += 1
            run["empirical_policy"] = {"retry_type": None}
        if state["type"] == "SCHEDULED":
            planned = details.get("scheduled_time")
            self._due(run_id, datetime.fromisoformat(planned).timestamp() if planned else time.time())
        self.enter(run_id, {**state, "state_details": details})

    def _due(self, run_id: str, due: float) -> None:
        self.due[run_id] = due
        planned = datetime.fromtimestamp(due, UTC).isoformat()
        self.runs[run_id] |= {"next_scheduled_start_time": planned, "expected_start_time": planned}

    def slots(self, deployment_id: str) -> int:
        """How many runs have a slot of the deployment: a flow that runs renews its lease by itself."""
        now, taken = time.time(), 0
        for lease, (run_id, until) in list(self._leases.items()):
            run = self.runs.get(run_id)
            if run is None or not (run["state_type"] in HELD or run["empirical_policy"]["retry_type"]):
                del self._leases[lease]
            elif run["state_type"] == "PENDING" and until < now:
                self.lapses.append(Lapse(until, run_id))
                del self._leases[lease]
            elif run["deployment_id"] == deployment_id:
                taken += 1
        return taken

    # -- HTTP

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            await request.read()
        except ConnectionResetError:
            return web.Response()  # its sender has died, or waits no longer
        name = shape(request.method, request.path, POOL)
        minute = int(time.time() // 60)
        self.traffic.calls[minute] += 1
        self.traffic.names[name] += 1
        for weather in self.weather:
            if weather.kind == "limit":
                self.traffic.limited.add(minute)
                if self.traffic.calls[minute] > weather.most:
                    self.traffic.refused[minute] += 1
                    wait = {"Retry-After": str(max(1, int(60 - time.time() % 60)))}
                    return web.json_response({"detail": "Rate limit exceeded"}, status=429, headers=wait)
            elif self._chance.random() < weather.chance and (struck := await self._strike(weather, request, handler)):
                return struck
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _strike(self, weather: Weather, request: web.Request, handler: Any) -> web.StreamResponse | None:
        match weather.kind:
            case "away":
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
            case "gateway":
                return web.Response(text=GATEWAY, status=502, content_type="text/html")
            case "slow":
                await asyncio.sleep(self._chance.uniform(0, weather.seconds))
                return None
        if self._chance.random() < 1 / 2:
            await handler(request)
        status, kind, text = self._chance.choice(_NONSENSE)
        return web.Response(text=text, status=status, content_type=kind)

    async def _heartbeat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.add_worker(body["name"])
        self._workers[body["name"]]["heartbeat_interval_seconds"] = body["heartbeat_interval_seconds"]
        return web.Response(status=204)

    async def _filter_workers(self, request: web.Request) -> web.Response:
        wanted = (((await request.json()).get("workers") or {}).get("status") or {}).get("any_")
        found = []
        for name, worker in list(self._workers.items()):
            age = time.time() - datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp()
            worker["status"] = "ONLINE" if age <= 3 * worker["heartbeat_interval_seconds"] else "OFFLINE"
            if wanted is None or worker["status"] in wanted:
                found.append(worker)
            if age > 86_400:
                self.remove_worker(name)
        return _json(found)

    async def _scheduled(self, request: web.Request) -> web.Response:
        body = await request.json()
        names = body.get("work_queue_names") or list(self.queues)
        if any(name not in self.queues for name in names):
            return _json({"detail": "Work queue not found"}, 404)
        before = datetime.fromisoformat(body["scheduled_before"]).timestamp()
        found = [
            run
            for run_id, run in self.runs.items()
            if run["state_type"] == "SCHEDULED"
            and run["work_queue_name"] in names
            and self.due[run_id] <= before
            and run["empirical_policy"]["retry_type"] is None
        ]
        found.sort(key=lambda run: self.due[run["id"]])
        return _json(
            [
                {"work_pool_id": self.pool["id"], "work_queue_id": run["work_queue_id"]}
                | {"flow_run": {**run, "state": None}}
                for run in found[: body.get("limit") or 200]
            ]
        )

    async def _set_state(self, request: web.Request) -> web.Response:
        run_id, body = request.match_info["id"], await request.json()
        try:
            answer = self.propose(run_id, body["state"], force=body.get("force", False))
        except Deleted:
            return _json({"detail": "Flow run not found"}, 404)
        details: dict[str, Any] = {"type": f"{answer.status.lower()}_details"}
        if answer.status != "ACCEPT":
            details |= {"reason": answer.reason}
        if answer.status == "WAIT":
            details |= {"delay_seconds": answer.delay}
        return _json({"state": self.runs[run_id]["state"], "status": answer.status, "details": details}, 201)

    async def _deployment(self, request: web.Request) -> web.Response:
        found = self.deployments.get(request.match_info["id"])
        return _json(found) if found is not None else _json({"detail": "Deployment not found"}, 404)

    async def _block(self, request: web.Request) -> web.Response:
        found = self.blocks.get(request.match_info["id"])
        return _json({"data": found}) if found is not None else _json({"detail": "Block document not found"}, 404)

    async def _renew(self, request: web.Request) -> web.Response:
        lease = request.match_info["id"]
        self.slots("")  # what has lapsed is gone
        if lease not in self._leases:
            return _json({"detail": "Lease not found"}, 410)
        seconds = (await request.json())["lease_duration"]
        self._leases[lease] = self._leases[lease][0], time.time() + seconds
        return web.Response(status=204)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Cancellations come out as they happen."""
        socket = web.WebSocketResponse(protocols=("prefect",))
        with suppress(ConnectionResetError):  # who asked for it may have died
            await socket.prepare(request)
            await self._serve_events(socket)
        return socket

    async def _serve_events(self, socket: web.WebSocketResponse) -> None:
        self._sockets.add(socket)
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    continue
                kind = json.loads(message.data).get("type")
                if kind == "auth":
                    await socket.send_json({"type": "auth_success"})
                elif kind == "filter":
                    self._listeners.add(socket)
        finally:
            self._sockets.discard(socket)
            self._listeners.discard(socket)


async def _tell(listener: web.WebSocketResponse, run_id: str) -> None:
    resource = {"prefect.resource.id": f"prefect.flow-run.{run_id}"}
    try:
        await listener.send_json(
            {"type": "event", "event": {"event": "prefect.flow-run.Cancelling", "resource": resource}}
        )
    except (ConnectionError, RuntimeError):
        return  # it has gone


def _json(document: Any, status: int = 200) -> web.Response:
    body = json.dumps(document, separators=(",", ":")).encode()
    return web.Response(body=body, status=status, content_type="application/json")
