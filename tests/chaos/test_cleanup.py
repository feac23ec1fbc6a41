"""Clean-up messages: the server gives up on a cancellation, and the task is stopped all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.arena import Arena
from support.servers.shared import shared_prefect
from support.simulator import FlowScript, TaskScript, What, fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from support.servers.prefect import PrefectServer
    from support.simulator.fleet import Task

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("cleanup")]  # one process, as the server is its own

IMPATIENT = {"PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS": "0.5"}
STUBBORN = TaskScript(running=None, flow=FlowScript(seconds=600, heeds_cancel=False))
GIVEN_UP = "Flow run cancellation timed out; marked this flow run as Cancelled."  # the server's words


@pytest.fixture
def impatient(session_directory: Path) -> Iterator[PrefectServer]:
    """A Prefect 3 server that waits half a second for cancellations instead of five minutes."""
    with shared_prefect(session_directory, "3", "impatient", env=IMPATIENT) as server:
        yield server


@pytest.fixture
async def arena(impatient: PrefectServer, tmp_path: Path) -> AsyncIterator[Arena]:
    """Its tasks don't end by themselves, and its workers would let them go on for long."""
    async with Arena(impatient, tmp_path) as arena:
        arena.aws.ecs.scripts.default = STUBBORN
        yield arena


def worker(arena: Arena, name: str) -> None:
    arena.worker(name, ECS_WORKER_CANCEL_GRACE_SECONDS="600")


async def given_up(arena: Arena, run: str) -> None:
    await arena.admin.cancel(run)
    assert (await arena.ends(run, "CANCELLED"))["state"]["message"] == GIVEN_UP


async def stopped(arena: Arena, task: Task) -> None:
    async def is_stopped() -> bool:
        return task.status == "STOPPED"

    await arena.until(is_stopped)


async def is_cleaned_up(arena: Arena, run: str, task: Task) -> None:
    """The task was stopped for the run's sake, and the run's state was left alone."""
    await stopped(arena, task)
    assert task.document["stopCode"] == "UserInitiated"
    assert task.document["stoppedReason"] == f"Prefect flow run {run}: Its cancellation took too long."
    assert (await arena.admin.states(run))[-1]["message"] == GIVEN_UP
    assert len(arena.tasks_of(run)) == 1


async def running(arena: Arena, run: str) -> Task:
    """The run's task, once its worker knows that it runs: only then a cancelled run gets time."""
    task = await arena.task_of(run)

    async def known() -> bool:
        return f"{task.id} is RUNNING" in arena.outputs()

    await arena.until(known)
    return task


async def orphan(arena: Arena, run: str) -> Task:
    """The run's task; its worker has died."""
    victim = arena.worker("victim")
    await arena.admin.wait_for_state(run, "RUNNING")
    await victim.kill()
    return await arena.task_of(run)


async def pool_template(arena: Arena) -> dict[str, Any]:
    pool = await arena.admin.get(f"/work_pools/{arena.pool}")
    template: dict[str, Any] = pool["base_job_template"]
    return template


async def set_pool_template(arena: Arena, template: dict[str, Any]) -> None:
    await arena.admin.call("PATCH", f"/work_pools/{arena.pool}", json={"base_job_template": template})


async def test_a_held_runs_task_is_stopped(arena: Arena) -> None:
    worker(arena, "worker")
    run = await arena.run()
    task = await running(arena, run)
    await given_up(arena, run)
    await is_cleaned_up(arena, run, task)


async def test_the_task_of_a_dead_workers_run_is_stopped(arena: Arena) -> None:
    run = await arena.run()
    task = await orphan(arena, run)
    await given_up(arena, run)
    worker(arena, "survivor")
    await is_cleaned_up(arena, run, task)


async def test_it_is_stopped_with_the_jobs_own_credentials(arena: Arena) -> None:
    arena.aws.accounts["AKIDELSEWHERE"] = "999999999999"
    elsewhere = arena.aws.site("eu-west-1", "999999999999")
    elsewhere.ecs.scripts.default = STUBBORN
    block = await arena.admin.create_block(
        "aws-credentials",
        arena.pool,
        {"aws_access_key_id": "AKIDELSEWHERE", "aws_secret_access_key": "s3cret", "region_name": "eu-west-1"},
    )
    template = await pool_template(arena)
    credentials = template["variables"]["properties"]["aws_credentials"]
    credentials["default"] = {"$ref": {"block_document_id": block}}
    await set_pool_template(arena, template)
    run = await arena.run()
    task = await orphan(arena, run)
    assert task.arn.startswith("arn:aws:ecs:eu-west-1:999999999999:task/")
    await given_up(arena, run)
    worker(arena, "survivor")
    await is_cleaned_up(arena, run, task)
    assert "s3cret" not in arena.outputs()


