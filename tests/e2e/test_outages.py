"""The Prefect server is away: before the worker begins, and while tasks run and end."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from support.servers.prefect import Admin, PrefectServer, free_port, prefect_server
from support.servers.worker import WorkerProcess, worker
from support.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("outages")]  # one process, as the servers are its own


@pytest.fixture(scope="module")
def own_server(session_directory: Path) -> Iterator[PrefectServer]:
    """A server that no other test sees go away."""
    with prefect_server("3", session_directory) as server:
        yield server


@pytest.fixture(scope="module")
def nowhere() -> str:
    return f"http://127.0.0.1:{free_port()}/api"


@pytest.fixture(scope="module", autouse=True)
async def hopeless(nowhere: str, aws: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerProcess]:
    """A worker whose server never comes. It begins with the module, since it gives up after a minute only."""
    directory = tmp_path_factory.mktemp("hopeless")
    async with worker(directory, "any", aws_url=aws, env={"PREFECT_API_URL": nowhere}, whole=True) as process:
        yield process


@pytest.fixture
async def own_world(own_server: PrefectServer, aws: str, ecs: Any, tmp_path: Path) -> AsyncIterator[World]:
    async with Admin(own_server) as admin:
        world = World(admin, aws, ecs, tmp_path)
        await world.open()
        yield world


async def test_server_comes_up_after_the_worker(own_world: World) -> None:
    world = own_world
    run_id = await world.run("RUNNING", "COMPLETED")
    world.server.stop()
    async with world.worker() as process:
        await process.wait_for_output("does not answer yet")
        assert process.running
        await asyncio.to_thread(world.server.start)
        await world.admin.wait_for_state(run_id, "COMPLETED")
        assert await process.stop() == 0


async def test_server_goes_away_while_tasks_run_and_end(own_world: World) -> None:
    """What ended meanwhile is told afterwards, what runs on runs on, and new runs are taken again."""
    world = own_world
    async with world.worker() as process:
        during, after_it = world.gate(), world.gate()
        deployments = {
            "dies": await world.deploy("RUNNING", f"wait={during}", "exit=7"),
            "completes": await world.deploy("RUNNING", f"wait={during}", "COMPLETED"),
            "goes on": await world.deploy("RUNNING", f"wait={after_it}", "COMPLETED"),
        }
        runs = {name: await world.admin.create_run(deployment) for name, deployment in deployments.items()}
        for run_id in runs.values():
            await world.admin.wait_for_state(run_id, "RUNNING")
        world.server.stop()
        gone = anyio.current_time()
        during.touch()
        await world.wait_for_task(runs["dies"], "STOPPED")
        await anyio.sleep(gone + 20 - anyio.current_time())  # the length of the outage is the point
        await asyncio.to_thread(world.server.start)
        after = await world.run("RUNNING", "COMPLETED")
        dead = await world.admin.wait_for_state(runs["dies"], "CRASHED")
        assert "7" in dead["state"]["message"]
        after_it.touch()
        for run_id in (runs["completes"], runs["goes on"], after):
            await world.admin.wait_for_state(run_id, "COMPLETED")
        assert process.running
        assert await process.stop() == 0
    assert set((await world.launches()).values()) == {1}


async def test_server_that_never_comes_ends_the_worker_with_a_remedy(hopeless: WorkerProcess, nowhere: str) -> None:
    assert await hopeless.wait(90) == 2
    told, slow, sentence = hopeless.output.splitlines()
    assert "does not answer yet" in told
    assert f"waits for the Prefect API at {nowhere}" in slow
    assert sentence.startswith(f"ecs-worker: The Prefect API at {nowhere} ")
    assert "PREFECT_API_URL" in sentence


async def test_start_that_hangs_says_so(aws: str, tmp_path: Path) -> None:
    """A server that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        async with worker(tmp_path, "any", aws_url=aws, env={"PREFECT_API_URL": url}) as process:
            await process.wait_for_output(f"The start waits for the Prefect API at {url}")
