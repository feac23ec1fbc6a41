"""Real Prefect servers, 3.x and 2.20, and an administrator who creates what the worker finds there."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from uuid import UUID, uuid4

import httpx

from support.paths import TESTS, TOP
from support.servers.session import once, started
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

Line = Literal["3", "2"]

_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_UI_ENABLED": "false",  # its name on 2.20
    "PYTHONWARNINGS": "ignore",
    # To call waiting runs late takes its time: 1,500 of them minutes.
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "300",
    "PREFECT_API_SERVICES_LATE_RUNS_AFTER_SECONDS": "300",  # its name on 2.20
    # Many idle servers cost as much as a few busy ones: what no test waits for looks seldom.
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    # A worker counts as gone after three heartbeats; that is looked after this often (15 s by default).
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "2",
}
_START_SECONDS = 150
_FORKS = TESTS / "support" / "served" / "prefect_forks.py"


def _python(line: Line) -> Path:
    """The interpreter of an environment that holds the server."""
    if line == "3":
        return Path(sys.executable)
    python = Path(os.environ.get("PREFECT2_VENV") or TOP / ".venv-prefect2") / "bin" / "python"
    if not python.exists():
        raise RuntimeError(
            f"There is no Prefect 2.20 environment at {python.parents[1]}: run `make test`, which makes it."
        )
    return python


def _environment(home: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **clean,
        **_QUIET,
        "PREFECT_HOME": str(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
    }


def template(line: Line) -> Path:
    """A migrated, empty database. It is kept in the environment that made it: migrations take ten seconds."""
    environment = _python(line).parents[1]
    (installed,) = environment.glob("lib/python*/site-packages/prefect-*.dist-info")
    home = environment / "share" / "empty-databases" / installed.stem
    home.mkdir(parents=True, exist_ok=True)
    database = home / "prefect.db"
    with (home / "lock").open("w") as lock:  # other processes wait for the first
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "done").exists():
            database.unlink(missing_ok=True)
            command = [str(environment / "bin" / "prefect"), "server", "database", "upgrade", "-y"]
            done = subprocess.run(
                command, env=_environment(home), capture_output=True, text=True, timeout=120, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
            (home / "done").touch()
    return database


def _forks(line: Line, directory: Path) -> str:
    """The address of the process that forks servers of that line for the session in `directory`."""
    name = f"prefect-{line}"
    address = str(directory / f"{name}.socket")

    def start() -> dict[str, Any]:
        home = directory / name
        home.mkdir()
        started(directory, [str(_python(line)), str(_FORKS), address], _environment(home))
        return {"address": address}

    known: str = once(directory, name, start)["address"]
    return known


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class PrefectServer:
    """A Prefect server process. `stop` and `start` again keep its port and its data.

    `home` is a folder in the session's directory.
    """

    line: Line
    home: Path
    auth_string: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    pid: int | None = None
    _held: socket.socket | None = None  # closed from the other side when the process has ended

    @property
    def url(self) -> str:
        """What PREFECT_API_URL is set to."""
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def log(self) -> Path:
        return self.home / "server.log"

    def start(self) -> None:
        """Start the process, as `prefect server start` does, and wait until it is healthy."""
        # The processes of the test session take the cores in turn.
        core = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        asked = {"env": _environment(self.home) | self.extra, "directory": str(self.home), "port": self.port}
        self._held = held = socket.socket(socket.AF_UNIX)
        held.connect(_forks(self.line, self.home.parent))
        held.sendall(json.dumps(asked | {"core": core}).encode() + b"\n")
        held.settimeout(_START_SECONDS)
        self.pid = int(held.recv(20))
        deadline = time.monotonic() + _START_SECONDS
        while not self._healthy():
            if select.select([held], [], [], 0.1)[0] or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"The Prefect {self.line} server does not start:\n{self.log.read_text()[-3000:]}")

    def leave(self) -> None:
        """Let it run until the session ends."""
        if self._held is not None:
            self._held.close()
            self._held = None

    @contextmanager
    def awake(self) -> Iterator[Self]:
        """A shared server sleeps (SIGSTOP) but for this: its idle looks cost up to a twentieth of a core for each."""
        assert self.pid is not None, "started"
        os.kill(self.pid, signal.SIGCONT)
        try:
            yield self
        finally:
            os.kill(self.pid, signal.SIGSTOP)

    def stop(self) -> None:
        """Kill the process: its polite end takes ten seconds, and workers must bear a sudden one."""
        if self._held is not None and self.pid is not None:
            with self._held as held:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
                held.recv(1)  # until it has ended
            self._held = None

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


def new_server(
    line: Line,
    directory: Path,
    *,
    auth_string: str | None = None,
    csrf: bool = False,
    env: dict[str, str] | None = None,
) -> PrefectServer:
    """A server with an empty database in a new folder of `directory`; it is not started yet.

    `auth_string` and `csrf` turn the protection on (`auth_string`: 3.x only).
    """
    home = directory / f"prefect-{line}-{uuid4().hex[:8]}"
    home.mkdir(parents=True)
    shutil.copy(template(line), home / "prefect.db")
    extra = dict(env or {})
    if auth_string is not None:
        extra["PREFECT_SERVER_API_AUTH_STRING"] = auth_string
    if csrf:
        extra["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] = "true"
    return PrefectServer(line, home, auth_string, extra)


@contextmanager
def prefect_server(
    line: Line,
    directory: Path,
    *,
    auth_string: str | None = None,
    csrf: bool = False,
    env: dict[str, str] | None = None,
) -> Iterator[PrefectServer]:
    """Run a server of one's own, which may be stopped and started again. Its arguments are those of `new_server`."""
    server = new_server(line, directory, auth_string=auth_string, csrf=csrf, env=env)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.home, ignore_errors=True)


