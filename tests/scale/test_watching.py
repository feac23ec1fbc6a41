"""Ten thousand tasks start, run and stop under one worker, with 5 % of AWS's answers failing."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import anyio
import pytest

from ecs_worker.model import AwsTarget, Phase, Placement, TaskFacts
from ecs_worker.settings import PrefectSettings, WorkerSettings
from ecs_worker.worker import Worker
from support.builders import claimed_run, run_in
from support.outside import POOL
from support.simulator import Call, TaskScript, What, fault
from support.simulator.helpers import DEFINITION, run_task
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ecs_worker.lifecycle.run.run import Run
    from support.outside import Outside
    from support.servers.canned import CannedApi
    from support.simulator.aws import AwsSimulator

T = TypeVar("T")

TASKS = 10_000
UNTOLD = 1_000  # of them die without a word; the others' flows have told their ends themselves
MOST_BYTES = 4096  # for one watched run
BUDGET = 10.0  # DescribeTasks calls a second: half of what ECS allows an account
BURST = 20  # calls saved up from quiet moments
WATCHING = 10.0  # seconds of mere watching
FAULTS = (What.THROTTLE, What.SERVER_ERROR, What.LOST_BEFORE, What.LOST_AFTER, What.TRUNCATED)


@pytest.mark.anyio
async def test_every_end_is_told_once_and_the_budget_is_kept(
    outside: Outside, record_property: Callable[[str, object], None]
) -> None:
    settings = WorkerSettings(pool=POOL, name="watcher", prefetch_seconds=0, report_grace_seconds=1)
    worker = Worker(settings, PrefectSettings(api_url=outside.api.url))
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await until(lambda: has_looked_around(outside.api), 20)
        # The worker knows them as if it had just launched them. To launch so many takes AWS four minutes.
        assert worker.parts is not None
        ledger = worker.parts.ledger
        for run_id, arn in await in_its_thread(outside, launch_fleet):
            ledger.take(launched(run_id, arn))
        outside.portal.call(outside.aws.fault, fault(*FAULTS, probability=0.05))
        began = time.monotonic()
        calls = outside.aws.calls

        await until(lambda: all(run.phase is Phase.RUNNING for run in ledger), 60)
        size = deep_size(ledger) / TASKS
        record_property("bytes_per_run", round(size))

        cpu, watched = time.thread_time(), len(calls)
        await anyio.sleep(WATCHING)  # not for an event: what watching costs
        cores = (time.thread_time() - cpu) / WATCHING
        record_property("cores_watching", round(cores, 3))
        record_property("calls_per_second_watching", (len(calls) - watched) / WATCHING)

        untold = await in_its_thread(outside, stop_fleet)
        await until(lambda: not len(ledger), 90)
        seconds = time.monotonic() - began
        worker.stopping.set()

    told = {run: number for (run, state), number in outside.api.told.items() if state == "CRASHED"}
    assert told == dict.fromkeys(untold, 1)
    assert outside.api.in_state("COMPLETED") == TASKS - UNTOLD
    asked = outside.aws.director.count("DescribeTasks")
    assert asked <= BUDGET * seconds + BURST
    assert outside.aws.director.struck().total() > 0.02 * asked  # it was no fair weather
    assert size <= MOST_BYTES
    figures = f"{size:.0f} bytes a run, {cores:.2f} cores watching, {asked / seconds:.1f} DescribeTasks/s"
    print(f"{figures}, {seconds:.0f} s")  # noqa: T201 - for `pytest -s`


def has_looked_around(api: CannedApi) -> bool:
    """The worker has polled, and looked for orphans, as it does at the start."""
    asked = {name for _, name in api.calls}
    return {"POST /work_pools/{name}/get_scheduled_flow_runs", "POST /flow_runs/filter"} <= asked


async def launch_fleet(aws: AwsSimulator, api: CannedApi) -> list[tuple[str, str]]:
    """Tasks that start within some seconds, and their runs; as run id and task ARN."""
    aws.ecs.scripts.default = TaskScript(provisioning=4, pending=2, activating=2, running=None, stopping=3)
    registered = aws.ecs.definitions.actions["RegisterTaskDefinition"]({**DEFINITION}, no_call())
    assert not isinstance(registered, dict)
    await registered
    aws.logs.create_group("flows")
    fleet = []
    for _ in range(TASKS):
        run_id = api.add_run("RUNNING")
        aws.ecs.actions["RunTask"](run_task(startedBy=f"prefect/{run_id}/{uuid4()}"), no_call())
        fleet.append((run_id, aws.launched[-1].arn))
        api.runs[run_id]["infrastructure_pid"] = f"default::{fleet[-1][1]}"
    return fleet


async def stop_fleet(aws: AwsSimulator, api: CannedApi) -> list[str]:
    """All tasks end. The runs that say nothing of it."""
    runs = list(api.runs)
    for run_id in runs[UNTOLD:]:
        api.runs[run_id] |= {"state_type": "COMPLETED", "state_name": "Completed"}
        api.runs[run_id]["state"] |= {"type": "COMPLETED", "name": "Completed"}
    for number, task in enumerate(aws.launched):
        code = 1 if number < UNTOLD else 0
        aws.ecs.fleet.stop(task, "EssentialContainerExited", "Essential container in task exited", code)
    return runs[:UNTOLD]


def launched(run_id: str, arn: str) -> Run:
    """The run as it is held after its launch."""
    claim = claimed_run(
        run_id,
        name=f"run-{run_id[:8]}",
        deployment_id=uuid4(),
        job_variables={"image": f"flows:{run_id[:8]}"},
        tags=("scale",),
    )
    where = Placement(AwsTarget(region="us-east-1"), "default", container="prefect")
    return run_in(Phase.STARTING, claim=claim, where=where, task=TaskFacts(arn=arn))


def deep_size(root: Iterable[Run]) -> int:
    """Bytes of all that is reached from the held runs only: what is shared counts once."""
    seen: set[int] = set()
    waiting: list[Any] = list(root)
    size = 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType | BuiltinFunctionType):
            continue
        seen.add(id(one))
        size += sys.getsizeof(one)
        waiting += gc.get_referents(one)
    return size


def no_call() -> Call:
    """For actions that are done on the spot, without a request."""
    return Call(0, "", 1, "test", "", 0.0)


async def in_its_thread(outside: Outside, what: Callable[[AwsSimulator, CannedApi], Awaitable[T]]) -> T:
    """Done where AWS and the API live, while the worker goes on."""
    future = outside.portal.start_task_soon(what, outside.aws, outside.api)
    return await asyncio.wrap_future(future)
