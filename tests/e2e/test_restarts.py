"""The worker ends, politely or not, and another takes over."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from support.simulator.chaos_proxy import ChaosProxy
from support.simulator.faults import Phase, Point, What, fault
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.world import World

pytestmark = pytest.mark.anyio
OURS = "ecs-worker/*"


@pytest.fixture
async def prefect_proxy(world: World) -> AsyncIterator[ChaosProxy]:
    """Between the worker and the Prefect server."""
    async with ChaosProxy(world.server.url.removesuffix("/api")) as proxy:
        yield proxy


@pytest.fixture
async def aws_proxy(world: World) -> AsyncIterator[ChaosProxy]:
    """Between the worker and AWS; RunTask is the request that holds a clientToken."""
    async with ChaosProxy(world.aws_url, api_path="") as proxy:
        yield proxy


async def test_polite_end_leaves_tasks_to_the_next_worker(world: World) -> None:
    async with world.worker(name="first", whole=True) as first:
        gate = world.gate()
        run_id = await world.run("RUNNING", f"wait={gate}", "exit=9")
        await world.admin.wait_for_state(run_id, "RUNNING")
        assert await first.stop() == 0
    assert (await world.task_of(run_id))["lastStatus"] == "RUNNING"
    gate.touch()
    async with world.worker(name="second") as second:
        run = await world.admin.wait_for_state(run_id, "CRASHED")
        assert "9" in run["state"]["message"]
        assert await second.stop() == 0
    await world.task_of(run_id)  # the one


async def test_interrupt_is_a_polite_end_too(world: World) -> None:
    async with world.worker(whole=True) as process:
        await process.wait_for_output("takes flow runs")
        assert await process.stop(signal.SIGINT) == 0
    assert "Traceback" not in process.output


async def test_a_signal_ends_a_start_that_waits(world: World, prefect_proxy: ChaosProxy) -> None:
    prefect_proxy.fault(fault(What.LATENCY, delay=60.0))
    async with world.worker(api_url=prefect_proxy.api_url, whole=True) as process:
        await process.wait_for_output("The start waits for the Prefect API")
        assert await process.stop(signal.SIGTERM) == 0
    assert "stopped before it took any flow run" in process.output


async def test_same_name_takes_its_own_runs_up_again(either_world: World) -> None:
    """As an ECS service restarts it. Its runs may have ended meanwhile."""
    world = either_world
    async with world.worker() as first:
        gates = world.gate(), world.gate()
        ended = await world.run("RUNNING", f"wait={gates[0]}", "exit=9")
        going = await world.run("RUNNING", f"wait={gates[1]}", "exit=8")
        await world.all_are([ended, going], "RUNNING")
        assert await first.stop(signal.SIGKILL) == -signal.SIGKILL
    gates[0].touch()
    await world.wait_for_task(ended, "STOPPED")
    async with world.worker():
        assert "9" in (await world.admin.wait_for_state(ended, "CRASHED"))["state"]["message"]
        gates[1].touch()
        assert "8" in (await world.admin.wait_for_state(going, "CRASHED"))["state"]["message"]
    assert set((await world.launches()).values()) == {1}


async def test_open_launches_are_finished_before_a_polite_end(world: World, aws_proxy: ChaosProxy) -> None:
    aws_proxy.fault(fault(What.LATENCY, containing="clientToken", delay=3.0))
    async with world.worker(aws_url=aws_proxy.url) as process:
        run_id = await world.run("RUNNING", "COMPLETED")

        async def asked() -> bool:
            return any("clientToken" in call.text for call in aws_proxy.calls)

        await until(asked)
        assert await process.stop() == 0
    task = await world.task_of(run_id)
    assert (await world.admin.read_run(run_id))["infrastructure_pid"].endswith(task["taskArn"])


async def test_second_signal_ends_it_at_once(world: World, aws_proxy: ChaosProxy) -> None:
    """A launch that hangs would be waited for. The next worker finds its task all the same."""
    aws_proxy.fault(fault(What.HANG_AFTER, containing="clientToken"))
    async with world.worker(aws_url=aws_proxy.url) as process:
        run_id = await world.run("RUNNING", "COMPLETED")
        await world.wait_for_task(run_id)
        process.send(signal.SIGTERM)
        await process.wait_for_output("open launches are finished")
        assert process.running
        process.send(signal.SIGTERM)
        assert await process.wait(5) == 128 + signal.SIGTERM
    assert "Traceback" not in process.output


async def test_killed_at_three_points_of_the_launch(
    world: World, aws_proxy: ChaosProxy, prefect_proxy: ChaosProxy
) -> None:
    """Another worker finds what there is by the claim, and launches what there is not, each once."""
    containers = {"env": {"PREFECT_API_URL": world.server.url}}  # go past the proxy
    gates = world.gate(), world.gate()
    unanswered = await world.run(f"wait={gates[0]}", "exit=6", **containers)
    aws_proxy.fault(fault(What.HANG_AFTER, containing=unanswered))
    writing = prefect_proxy.pause_at(Point("PATCH /flow_runs/{id}", Phase.BEFORE, caller=OURS))
    reading = prefect_proxy.pause_at(Point("GET /deployments/{id}", Phase.BEFORE, occurrence=3, caller=OURS))
    async with world.worker(name="first", aws_url=aws_proxy.url, api_url=prefect_proxy.api_url) as first:
        await world.wait_for_task(unanswered)
        unwritten = await world.run(f"wait={gates[1]}", "exit=6", **containers)
        await writing.wait(30)
        unlaunched = await world.run("RUNNING", "COMPLETED", **containers)
        await reading.wait(30)
        await first.stop(signal.SIGKILL)
        writing.drop()
        reading.drop()
    assert set(await world.launches()) == {unanswered, unwritten}
    for run_id in (unanswered, unwritten, unlaunched):
        run = await world.admin.read_run(run_id)
        assert (run["state_type"], run["infrastructure_pid"]) == ("PENDING", None)
    gates[0].touch()
    async with world.worker(name="second"):

        async def found() -> bool:
            return (await world.admin.read_run(unwritten))["infrastructure_pid"] is not None

        await until(found)
        gates[1].touch()
        for run_id in (unanswered, unwritten):
            run = await world.admin.wait_for_state(run_id, "CRASHED", seconds=90)
            assert "6" in run["state"]["message"]
            await world.task_of(run_id)  # the one
        assert run["infrastructure_pid"] == f"{world.pool}::{(await world.task_of(unwritten))['taskArn']}"
        await world.admin.wait_for_state(unlaunched, "COMPLETED", seconds=90)
    (claim,) = [state for state in await world.admin.states(unlaunched) if state["type"] == "PENDING"]
    assert (await world.task_of(unlaunched))["startedBy"].endswith(claim["state_details"]["transition_id"])
