"""Runs and deployments that users delete under the worker's hands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.simulator.chaos_proxy import ChaosProxy
from support.simulator.faults import Phase, Point

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.world import World

pytestmark = pytest.mark.anyio
CLAIM = "POST /flow_runs/{id}/set_state PENDING"


@pytest.fixture
async def proxy(world: World) -> AsyncIterator[ChaosProxy]:
    """Between the worker and the server: it can hold a request while a user does something."""
    async with ChaosProxy(world.server.url.removesuffix("/api")) as proxy:
        yield proxy


async def _another_run_completes(world: World) -> None:
    run_id = await world.run("RUNNING", "COMPLETED")
    await world.admin.wait_for_state(run_id, "COMPLETED")
    assert set(await world.launches()) == {run_id}


async def test_deployment_deleted_between_poll_and_claim(world: World, proxy: ChaosProxy) -> None:
    """The server deletes a deployment's scheduled runs with it."""
    claim = proxy.pause_at(Point(CLAIM, Phase.BEFORE, caller="ecs-worker/*"))
    deployment = await world.deploy("RUNNING", "COMPLETED")
    await world.admin.create_run(deployment)
    async with world.worker(api_url=proxy.api_url) as process:
        await claim.wait(30)
        await world.admin.call("DELETE", f"/deployments/{deployment}")
        claim.resume()
        await _another_run_completes(world)
        assert await process.stop() == 0


async def test_deployment_deleted_while_rendering(world: World, proxy: ChaosProxy) -> None:
    read = proxy.pause_at(Point("GET /deployments/{id}", Phase.BEFORE, caller="ecs-worker/*"))
    deployment = await world.deploy("RUNNING", "COMPLETED")
    await world.admin.create_run(deployment)
    async with world.worker(api_url=proxy.api_url) as process:
        await read.wait(30)
        await world.admin.call("DELETE", f"/deployments/{deployment}")
        read.resume()
        await _another_run_completes(world)
        assert await process.stop() == 0


async def test_run_deleted_while_rendering(world: World, proxy: ChaosProxy) -> None:
    """Its task is launched before that is known, and then stopped, as nobody wants it."""
    read = proxy.pause_at(Point("GET /deployments/{id}", Phase.BEFORE, caller="ecs-worker/*"))
    run_id = await world.run("sleep=120")
    async with world.worker(api_url=proxy.api_url) as process:
        await read.wait(30)
        await world.admin.call("DELETE", f"/flow_runs/{run_id}")
        read.resume()
        await world.wait_for_task(run_id, "STOPPED")
        await world.admin.wait_for_state(await world.run("RUNNING", "COMPLETED"), "COMPLETED")
        assert await process.stop() == 0


async def test_task_of_a_deleted_run_is_left_to_its_end(world: World) -> None:
    async with world.worker(whole=True) as process:
        gate = world.gate()
        run_id = await world.run("RUNNING", f"wait={gate}", "exit=1")
        await world.admin.wait_for_state(run_id, "RUNNING")
        await world.admin.call("DELETE", f"/flow_runs/{run_id}")
        gate.touch()
        await world.wait_for_task(run_id, "STOPPED")
        await process.wait_for_output("the run is deleted")
        assert await process.stop() == 0