class Admin:
    """Creates and reads what users would, past the worker's own client. Errors show the server's answer."""

    def __init__(self, server: PrefectServer) -> None:
        self.server = server
        user, _, password = (server.auth_string or "").partition(":")
        self._client = httpx.AsyncClient(
            base_url=server.url,
            timeout=30,
            trust_env=False,
            auth=(user, password) if user else None,
            limits=httpx.Limits(keepalive_expiry=2),  # seconds; the server closes idle connections after five
        )
        self._csrf: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        if self.server.extra.get("PREFECT_SERVER_CSRF_PROTECTION_ENABLED"):
            client = uuid4().hex
            token = await self.get("/csrf-token", client=client)
            self._csrf = {"Prefect-Csrf-Token": token["token"], "Prefect-Csrf-Client": client}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    # -- any request

    async def get(self, path: str, **params: Any) -> Any:
        return await self.call("GET", path, params=params)

    async def post(self, path: str, body: Any) -> Any:
        return await self.call("POST", path, json=body)

    async def call(self, method: str, path: str, **content: Any) -> Any:
        """Any request; SQLite's 503 (lock contention) and lost connections are tried again."""
        for left in reversed(range(120)):
            try:
                response = await self._client.request(method, path, headers=self._csrf, **content)
            except httpx.ReadError:  # a busy server may close a connection that it has just been asked on
                if not left:
                    raise
            else:
                if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    break
            await asyncio.sleep(0.25)
        if not response.is_success:
            raise AssertionError(f"{method} {path} answered {response.status_code}: {response.text}")
        return response.json() if response.content else None

    # -- what users create

    async def create_pool(self, name: str | None = None, **fields: Any) -> str:
        """A work pool of type ecs, by a new name unless given; its name."""
        name = name or f"pool-{uuid4().hex[:8]}"
        await self.post("/work_pools/", {"name": name, "type": "ecs", **fields})
        return name

    async def create_flow(self, name: str | None = None) -> str:
        flow: str = (await self.post("/flows/", {"name": name or f"flow-{uuid4().hex[:8]}"}))["id"]
        return flow

    async def create_deployment(
        self, pool: str, *, name: str | None = None, flow_id: str | None = None, **fields: Any
    ) -> str:
        """A deployment on the pool's default queue (fields: job_variables, entrypoint, path, tags …); its id."""
        body = {
            "name": name or f"deployment-{uuid4().hex[:8]}",
            "flow_id": flow_id or await self.create_flow(),
            "work_pool_name": pool,
            **fields,
        }
        deployment: str = (await self.post("/deployments/", body))["id"]
        return deployment

    async def create_run(self, deployment_id: str, *, scheduled: datetime | None = None, **fields: Any) -> str:
        """A scheduled run (now unless told), with fields such as job_variables; its id."""
        due = (scheduled or datetime.now(UTC)).isoformat()
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due}}
        body = {"state": state, **fields}
        run: str = (await self.post(f"/deployments/{deployment_id}/create_flow_run", body))["id"]
        return run

    async def create_bare_runs(self, deployment_id: str, number: int) -> list[str]:
        """As many scheduled runs, without the server's check of their variables: a fifth of its time. Not on 2.20."""
        found = await self.get(f"/deployments/{deployment_id}")
        body = {
            "flow_id": found["flow_id"],
            "deployment_id": deployment_id,
            "work_pool_name": found["work_pool_name"],
            "work_queue_name": found["work_queue_name"],
            "state": {"type": "SCHEDULED"},
        }
        made = [await self.post("/flow_runs/", body | {"idempotency_key": str(uuid4())}) for _ in range(number)]
        return [run["id"] for run in made]

    async def create_runs(self, deployment_id: str, number: int) -> list[str]:
        """As many runs, due now, in the way that costs the server least."""
        if self.server.line == "3":
            return await self.create_bare_runs(deployment_id, number)
        return [await self.create_run(deployment_id) for _ in range(number)]

    async def create_block(self, type_slug: str, name: str, data: dict[str, Any]) -> str:
        """A block document of a type that the server knows by itself, such as aws-credentials or secret; its id."""
        block_type = await self.get(f"/block_types/slug/{type_slug}")
        schemas = await self.post(
            "/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [block_type["id"]]}}}
        )
        body = {
            "name": name,
            "data": data,
            "block_type_id": block_type["id"],
            "block_schema_id": schemas[0]["id"],
        }
        block: str = (await self.post("/block_documents/", body))["id"]
        return block

    async def create_variable(self, name: str, value: Any) -> None:
        await self.post("/variables/", {"name": name, "value": value})

    # -- what users and containers do to runs

    async def set_state(
        self, run_id: str | UUID, state_type: str, *, name: str | None = None, force: bool = False, **details: Any
    ) -> dict[str, Any]:
        """Propose a state; the server's whole answer."""
        state = {"type": state_type, "name": name or state_type.title(), "state_details": details}
        answer: dict[str, Any] = await self.post(f"/flow_runs/{run_id}/set_state", {"state": state, "force": force})
        return answer

    async def cancel(self, run_id: str | UUID) -> dict[str, Any]:
        """Cancel as the UI does."""
        return await self.set_state(run_id, "CANCELLING")

    # -- what came of it

    async def read_run(self, run_id: str | UUID) -> dict[str, Any]:
        run: dict[str, Any] = await self.get(f"/flow_runs/{run_id}")
        return run

    async def runs(self, pool: str) -> list[dict[str, Any]]:
        """All runs of a pool."""
        found: list[dict[str, Any]] = []
        while True:
            body = {
                "work_pools": {"name": {"any_": [pool]}},
                "sort": "EXPECTED_START_TIME_ASC",
                "limit": 200,
                "offset": len(found),
            }
            page = await self.post("/flow_runs/filter", body)
            found += page
            if len(page) < 200:
                return found

    async def states(self, run_id: str | UUID) -> list[dict[str, Any]]:
        """The run's states, oldest first."""
        states: list[dict[str, Any]] = await self.get("/flow_run_states/", flow_run_id=str(run_id))
        return sorted(states, key=lambda state: datetime.fromisoformat(state["timestamp"]))

    async def logs(self, run_id: str | UUID) -> list[dict[str, Any]]:
        """The run's log lines by time."""
        found: list[dict[str, Any]] = []
        while True:
            body = {
                "logs": {"flow_run_id": {"any_": [str(run_id)]}},
                "sort": "TIMESTAMP_ASC",
                "limit": 200,
                "offset": len(found),
            }
            page = await self.post("/logs/filter", body)
            found += page
            if len(page) < 200:
                return found

    async def wait_for_state(self, run_id: str | UUID, *types: str, seconds: float = 60) -> dict[str, Any]:
        """The run, once its state is of one of the types."""
        last: dict[str, Any] = {}

        async def reached() -> bool:
            nonlocal last
            last = await self.read_run(run_id)
            return last["state_type"] in types

        await until(reached, seconds, told=lambda: f"the run is not {' or '.join(types)}, but: {last.get('state')}")
        return last
