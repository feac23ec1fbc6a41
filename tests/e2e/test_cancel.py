"""Cancelling, in each phase: the task ends, and Cancelled is written once it has."""

from __future__ import annotations

from datetime import datetime

import pytest

from support.world import FLOWS, World

pytestmark = pytest.mark.anyio


async def cancelled_at(world: World, run_id: str) -> datetime:
    last = (await world.admin.states(run_id))[-1]
    assert last["type"] == "CANCELLED"
    return datetime.fromisoformat(last["timestamp"])


async def test_running_flow_cancels_itself(world: World) -> None:
    """Prefect's own process in the container hears of it and gets the time to do so."""
    deployment = await world.deploy(entrypoint="long.py:long", path=str(FLOWS))
    async with world.worker(env={"ECS_WORKER_CANCEL_GRACE_SECONDS": "60"}, whole=True):
        run_id = await world.admin.create_run(deployment)
        await world.admin.wait_for_state(run_id, "RUNNING", seconds=90)
        await world.admin.cancel(run_id)
        await world.admin.wait_for_state(run_id, "CANCELLED", seconds=90)
        task = await world.wait_for_task(run_id, "STOPPED")
    assert task["stopCode"] == "EssentialContainerExited"


async def test_running_container_that_does_not_heed_is_stopped(either_world: World) -> None:
    world = either_world
    async with world.worker() as process:
        run_id = await world.run("RUNNING", "sleep=120")
        await world.admin.wait_for_state(run_id, "RUNNING")
        await world.admin.cancel(run_id)
        await world.admin.wait_for_state(run_id, "CANCELLED")
        assert await process.stop() == 0
    task = await world.task_of(run_id)
    assert task["lastStatus"] == "STOPPED"
    assert task["stopCode"] == "UserInitiated"
    assert run_id in task["stoppedReason"]
    assert await cancelled_at(world, run_id) >= task["stoppedAt"]


async def test_pending_run_is_cancelled_before_its_container_starts(slow_world: World) -> None:
    world = slow_world
    async with world.worker():
        run_id = await world.run("RUNNING", "sleep=120")
        await world.wait_for_task(run_id, "PROVISIONING", "PENDING")
        await world.admin.cancel(run_id)
        await world.admin.wait_for_state(run_id, "CANCELLED")
    task = await world.task_of(run_id)
    assert task["lastStatus"] == "STOPPED"
    assert "startedAt" not in task
    assert await cancelled_at(world, run_id) >= task["stoppedAt"]


async def test_scheduled_run_that_is_cancelled_gets_no_task(world: World) -> None:
    cancelled = await world.run("RUNNING", "COMPLETED")
    await world.admin.cancel(cancelled)
    async with world.worker():
        await world.admin.wait_for_state(await world.run("RUNNING", "COMPLETED"), "COMPLETED")
    assert (await world.admin.read_run(cancelled))["state_type"] == "CANCELLED"
    assert cancelled not in await world.launches()
