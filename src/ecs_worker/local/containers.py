"""Containers as local processes: what one runs, how it starts and ends, and where its output goes.

There are no images (but see `images.py`), so a container here differs from a real one: `python`, `prefect` and
`ecs-worker` are those of the serving environment; files, memory and network are the host's; `HOME` is an empty
directory of its own; a process without a handler for SIGTERM dies from it, which a container's first process does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from ecs_worker.local.images import image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_STOP_TIMEOUT = 30  # seconds between SIGTERM and SIGKILL (API_ContainerDefinition, stopTimeout)
_MAX_EVENT_BYTES = 262_144 - 26  # CloudWatch's limit of an event, less its overhead; Docker's awslogs splits there
_OUTPUT_SECONDS = 1.0  # how long output may go on after the process: one that left its group may hold the pipe open


class CannotStart(Exception):
    """The container's process can't be started. The text is one that a container runtime would give."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How a container is asked whether it is healthy (API_HealthCheck). Times are in seconds."""

    argv: tuple[str, ...]
    interval: float
    timeout: float
    retries: int
    start_period: float


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """What a container runs: its definition, changed by the task's overrides."""

    name: str
    image: str
    essential: bool
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    environment_files: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)  # variable → where its value is kept
    log_driver: str | None = None
    log_options: Mapping[str, str] = field(default_factory=dict)
    stop_timeout: float = DEFAULT_STOP_TIMEOUT
    depends_on: Mapping[str, str] = field(default_factory=dict)  # container → START, COMPLETE, SUCCESS or HEALTHY
    working_directory: str | None = None
    cpu: int = 0
    memory: int | None = None
    memory_reservation: int | None = None
    health_check: HealthCheck | None = None


def plan(definition: Mapping[str, Any], override: Mapping[str, Any]) -> ContainerPlan:
    """Apply a container's override to its definition. An override's command replaces the definition's."""
    logs = definition.get("logConfiguration") or {}
    return ContainerPlan(
        name=definition["name"],
        image=definition["image"],
        essential=definition.get("essential", True),
        argv=image(definition["image"]).argv(definition, override),
        environment=_pairs(definition.get("environment")) | _pairs(override.get("environment")),
        environment_files=tuple(
            item["value"]
            for item in (*(definition.get("environmentFiles") or ()), *(override.get("environmentFiles") or ()))
        ),
        secrets={item["name"]: item["valueFrom"] for item in definition.get("secrets") or ()},
        log_driver=logs.get("logDriver"),
        log_options=logs.get("options") or {},
        stop_timeout=definition.get("stopTimeout") or DEFAULT_STOP_TIMEOUT,
        depends_on={item["containerName"]: item["condition"] for item in definition.get("dependsOn") or ()},
        working_directory=definition.get("workingDirectory"),
        cpu=override.get("cpu") or definition.get("cpu") or 0,
        memory=override.get("memory") or definition.get("memory"),
        memory_reservation=override.get("memoryReservation") or definition.get("memoryReservation"),
        health_check=_health_check(definition.get("healthCheck") or {}),
    )


def _health_check(given: Mapping[str, Any]) -> HealthCheck | None:
    kind, *words = given.get("command") or ("NONE",)
    if kind == "NONE":
        return None
    return HealthCheck(
        argv=("/bin/sh", "-c", *words) if kind == "CMD-SHELL" else tuple(words),
        interval=given.get("interval") or 30,
        timeout=given.get("timeout") or 5,
        retries=given.get("retries") or 3,
        start_period=given.get("startPeriod") or 0,
    )


def _pairs(items: Sequence[Mapping[str, str]] | None) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in items or ()}


def process_environment(own: Mapping[str, str], home: Path) -> dict[str, str]:
    """The whole environment of a container's process: `own`, and the few variables that every process needs.

    Nothing else of the serving process's environment is passed on, as nothing of a host's reaches a container. The
    serving interpreter's directory always comes first in PATH, in place of the image's.
    """
    path = own.get("PATH") or os.environ.get("PATH") or os.defpath
    base = {"HOME": str(home), "TMPDIR": str(home / "tmp"), "LANG": "C.UTF-8", "HOSTNAME": "localhost"}
    return base | dict(own) | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), path])}


class Output(Protocol):
    """Where a container's lines go. Called on the event loop; must not block."""

    def write(self, timestamp: int, lines: Sequence[str]) -> None:
        """Take lines that came at `timestamp` (milliseconds since 1970, never decreasing)."""


