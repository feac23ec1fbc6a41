"""The embedded AWS, running: moto's WSGI application behind a counter of AWS calls and the locks that moto lacks."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import tempfile
import threading
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import moto.ecs.models
import moto.ecs.urls
from moto.core.request import Request
from moto.core.routing import get_service_router
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server, select_address_family

from ecs_worker.errors import UserError
from ecs_worker.local import ec2, permissions, registry, stacks
from ecs_worker.local.account import LOGS_LOCK
from ecs_worker.local.ecs import EcsBackend
from ecs_worker.local.responses import EcsResponse
from ecs_worker.local.tasks import STATE_LOCK, Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

STATS_PATH = "/__ecs_worker/stats"
RESET_PATH = "/__ecs_worker/reset"
_FORM = "application/x-www-form-urlencoded"
# CloudFormation makes ECS and CloudWatch resources itself.
_LOCKS: Mapping[str, tuple[threading.RLock, ...]] = {
    "ecs": (STATE_LOCK,),
    "logs": (LOGS_LOCK,),
    "cloudformation": (STATE_LOCK, LOGS_LOCK),
}


class Calls:
    """Counts the AWS calls received, by action and by the caller's user agent.

    `file`: each call is appended to it as a JSON line with `action`, `user_agent` and `time`.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, action: str, user_agent: str) -> None:
        """Count a call."""
        with self._lock:
            self._counts[action, user_agent] += 1
            if self._file:
                line = {"action": action, "user_agent": user_agent, "time": datetime.now(UTC).isoformat()}
                with self._file.open("a") as lines:
                    lines.write(json.dumps(line) + "\n")

    def reset(self) -> None:
        """Count from zero again."""
        with self._lock:
            self._counts.clear()

    def document(self) -> dict[str, Any]:
        """`calls`: how many of each action; `user_agents`: the same, by user agent."""
        with self._lock:
            counts = sorted(self._counts.items())
        calls: Counter[str] = Counter()
        agents: dict[str, dict[str, int]] = {}
        for (action, agent), count in counts:
            calls[action] += count
            agents.setdefault(agent, {})[action] = count
        return {"calls": dict(calls), "user_agents": agents}


class Application:
    """Counts each request, takes its service's locks, and lets moto answer."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request (WSGI)."""
        if "HTTP_ORIGIN" in environ:
            # Only browsers send this header. A web page must not be able to start processes here.
            return _answer(start_response, {"message": "Not from a browser."}, "403 Forbidden")
        path = environ.get("PATH_INFO", "")
        if path == STATS_PATH:
            return _answer(start_response, self._calls.document())
        if path == RESET_PATH and environ["REQUEST_METHOD"] == "POST":
            self._calls.reset()
            return _answer(start_response, {})
        if path.startswith(registry.LAYERS_PATH):
            return _content(start_response, registry.layer(path))
        service = _service(environ)
        if service:
            self._calls.add(f"{service}:{_action(service, environ)}", environ.get("HTTP_USER_AGENT", ""))
        with contextlib.ExitStack() as held:
            for lock in _LOCKS.get(service, ()):
                held.enter_context(lock)
            if service == "cloudformation":
                stacks.settle_all()
            answer: Iterable[bytes] = self._moto(environ, start_response)
            return answer


def _answer(start_response: Callable[..., Any], document: Mapping[str, Any], status: str = "200 OK") -> list[bytes]:
    body = json.dumps(document).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _content(start_response: Callable[..., Any], content: bytes | None) -> list[bytes]:
    if content is None:
        return _answer(start_response, {"message": "There is nothing here."}, "404 Not Found")
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(content)))])
    return [content]


def _service(environ: Mapping[str, Any]) -> str:
    """The service that a signed request is for, by its signature's scope; '' for others (moto's own pages)."""
    _, _, scope = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")
    parts = scope.partition(",")[0].split("/")
    return parts[3] if len(parts) == 5 else ""  # noqa: PLR2004 - key/date/region/service/aws4_request


def _action(service: str, environ: dict[str, Any]) -> str:
    """The API action: from a header (JSON protocols), the form (query protocol), or the method and path (REST)."""
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        return str(target).rpartition(".")[2]
    if environ.get("CONTENT_TYPE", "").startswith(_FORM):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        actions = parse_qs(body.decode("utf-8", "replace")).get("Action")
        if actions:
            return str(actions[0])
    with contextlib.suppress(HTTPException):
        operation, _ = get_service_router(service).match(Request(dict(environ)))
        return str(operation.name)
    return str(environ["REQUEST_METHOD"])


class _Handler(MotoRequestHandler):  # type: ignore[misc]  # moto has no types
    """Keeps connections open, answers without delay, and logs no requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise the client's delayed acknowledgement adds 40 ms to an answer

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


class Server:
    """The HTTP server on `port`, which serves in threads of its own between `start` and `stop`.

    Raises OSError if the address can't be bound.
    """

    def __init__(self, host: str, port: int, calls: Calls) -> None:
        # Bound here: if the port is taken, werkzeug would print that and exit the process.
        family = select_address_family(host, port)
        with socket.create_server((host, port), family=family, backlog=256) as listening:
            self.port: int = listening.getsockname()[1]
            self._server = make_server(
                host, port, Application(calls), threaded=True, request_handler=_Handler, fd=listening.fileno()
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def stop(self) -> None:
        """Accept no more connections. Open ones end with the process."""
        self._server.shutdown()
        self._server.server_close()


@contextlib.asynccontextmanager
async def serving(
    host: str, port: int, *, step: float, retention: float, calls_file: Path | None
) -> AsyncIterator[str]:
    """Serve the embedded AWS at the URL that it gives; then end every container.

    `step` is the Engine's, `retention` the EcsBackend's, `calls_file` that of Calls. Once in a process: it changes moto
    itself. Raises UserError if the address can't be bound.
    """
    try:
        server = Server(host, port, Calls(calls_file))
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0].lower()  # socket.create_server adds the address
        raise UserError(f"{host}:{port} can't be served: {reason}.") from None
    url = f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
    with tempfile.TemporaryDirectory(prefix="ecs-worker-local-", ignore_cleanup_errors=True) as directory:
        engine = Engine(step=step, directory=Path(directory), common_environment=_container_environment(url))
        _extend_moto(engine, retention)
        server.start()
        try:
            yield url
        finally:
            await engine.close()
            await asyncio.to_thread(server.stop)


def _extend_moto(engine: Engine, retention: float) -> None:
    """Make moto use our classes, before its first request: the backends it makes, and what answers ECS's URL."""
    moto.ecs.models.ecs_backends.backend = partial(EcsBackend, engine=engine, retention=retention)
    moto.ecs.urls.url_paths["{0}/$"] = EcsResponse.dispatch
    stacks.extend()
    ec2.extend()
    permissions.extend()
    registry.extend()


def _container_environment(url: str) -> dict[str, str]:
    """What ECS sets in containers, and the way to this AWS instead of the real one."""
    return {
        "AWS_EXECUTION_ENV": "AWS_ECS_FARGATE",
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "embedded",
        "AWS_SECRET_ACCESS_KEY": "embedded",
    }
