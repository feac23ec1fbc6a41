"""Credentials of blocks turn over: runs go by the new ones, and clients of the old ones are closed."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import aioboto3
import anyio
import pytest

from ecs_worker.job.variables import default_base_job_template
from ecs_worker.model import Phase
from ecs_worker.settings import WorkerSettings
from support.scene import POOL
from support.simulator import TaskScript
from support.simulator.helpers import DEFINITION
from support.waiting import until

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.run import Run
    from support.scene import MakeScene, Scene

pytestmark = pytest.mark.anyio

THEIRS = "210987654321"
BLOCK = "theirs"


def rotate(scene: Scene, key: str) -> None:
    """The block holds this access key from now on, and AWS takes no other."""
    scene.aws.expired.update(scene.aws.accounts)
    scene.aws.accounts[key] = THEIRS
    scene.aws.expired.discard(key)
    scene.api.blocks[BLOCK] = {"aws_access_key_id": key, "aws_secret_access_key": "s", "region_name": "us-east-1"}


@pytest.fixture
async def scene(make_scene: MakeScene) -> Scene:
    """A pool whose jobs run in another account, by a block."""
    scene = await make_scene(WorkerSettings(pool=POOL, name="worker"))
    rotate(scene, "KEY-1")
    site = scene.aws.site("us-east-1", THEIRS)
    site.ecs.create_cluster("default")
    site.ecs.scripts.default = TaskScript(running=None)
    template = copy.deepcopy(default_base_job_template())
    template["job_configuration"]["aws_credentials"] = "{{ prefect.blocks.aws-credentials." + BLOCK + " }}"
    template["variables"]["properties"]["launch_type"]["default"] = "EC2"
    scene.api.pool["base_job_template"] = template
    await scene.parts.heartbeat.begin()  # which reads the pool
    async with aioboto3.Session().client("ecs", aws_access_key_id="KEY-1", aws_secret_access_key="s") as ecs:
        await ecs.register_task_definition(**DEFINITION)
    return scene


async def launched(scene: Scene) -> Run:
    """A run, brought up by the worker."""
    run_id = scene.api.add_run()
    for scheduled in await scene.scheduled():
        scene.parts.way.send_scheduled(scheduled, scene.clock())
    await until(lambda: [run for run in scene.parts.ledger if str(run.id) == run_id and run.launched])
    (run,) = [run for run in scene.parts.ledger if str(run.id) == run_id]
    return run


async def test_ends_are_told_with_the_new_credentials(scene: Scene) -> None:
    async with scene.parts.way.open(5):
        run = await launched(scene)
        (task,) = scene.aws.launched
        assert f":{THEIRS}:" in task.arn
        rotate(scene, "KEY-2")
        await scene.watch()
        await scene.watch()
        assert run.launched is not None
        assert run.launched.placement.target == run.target
        scene.aws.advance(10)
        await scene.watch()
        assert run.phase is Phase.RUNNING
        rotate(scene, "KEY-3")
        scene.aws.site("us-east-1", THEIRS).ecs.fleet.stop(task, "EssentialContainerExited", "It ended.", 1)
        scene.aws.advance(60)
        for _ in range(2):
            await scene.watch()
        await scene.report()
    assert scene.state(run)["type"] == "CRASHED"


async def test_cancelled_tasks_are_stopped_with_the_new_credentials(scene: Scene) -> None:
    async with scene.parts.way.open(5):
        run = await launched(scene)
        rotate(scene, "KEY-2")
        scene.api.enter(str(run.id), {"type": "CANCELLING"})
        await scene.cancel()
    assert run.stop_reason == "It was cancelled."
    assert [task.stopping for task in scene.aws.launched] == [True]


async def test_a_launch_that_waits_goes_by_the_new_credentials(scene: Scene) -> None:
    """The block is rotated between the rendering of a run and its RunTask."""
    scene.aws.expired.add("KEY-1")
    run_id = scene.api.add_run()
    async with scene.parts.way.open(5):
        for scheduled in await scene.scheduled():
            scene.parts.way.send_scheduled(scheduled, scene.clock())
        await until(lambda: scene.asked("ListTaskDefinitions"))
        rotate(scene, "KEY-2")
        await until(lambda: scene.aws.launched)
    assert run_id in scene.aws.launched[0].started_by


async def test_credentials_that_are_not_replaced_are_asked_for_seldom(scene: Scene) -> None:
    async with scene.parts.way.open(5):
        runs = [await launched(scene) for _ in range(5)]
        scene.aws.expired.add("KEY-1")
        before = scene.api.calls[:]
        for _ in range(3):
            await scene.watch()
    reads = [name for _, name in scene.api.calls[len(before) :] if "block" in name]
    assert len(reads) == 1
    assert {run.phase for run in runs} == {Phase.STARTING}


async def test_adoption_of_many_runs_with_a_block_waits_for_nobody(scene: Scene) -> None:
    """A worker that restarts after the rotation finds the task of the old credentials with the new ones."""
    async with scene.parts.way.open(5):
        run = await launched(scene)
        with anyio.fail_after(10):
            await until(lambda: scene.document(run)["infrastructure_pid"])
        scene.api.enter(str(run.id), {"type": "RUNNING"})
        scene.parts.ledger.drop(run)
        rotate(scene, "KEY-2")
        await scene.adopt()
        scene.aws.advance(10)
        await scene.watch()
    (adopted,) = scene.parts.ledger
    assert adopted.phase is Phase.RUNNING
