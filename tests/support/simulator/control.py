"""The control API over HTTP, for tests in another process: JSON under `/__sim__/` on the simulator's own port.

POST   faults                 [{"what": ["throttle"], "action": "RunTask", …}]      adds rules (see Fault)
DELETE faults                                                                       no rules any more
GET    calls?since=N                                                                the record of calls
POST   pauses                 {"action": …, "phase": "before", "occurrence": 1}     → {"id": n} (and "freeze": true)
GET    pauses/{id}?wait=S                                                           → {"reached": bool, "call": …}
POST   pauses/{id}            {"then": "resume" | "drop"}
POST   thaw
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from support.simulator.faults import Call, Director, Fault, Pause, Phase, Point

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "/__sim__/"
_FAULTS = TypeAdapter(list[Fault])


class Control:
    """Answers the requests under PREFIX. `more` are further handlers: "METHOD first-part" → handler(rest, body)."""

    def __init__(self, director: Director, more: Mapping[str, Callable[[str, Any], Any]]) -> None:
        self._director = director
        self._pauses: list[Pause] = []
        self._handlers: dict[str, Callable[[str, Any], Any]] = {
            "POST faults": self._add_faults,
            "DELETE faults": lambda _rest, _body: director.clear(),
            "POST pauses": self._set_pause,
            "POST thaw": lambda _rest, _body: director.thaw(),
            **more,
        }

    async def handle(self, request: web.BaseRequest) -> web.Response:
        first, _, rest = request.path.removeprefix(PREFIX).partition("/")
        if request.method == "GET" and first == "calls":
            return _json([call_document(call) for call in self._director.calls[int(request.query.get("since", 0)) :]])
        if request.method == "GET" and first == "pauses":
            return await self._wait(self._pauses[int(rest)], float(request.query.get("wait", 0)))
        handler = self._handlers.get(f"{request.method} {first}")
        if handler is None:
            return _json({"error": f"no such control: {request.method} {first}"}, 404)
        text = await request.content.read()
        try:
            answer = handler(rest, json.loads(text) if text else None)
        except ValidationError as error:
            return _json({"error": str(error)}, 400)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            return _json({"error": f"{type(error).__name__}: {error}"}, 400)
        return _json(answer)

    def _add_faults(self, _rest: str, body: Any) -> None:
        self._director.add(*_FAULTS.validate_python(body))

    def _set_pause(self, rest: str, body: Any) -> Any:
        if rest:
            pause = self._pauses[int(rest)]
            {"resume": pause.resume, "drop": pause.drop}[body["then"]]()
            return None
        point = Point(body["action"], Phase(body["phase"]), body.get("occurrence", 1), body.get("caller", "*"))
        self._pauses.append(self._director.pause_at(point, freeze=body.get("freeze", False)))
        return {"id": len(self._pauses) - 1}

    async def _wait(self, pause: Pause, seconds: float) -> web.Response:
        try:
            call = await pause.wait(seconds)
        except TimeoutError:
            return _json({"reached": False})
        return _json({"reached": True, "call": call_document(call)})


def call_document(call: Call) -> dict[str, Any]:
    """A call as JSON."""
    return {
        "index": call.index,
        "action": call.action,
        "occurrence": call.occurrence,
        "caller": call.caller,
        "subject": call.subject,
        "at": call.at,
        "fault": call.what,
        "effect": call.effect,
        "outcome": call.outcome,
        "seconds": call.seconds,
    }


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(document), status=status, content_type="application/json")
