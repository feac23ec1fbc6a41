"""What Prefect's own runner does in a flow container, as far as the server can tell."""

from __future__ import annotations

import asyncio
import base64
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError, ClientTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp import ClientSession

    from support.simulator.tasks import FlowScript

_RETRIED = {408, 429, 502, 503}
USER_AGENT = "simulated-container/1"


class FlowEnd(Enum):
    """How the flow container ended."""

    DONE = auto()  # its end stands on the server, or it was told not to run
    UNTOLD = auto()  # it died without telling, as its script wants
    UNREACHABLE = auto()  # the server did not answer


class _Unreachable(Exception):
    pass


async def play_flow(
    http: ClientSession, environment: Mapping[str, str], script: FlowScript, on_running: Callable[[], None]
) -> FlowEnd:
    """Runs the flow run that the environment names. `on_running` is called when the server lets it run."""
    run = _Run(http, environment, script.attempts)
    try:
        return await _play(run, script, on_running)
    except _Unreachable:
        return FlowEnd.UNREACHABLE


async def _play(run: _Run, script: FlowScript, on_running: Callable[[], None]) -> FlowEnd:
    if await run.state_type() == "CANCELLING":
        await run.set_state("CANCELLED", "Cancelled")
        return FlowEnd.DONE
    if not await run.set_state("RUNNING", "Running"):
        return FlowEnd.DONE
    on_running()
    if await _work(run, script):
        await run.set_state("CANCELLED", "Cancelled")
    elif script.ends_as is None:
        return FlowEnd.UNTOLD
    else:
        await run.set_state(script.ends_as, script.ends_as.capitalize())
    return FlowEnd.DONE


async def _work(run: _Run, script: FlowScript) -> bool:
    """Works as long as the script says. True when the run was cancelled meanwhile."""
    deadline = time.monotonic() + script.seconds
    while (left := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 1.0) if script.heeds_cancel else left)
        if script.heeds_cancel and await run.state_type() == "CANCELLING":
            return True
    return False


class _Run:
    """The flow run on its server."""

    def __init__(self, http: ClientSession, environment: Mapping[str, str], attempts: int) -> None:
        self._http = http
        self._attempts = attempts
        api = environment.get("PREFECT_API_URL", "").rstrip("/")
        self._url = f"{api}/flow_runs/{environment.get('PREFECT__FLOW_RUN_ID', '')}"
        self._headers = {"User-Agent": USER_AGENT} | _authorization(environment)

    async def state_type(self) -> str:
        return str((await self._ask("GET", self._url)).get("state_type", ""))

    async def set_state(self, kind: str, name: str) -> bool:
        """Whether the server accepted the state. When it says WAIT, it is asked again."""
        body = {"state": {"type": kind, "name": name}, "force": False}
        answer: dict[str, Any] = {}
        for _ in range(self._attempts):
            answer = await self._ask("POST", f"{self._url}/set_state", body)
            if answer.get("status") != "WAIT":
                break
            await asyncio.sleep(float(answer["details"].get("delay_seconds", 1)))
        return answer.get("status") == "ACCEPT"

    async def _ask(self, method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        for attempt in range(self._attempts):
            try:
                async with self._http.request(
                    method, url, json=body, headers=self._headers, timeout=ClientTimeout(30)
                ) as response:
                    if response.status not in _RETRIED:
                        return await response.json() if response.ok else {}
            except (ClientError, TimeoutError, OSError, ValueError):
                pass  # the same as an answer that asks for another try
            await asyncio.sleep(min(0.1 * 2**attempt, 3.0))
        raise _Unreachable


def _authorization(environment: Mapping[str, str]) -> dict[str, str]:
    if basic := environment.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(basic.encode()).decode()}"}
    if key := environment.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    return {}
