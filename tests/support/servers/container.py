"""What the tests' containers run: says on the server what Prefect's engine would, at a fraction of its start-up time.

Its arguments are steps, done in turn:

- a state's type, such as RUNNING: propose it, and go on once the server has it; a run that may not run ends here
- sleep=SECONDS, print=LINES, tick=LINES (ten a second), exit=CODE
- wait=PATH: until that file exists
- suspend: propose Suspended and end; the container in which the run is resumed goes on

Standard library only: it runs in whatever environment serves the embedded AWS.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

_PATIENCE = 90  # seconds that a server may be away, as Prefect's own client has patience with it
_RETRIED = {408, 429, 502, 503}


class Run:
    """The flow run that the environment names."""

    def __init__(self) -> None:
        self._api = os.environ["PREFECT_API_URL"].rstrip("/")
        self._path = f"/flow_runs/{os.environ['PREFECT__FLOW_RUN_ID']}"
        self._headers = {"Content-Type": "application/json"}
        if given := os.environ.get("PREFECT_API_AUTH_STRING"):
            self._headers["Authorization"] = f"Basic {base64.b64encode(given.encode()).decode()}"

    def read(self) -> dict[str, Any]:
        return self._ask("GET", self._path)

    def propose(self, kind: str, name: str | None = None, **details: Any) -> bool:
        """Whether the server took the state."""
        body = {"state": {"type": kind, "name": name or kind.capitalize(), "state_details": details}}
        while True:
            answer = self._ask("POST", f"{self._path}/set_state", body)
            if answer["status"] != "WAIT":
                return bool(answer["status"] == "ACCEPT")
            time.sleep(answer["details"]["delay_seconds"])

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        if body is not None:
            self._fetch_csrf_token()
        deadline = time.monotonic() + _PATIENCE
        while True:
            request = urllib.request.Request(  # noqa: S310 - the tests' own server
                self._api + path, None if body is None else json.dumps(body).encode(), self._headers, method=method
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - likewise
                    return dict(json.load(response))
            except OSError as error:  # HTTPError is one
                if getattr(error, "code", 503) not in _RETRIED or time.monotonic() > deadline:
                    raise
            time.sleep(0.3)

    def _fetch_csrf_token(self) -> None:
        client = uuid4().hex
        try:
            token = self._ask("GET", f"/csrf-token?client={client}")["token"]
        except urllib.error.HTTPError as error:
            if error.code not in {404, 422}:  # what servers without the protection say
                raise
        else:
            self._headers |= {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": client}


def suspend(run: Run) -> bool:
    """Whether the run is suspended now: the second time it runs, it has been."""
    if run.read()["run_count"] > 1:
        return False
    timeout = (datetime.now(UTC) + timedelta(seconds=_PATIENCE)).isoformat()
    return run.propose("PAUSED", "Suspended", pause_timeout=timeout, pause_reschedule=True, pause_key="1")


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def print_lines(number: int) -> None:
    for line in range(number):
        print(f"line {line:04}", flush=True)  # noqa: T201 - the output is what is tested
        if line % 50 == 0:
            time.sleep(0.05)  # so that a reader finds the stream at many stages


def tick(number: int) -> None:
    for line in range(number):
        print(f"line {line:04}", flush=True)  # noqa: T201 - the output is what is tested
        time.sleep(0.1)


def main(steps: list[str]) -> int:
    run = Run()
    for step in steps:
        verb, _, value = step.partition("=")
        match verb:
            case "sleep":
                time.sleep(float(value))
            case "wait":
                wait_for(Path(value))
            case "print":
                print_lines(int(value))
            case "tick":
                tick(int(value))
            case "exit":
                return int(value)
            case "suspend":
                if suspend(run):
                    return 0
            case kind:
                if not run.propose(kind):
                    print(f"{kind} was not accepted", flush=True)  # noqa: T201 - for who reads a failed test
                    return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
