"""Who takes which runs, and how many: limits, pools, queues, and several workers."""

from __future__ import annotations

from collections import Counter

import pytest

from support.waiting import until
from support.world import World, most_at_once, run_of

pytestmark = pytest.mark.anyio


async def test_limit_counts_tasks_until_they_have_stopped(either_world: World) -> None:
    """The runs are Completed a second before their containers end: it is the tasks that count."""
    world = either_world
    deployment = await world.deploy("RUNNING", "COMPLETED", "sleep=1")
    runs = await world.admin.create_runs(deployment, 6)
    async with world.worker("--limit", "2"):
        await world.all_are(runs, "COMPLETED")
        for run_id in runs:
            await world.wait_for_task(run_id, "STOPPED")
    tasks = await world.tasks()
    assert Counter(map(run_of, tasks)) == Counter(runs)
    assert most_at_once(tasks) == 2


async def test_limit_does_not_hold_runs_back_in_pending(world: World) -> None:
    """What there is no slot for stays Scheduled, for other workers."""
    gate = world.gate()
    deployment = await world.deploy("RUNNING", f"wait={gate}", "COMPLETED")
    runs = await world.admin.create_runs(deployment, 3)
    async with world.worker("--limit", "1"):
        first = await world.admin.wait_for_state(runs[0], "RUNNING")
        assert first["state_type"] == "RUNNING"
        assert {(await world.admin.read_run(run_id))["state_type"] for run_id in runs[1:]} == {"SCHEDULED"}
    gate.touch()


async def test_each_worker_takes_its_own_pool_only(world: World) -> None:
    other = World(world.admin, world.aws_url, world.ecs, world.directory)
    await other.open()
    async with world.worker(name="one"), other.worker(name="two"):
        here = await world.admin.create_runs(await world.deploy("RUNNING", "COMPLETED"), 3)
        there = await other.admin.create_runs(await other.deploy("RUNNING", "COMPLETED"), 3)
        await world.all_are([*here, *there], "COMPLETED")
    assert set(await world.launches()) == set(here)
    assert set(await other.launches()) == set(there)


@pytest.mark.timeout(400)
async def test_two_workers_launch_each_of_40_runs_once(either_world: World) -> None:
    world = either_world
    await world.pause()
    runs = await world.admin.create_runs(await world.deploy("RUNNING", "sleep=5", "COMPLETED"), 40)
    async with world.worker(name="one", whole=True) as one, world.worker(name="two") as two:
        for each in (one, two):
            await each.wait_for_output("takes flow runs")
        await world.resume()
        await world.all_are(runs, "COMPLETED", seconds=240)
        assert await one.stop() == 0
        assert await two.stop() == 0
    tasks = await world.tasks()
    assert Counter(map(run_of, tasks)) == Counter(runs)
    assert len({task["startedBy"] for task in tasks}) == 40
    tags = Counter(tag["value"] for task in tasks for tag in task["tags"] if tag["key"] == "prefect.io/worker-name")
    assert set(tags) == {"one", "two"}, f"One worker had no part in the race: {tags}"


async def test_only_the_named_queues_are_served(world: World) -> None:
    for name in ("night", "day", "never"):
        await world.admin.post(f"/work_pools/{world.pool}/queues", {"name": name})
    runs = {}
    for name in ("never", "night", "day"):
        deployment = await world.deploy("RUNNING", "COMPLETED", work_queue_name=name)
        runs[name] = await world.admin.create_run(deployment)
    async with world.worker("--work-queue", "night", "-q", "day"):
        await world.all_are([runs["night"], runs["day"]], "COMPLETED")
        later = await world.admin.create_run(deployment)  # day
        await world.all_are([later], "COMPLETED")
    assert (await world.admin.read_run(runs["never"]))["state_type"] == "SCHEDULED"


async def test_a_missing_queue_holds_the_others_up_neither_now_nor_when_it_appears(world: World) -> None:
    await world.admin.post(f"/work_pools/{world.pool}/queues", {"name": "day"})
    of_day = await world.admin.create_run(await world.deploy("RUNNING", "COMPLETED", work_queue_name="day"))
    async with world.worker("-q", "day", "-q", "night") as process:
        await process.wait_for_output(f"The work pool {world.pool} has no work queue night")
        await world.all_are([of_day], "COMPLETED")
        await world.admin.post(f"/work_pools/{world.pool}/queues", {"name": "night"})
        of_night = await world.admin.create_run(await world.deploy("RUNNING", "COMPLETED", work_queue_name="night"))
        await world.all_are([of_night], "COMPLETED")
    assert process.output.count("has no work queue night") == 1


async def test_run_once_serves_the_queues_that_are_there(world: World) -> None:
    await world.admin.post(f"/work_pools/{world.pool}/queues", {"name": "day"})
    of_day = await world.admin.create_run(await world.deploy("RUNNING", "COMPLETED", work_queue_name="day"))
    async with world.worker("--run-once", "-q", "day", "-q", "nihgt") as process:
        assert await process.wait(60) == 0
    await world.all_are([of_day], "COMPLETED", seconds=0.5)
    assert "has no work queue nihgt" in process.output
    async with world.worker("--run-once", "-q", "nihgt", name="second") as process:
        assert await process.wait(60) == 2
    *_, sentence = process.output.splitlines()
    assert sentence == f"ecs-worker: The work pool {world.pool} has no work queue nihgt: create or correct it."


async def test_run_once_takes_what_is_due_and_exits_when_it_has_ended(world: World) -> None:
    runs = await world.admin.create_runs(await world.deploy("RUNNING", "sleep=1", "COMPLETED"), 3)
    async with world.worker("--run-once") as process:
        assert await process.wait(60) == 0
    await world.all_are(runs, "COMPLETED", seconds=0.5)
    assert {task["lastStatus"] for task in await world.tasks()} == {"STOPPED"}


async def test_run_once_without_runs_exits(world: World) -> None:
    async with world.worker("--run-once") as process:
        assert await process.wait(60) == 0


async def test_paused_pool_launches_nothing_until_it_goes_on(world: World) -> None:
    await world.pause()
    run_id = await world.run("RUNNING", "COMPLETED")
    async with world.worker("--log-level", "debug") as process:
        await process.wait_for_output("takes flow runs")

        async def beaten() -> bool:
            workers = await world.admin.post(f"/work_pools/{world.pool}/workers/filter", {})
            return bool(workers)

        await until(beaten)
        assert (await world.admin.read_run(run_id))["state_type"] == "SCHEDULED"
        await world.resume()
        await world.admin.wait_for_state(run_id, "COMPLETED")