class _LineSplitter:
    """Splits a byte stream into the lines that the awslogs driver would send: without line ends, never empty."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) >= _MAX_EVENT_BYTES:
            lines.append(self._rest[:_MAX_EVENT_BYTES])
            self._rest = self._rest[_MAX_EVENT_BYTES:]
        return [piece for line in lines for piece in self._pieces(line)]

    def end(self) -> list[str]:
        rest, self._rest = self._rest, b""
        return self._pieces(rest)

    @staticmethod
    def _pieces(line: bytes) -> list[str]:
        return [
            line[start : start + _MAX_EVENT_BYTES].decode("utf-8", "replace")
            for start in range(0, len(line), _MAX_EVENT_BYTES)
        ]


class _Pump:
    """Passes on what comes through one pipe to one Output, at once."""

    def __init__(self, descriptor: int, output: Output) -> None:
        self._descriptor = descriptor
        self._output = output
        self._lines = _LineSplitter()
        self._loop = asyncio.get_running_loop()
        self._timestamp = 0
        self.ended = asyncio.Event()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        if data:
            self._write(self._lines.feed(data))
        else:
            self.close()

    def _write(self, lines: list[str]) -> None:
        self._timestamp = max(self._timestamp, int(time.time() * 1000))
        if lines:
            self._output.write(self._timestamp, lines)

    def close(self) -> None:
        """Write what is left, and close the pipe. Harmless when repeated."""
        if self.ended.is_set():
            return
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._write(self._lines.end())
        self.ended.set()


class ContainerProcess:
    """A started container. Its process leads a process group, which ends with it, like a PID namespace."""

    def __init__(self, process: asyncio.subprocess.Process, pump: _Pump) -> None:
        self._process = process
        self._pump = pump
        self.ended = asyncio.Event()  # the process has ended and its output is written
        self._code = asyncio.ensure_future(self._wait())

    @classmethod
    async def start(
        cls, argv: Sequence[str], environment: Mapping[str, str], directory: Path, output: Output
    ) -> ContainerProcess:
        """Start `argv` in `directory`. Raises CannotStart with the words of a container runtime."""
        program = executable(argv, environment["PATH"])
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                *argv[1:],
                env=environment,
                cwd=directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,
            )
        except OSError as error:
            os.close(reading)
            raise CannotStart(_exec_failed(argv[0], (error.strerror or str(error)).lower())) from None
        finally:
            os.close(writing)
        return cls(process, _Pump(reading, output))

    async def _wait(self) -> int:
        code = await self._process.wait()
        self.kill()  # what the process left behind ends with its container
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._pump.ended.wait(), _OUTPUT_SECONDS)
        self._pump.close()
        self.ended.set()
        return 128 - code if code < 0 else code

    async def wait(self) -> int:
        """The exit code (128 + n after signal n), once all output is written."""
        return await asyncio.shield(self._code)

    def terminate(self) -> None:
        """SIGTERM to the container's first process only, as a container runtime does."""
        if self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to the whole process group. Nothing once it has ended: its number may then be another group's."""
        if self.ended.is_set():
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


async def passes(check: HealthCheck, environment: Mapping[str, str], directory: Path) -> bool:
    """Whether the container's health check succeeds now, within its time."""
    try:
        process = await asyncio.create_subprocess_exec(
            executable(check.argv, environment["PATH"]),
            *check.argv[1:],
            env=environment,
            cwd=directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except (CannotStart, OSError):
        return False
    try:
        return await asyncio.wait_for(process.wait(), check.timeout) == 0
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def executable(argv: Sequence[str], path: str) -> str:
    """The path of `argv[0]`. Raises CannotStart if it doesn't exist or can't be executed."""
    if not argv:
        # On AWS the image's own command would run. There is no image here.
        raise CannotStart("CannotStartContainerError: Error response from daemon: no command specified")
    found = shutil.which(argv[0], path=path)
    if found:
        return found
    if "/" not in argv[0]:
        raise CannotStart(_exec_failed(argv[0], "executable file not found in $PATH"))
    reason = "permission denied" if Path(argv[0]).exists() else "no such file or directory"
    raise CannotStart(_exec_failed(argv[0], reason))


def _exec_failed(program: str, reason: str) -> str:
    return (
        "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task:"
        " failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process:"
        f' exec: "{program}": {reason}: unknown'
    )


@dataclass(slots=True)
class Container:
    """One container of a task: its plan, and the facts that DescribeTasks shows."""

    plan: ContainerPlan
    arn: str
    last_status: str = "PENDING"
    runtime_id: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    health: str = "UNKNOWN"
    started: asyncio.Event = field(default_factory=asyncio.Event)  # or failed to
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    healthy: asyncio.Event = field(default_factory=asyncio.Event)  # has been so once

    def document(self, task_arn: str, interfaces: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """The container as DescribeTasks shows it, without the members that have no value."""
        members = {
            "containerArn": self.arn,
            "taskArn": task_arn,
            "name": self.plan.name,
            "image": self.plan.image,
            "runtimeId": self.runtime_id,
            "lastStatus": self.last_status,
            "exitCode": self.exit_code,
            "reason": self.reason,
            "networkBindings": [],
            "networkInterfaces": list(interfaces),
            "healthStatus": self.health,
            "cpu": str(self.plan.cpu),
            "memory": None if self.plan.memory is None else str(self.plan.memory),
            "memoryReservation": None if self.plan.memory_reservation is None else str(self.plan.memory_reservation),
        }
        return {name: value for name, value in members.items() if value is not None}


def new_runtime_id(task_id: str) -> str:
    """A container's runtime id, in the form that Fargate uses."""
    return f"{task_id}-{uuid4().int % 10**10:010d}"
