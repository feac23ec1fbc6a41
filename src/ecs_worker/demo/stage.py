"""The demo's stage: servers, work pool, deployments, runs, worker.

    set the stage → deploy → trigger → start the worker → look, until all is settled → judge

The demo is a process of its own. It changes its environment, which its children inherit: none of the user's AWS
settings is used, and of the user's Prefect settings only those that go with PREFECT_API_URL.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ecs_worker.aws.session import Aws
from ecs_worker.demo.outcome import PLAN, Outcome, RunView, TriggeredRun, by_run, count_calls, streamed
from ecs_worker.demo.processes import Child, free_port, prefect_server, worker
from ecs_worker.errors import EcsWorkerError, PrefectError, PrefectNotFound, UserError
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.local.server import EmbeddedAws, LocalSettings
from ecs_worker.model import AwsCredentials, AwsTarget, TaskFacts
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.prefect_api.schemas import ProposedState, StateType
from ecs_worker.settings import PrefectSettings, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping

    from ecs_worker.prefect_api.schemas import FlowRun

POOL = "my-ecs-pool"
_OURS = "Made by ecs-worker demo."  # the pool's description; pools of other people are left alone
_ENTRYPOINTS = {"my-flow": "my_flow.py:my_flow", "crashing-flow": "crashing_flow.py:crashing_flow"}
_JOB_VARIABLES = {
    "cpu": 1024,
    "memory": 2048,
    "execution_role_arn": "arn:aws:iam::123456789012:role/my-task-execution-role",
    "configure_cloudwatch_logs": True,
    "stream_output": True,
}
# The demo's own look at ECS goes by this name, and is not counted among the worker's calls.
_SPECTATOR = "ecs-worker-demo-spectator"
_SERVER_SECONDS = 120  # a fresh database is migrated first
_RUNS_SECONDS = 180  # for all runs together; on two cores they take about 30
_OUTPUT_SECONDS = 20  # for the last lines, once all runs have ended
_LOOK_SECONDS = 0.5
_LEAVE_SECONDS = 10


@asynccontextmanager
async def stage(*, with_ui: bool = False) -> AsyncIterator[Stage]:
    """Set the stage, up to where runs can be triggered. Leaving ends all processes and removes all files.

    Raises UserError (the demo extra is missing, PREFECT_API_URL can't be used) or EcsWorkerError.
    """
    _check_extra()
    async with AsyncExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="ecs-worker-demo-", ignore_cleanup_errors=True)
        directory = Path(stack.enter_context(temporary))
        own_server = not os.environ.get("PREFECT_API_URL")
        port = free_port()
        isolate(os.environ, directory, port if own_server else None)
        # The server's start takes longest: the embedded AWS comes up meanwhile.
        server = prefect_server(directory, port, with_ui=with_ui) if own_server else None
        if server is not None:
            await stack.enter_async_context(server)
        calls = directory / "aws-calls.jsonl"
        aws = await stack.enter_async_context(EmbeddedAws(LocalSettings(calls_file=calls)))
        os.environ["AWS_ENDPOINT_URL"] = aws.url
        settings = load(PrefectSettings)
        api = await stack.enter_async_context(PrefectClient(settings))
        await _healthy(api, server, settings.api_url)
        spectator = await stack.enter_async_context(Aws())
        ready = Stage(directory, api, settings.api_url, aws.url, spectator, calls)
        if server is None:
            stack.push_async_callback(ready.cancel_unfinished)
        await ready.make_pool()
        yield ready


def _check_extra() -> None:
    missing = [name for name in ("moto", "prefect", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"The demo needs a Prefect server and the embedded AWS ({' and '.join(missing)} missing): "
            "pip install 'ecs-worker[demo]'."
        )


def isolate(environ: MutableMapping[str, str], directory: Path, port: int | None) -> None:
    """Make an environment the demo's own. `port`: of its own Prefect server; None keeps the user's Prefect settings."""
    foreign = ("AWS_", "ECS_WORKER_", *(() if port is None else ("PREFECT_",)))
    for name in [name for name in environ if name.startswith(foreign)]:
        del environ[name]
    ours = {
        "AWS_ACCESS_KEY_ID": "embedded",
        "AWS_SECRET_ACCESS_KEY": "embedded",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "DO_NOT_TRACK": "1",
    }
    environ.update(ours)
    unproxied = [hosts for hosts in (environ.get("NO_PROXY"), environ.get("no_proxy"), "127.0.0.1,localhost") if hosts]
    environ["NO_PROXY"] = environ["no_proxy"] = ",".join(unproxied)
    if port is not None:
        environ["PREFECT_HOME"] = str(directory / "prefect")
        environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"


async def _healthy(api: PrefectClient, server: Child | None, url: str) -> None:
    """Wait for the demo's own server; the user's is asked once."""
    deadline = time.monotonic() + _SERVER_SECONDS
    while not await api.health():
        if server is None:
            raise UserError(f"No Prefect API answers at PREFECT_API_URL ({url}): start it, or unset the variable.")
        if server.exit_code is not None or time.monotonic() > deadline:
            raise EcsWorkerError(f"The Prefect server does not start. The end of its output:\n{server.last_lines()}")
        await asyncio.sleep(0.1)


def examples() -> Path:
    """Where the example flows are: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    for directory in (package / "examples", package.parents[1] / "examples"):
        if (directory / "my_flow.py").is_file():
            return directory
    raise EcsWorkerError(f"The example flows are missing: neither {package} nor its checkout holds `examples`.")


@dataclass
class Stage:
    """Everything that is up."""

    directory: Path
    api: PrefectClient
    prefect_url: str
    aws_url: str
    spectator: Aws
    calls_file: Path
    runs: tuple[TriggeredRun, ...] = ()

    @property
    def ui_url(self) -> str:
        """The Prefect UI's address, for self-hosted servers."""
        return self.prefect_url.removesuffix("/api")

    # -- what users do

    async def make_pool(self) -> None:
        """Create the work pool. Raises UserError if there is one of that name that is not the demo's."""
        try:
            description = await self.api.transport.get(f"/work_pools/{POOL}", lambda pool: pool["description"])
        except PrefectNotFound:
            await self.api.create_pool(POOL, default_base_job_template(), description=_OURS)
            return
        if description != _OURS:
            raise UserError(
                f"The server at PREFECT_API_URL has a work pool {POOL} that this demo did not make: its worker must "
                "not take that pool's runs. Unset PREFECT_API_URL, and the demo starts a server of its own."
            )

    async def trigger(self) -> None:
        """Deploy the example flows, and trigger the planned runs."""
        deployments = {flow: await self._deploy(flow, entrypoint) for flow, entrypoint in _ENTRYPOINTS.items()}
        for planned in PLAN:
            body = {
                "name": planned.name,
                "state": {"type": "SCHEDULED"},
                "job_variables": dict(planned.job_variables),
            }
            path = f"/deployments/{deployments[planned.flow]}/create_flow_run"
            self.runs = (*self.runs, TriggeredRun(planned, await self.api.transport.post(path, body, _id)))

    async def _deploy(self, flow: str, entrypoint: str) -> UUID:
        flow_id = await self.api.transport.post("/flows/", {"name": flow}, _id)
        body = {
            "name": "demo",
            "flow_id": str(flow_id),
            "work_pool_name": POOL,
            "path": str(examples()),
            "entrypoint": entrypoint,
            "job_variables": _JOB_VARIABLES,
        }
        return await self.api.transport.post("/deployments/", body, _id)

    def worker(self) -> Child:
        """The worker, not started yet."""
        return worker(self.directory, POOL)

    # -- how it goes

    async def follow(self, worker: Child, show: Callable[[tuple[RunView, ...]], None]) -> tuple[RunView, ...]:
        """Look at the runs until all have ended and their output has come, or the worker is gone, or time is up."""
        deadline = time.monotonic() + _RUNS_SECONDS
        while True:
            alive = worker.exit_code is None
            views = await self.look(worker)
            show(views)
            now = time.monotonic()
            if all(view.ended for view in views):
                if all(view.streamed for view in views):
                    return views
                deadline = min(deadline, now + _OUTPUT_SECONDS)
            if now > deadline or not alive:
                return views
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self, worker: Child) -> tuple[RunView, ...]:
        """The triggered runs as they are now: on the server, in ECS, in the worker's output."""
        runs = {run.id: run for run in await self.api.runs(ids=[run.id for run in self.runs])}
        tasks = by_run(await self._tasks())
        lines = streamed(worker.output(), [run.planned.name for run in self.runs])
        return tuple(
            _view(run, runs.get(run.id), tasks.get(str(run.id), ()), lines[run.planned.name]) for run in self.runs
        )

    async def _tasks(self) -> list[TaskFacts]:
        """All tasks of the embedded AWS's default cluster."""
        credentials = AwsCredentials(client_parameters={"config": {"user_agent_extra": _SPECTATOR}})
        ecs = await self.spectator.ecs(AwsTarget(credentials))
        arns = [
            *await ecs.list_tasks("default"),
            *await ecs.list_tasks("default", desired_status="STOPPED"),
        ]
        tasks, _ = await ecs.describe_tasks("default", arns[:100]) if arns else ([], [])
        return tasks

    def outcome(self, views: tuple[RunView, ...], worker: Child) -> Outcome:
        """The outcome, to be judged."""
        lines = self.calls_file.read_text(encoding="utf-8").splitlines() if self.calls_file.exists() else []
        return Outcome(views, count_calls([json.loads(line) for line in lines], without=_SPECTATOR), worker.exit_code)

    async def cancel_unfinished(self) -> None:
        """Leave no run behind on a server that stays: its task is gone with the embedded AWS."""
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                for run in await self.api.runs(ids=[run.id for run in self.runs]) if self.runs else ():
                    if run.state_type is None or not run.state_type.final:
                        state = ProposedState(StateType.CANCELLED, "Cancelled", "The demo has ended.")
                        await self.api.propose_state(run.id, state, force=True)
        except (PrefectError, TimeoutError) as error:
            raise EcsWorkerError(
                f"Runs of the demo may be left in work pool {POOL} at {self.prefect_url}: {error}"
            ) from error


def _id(answer: Any) -> UUID:
    return UUID(answer["id"])


def _view(run: TriggeredRun, found: FlowRun | None, tasks: Iterable[TaskFacts], lines: tuple[str, ...]) -> RunView:
    if found is None:
        return RunView(run.planned, tasks=tuple(tasks), lines=lines)
    state = found.state
    return RunView(
        run.planned,
        state_type=found.state_type or StateType.SCHEDULED,
        state_name=found.state_name,
        message=(state.message if state is not None else None) or "",
        tasks=tuple(tasks),
        lines=lines,
    )