async def test_a_task_whose_name_was_never_written_is_stopped(arena: Arena) -> None:
    arena.aws.ecs.scripts.default = TaskScript(running=None)
    arena.aws.fault(fault(What.HANG_AFTER, action="RunTask", delay=600))
    run = await arena.run()
    victim = arena.worker("victim")
    task = await arena.task_of(run)
    await victim.kill()
    await given_up(arena, run)
    assert (await arena.admin.read_run(run))["infrastructure_pid"] is None
    worker(arena, "survivor")
    await is_cleaned_up(arena, run, task)


async def test_the_task_of_a_deleted_run_is_stopped(arena: Arena) -> None:
    run = await arena.run()
    task = await orphan(arena, run)
    await given_up(arena, run)
    await arena.admin.call("DELETE", f"/flow_runs/{run}")
    worker(arena, "survivor")
    await stopped(arena, task)
    assert run in task.document["stoppedReason"]


async def test_a_throttled_stop_is_repeated(arena: Arena) -> None:
    run = await arena.run()
    task = await orphan(arena, run)
    await given_up(arena, run)
    arena.aws.fault(fault(What.THROTTLE, action="StopTask", nth=(1, 2, 3, 4, 5, 6)))  # more than the SDK repeats
    worker(arena, "survivor")
    await is_cleaned_up(arena, run, task)
    assert "could not be stopped" not in arena.outputs()


@pytest.mark.parametrize(
    ("pid", "said"),
    [
        ("default::arn:aws:ecs:us-east-1:123456789012:task/default/0123456789abcdef", "does not know task"),
        ("nowhere::arn:aws:ecs:us-east-1:123456789012:task/nowhere/0123456789abcdef", "does not know task"),
        ("a-container-of-another-kind-of-worker", "is no ECS task"),
    ],
    ids=["no-task", "no-cluster", "no-arn"],
)
async def test_what_does_not_exist_keeps_nobody_busy(arena: Arena, pid: str, said: str) -> None:
    run = await arena.run()
    await arena.admin.set_state(run, "PENDING")
    await arena.admin.call("PATCH", f"/flow_runs/{run}", json={"infrastructure_pid": pid})
    await given_up(arena, run)
    worker(arena, "worker")

    async def told() -> bool:
        return said in arena.outputs()

    await arena.until(told)
    # The next order is obeyed as well.
    other = await arena.run()
    task = await running(arena, other)
    await given_up(arena, other)
    await is_cleaned_up(arena, other, task)
    # An unknown task counts as stopped; the server gives the others out again, three times in all.
    assert arena.outputs().count(said) == (1 if said == "does not know task" else 3)


async def test_a_run_that_was_started_anew_is_left_alone(arena: Arena) -> None:
    run = await arena.run()
    await arena.admin.set_state(run, "PENDING")
    await given_up(arena, run)  # nothing was launched yet
    await arena.admin.set_state(run, "SCHEDULED", force=True)
    arena.aws.ecs.scripts.default = TaskScript(flow=FlowScript(seconds=5))
    worker(arena, "worker")

    async def told() -> bool:
        return "there is nothing to clean up" in arena.outputs()

    await arena.until(told)
    await arena.ends(run, "COMPLETED")
    assert len(arena.tasks_of(run)) == 1


async def test_the_pools_template_takes_effect_at_once(arena: Arena) -> None:
    arena.aws.ecs.scripts.default = TaskScript(flow=FlowScript())
    arena.worker("worker", ECS_WORKER_HEARTBEAT_SECONDS="600")
    first = await arena.run()
    await arena.ends(first, "COMPLETED")
    template = await pool_template(arena)
    template["variables"]["properties"]["memory"]["default"] = 4096
    await set_pool_template(arena, template)

    async def taken_up() -> bool:
        run = await arena.run()
        await arena.ends(run, "COMPLETED")
        task = await arena.task_of(run)
        return str(task.document["memory"]) == "4096"

    assert (await arena.task_of(first)).document["memory"] != "4096"
    await arena.until(taken_up)
