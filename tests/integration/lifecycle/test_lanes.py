"""A cluster that hangs delays no other: each place has a lane of its own in whatever asks ECS."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import pytest

from ecs_worker.errors import AwsError
from ecs_worker.job.requests import definition_digest
from ecs_worker.lifecycle.lanes import MOST_BEGUN, Lanes
from ecs_worker.lifecycle.run.run import UNLAUNCHED, WATCHED
from ecs_worker.model import Phase
from support.builders import launch_request, placement
from support.simulator import What, fails_to_start, fault
from support.simulator.helpers import DEFINITION
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup

    from support.scene import Scene

pytestmark = pytest.mark.anyio

SICK = "sick"


@asynccontextmanager
async def background() -> AsyncIterator[TaskGroup]:
    """A worker's own task group, which ends with the worker."""
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


@pytest.fixture
async def sick(scene: Scene) -> Scene:
    """A scene with a second cluster, about which ECS answers nothing."""
    scene.aws.ecs.create_cluster(SICK)
    return scene


def hang(scene: Scene, action: str) -> None:
    scene.aws.fault(fault(What.HANG_BEFORE, action=action, containing=SICK))


async def test_tasks_of_others_are_described(sick: Scene) -> None:
    stuck = await sick.launched(cluster=SICK)
    run = await sick.launched()
    hang(sick, "DescribeTasks")
    sick.aws.advance(10)

    def more(asked: int) -> bool:
        return sick.asked("DescribeTasks") > asked

    async with background() as calls:
        for _ in range(3):
            sick.clock.advance(30)
            asked = sick.asked("DescribeTasks")
            await sick.parts.watch.sweep(calls)
            await until(partial(more, asked))
        await until(lambda: run.phase is Phase.RUNNING)
        assert stuck.phase is Phase.STARTING
        assert sum(SICK in call.text for call in sick.aws.calls if call.action == "DescribeTasks") == 1
        assert sick.parts.watch.late >= 60


async def test_tasks_of_others_are_stopped(sick: Scene) -> None:
    stuck = [await sick.launched("CANCELLING", cluster=SICK) for _ in range(12)]
    run = await sick.launched("CANCELLING")
    hang(sick, "StopTask")
    async with background() as stops:
        for _ in range(2):
            await sick.parts.cancel.look(stops)
        await until(lambda: run.stop_reason)
        await until(lambda: sick.asked("StopTask") >= 11)
    assert not any(run.stop_reason for run in stuck)
    assert sick.asked("StopTask") == 11  # ten of the sick place at once, and none of them twice


async def test_ends_of_others_are_told(sick: Scene) -> None:
    """A run whose own task never started is looked up in ECS before it is judged."""
    sick.aws.ecs.scripts.default = fails_to_start("image_not_found")
    stuck = [await sick.launched("RUNNING", cluster=SICK) for _ in range(25)]
    run = await sick.launched("RUNNING")
    sick.aws.advance(10)
    await sick.watch()
    hang(sick, "ListTasks")
    sick.clock.advance(60)
    async with background() as ends:
        await sick.parts.report.look(ends)
        await until(lambda: sick.state(run)["type"] == "CRASHED")
    assert {sick.state(run)["type"] for run in stuck} == {"RUNNING"}


async def test_a_hanging_definition_holds_nobody_up_and_fails_for_all(scene: Scene) -> None:
    definitions = [{**DEFINITION, "family": SICK, "cpu": str(cpu)} for cpu in (256, 512, 1024)]
    requests = [launch_request(placement(), definition=definition) for definition in definitions]
    assert len(set(map(definition_digest, definitions))) == 3
    scene.aws.fault(
        fault(What.ERROR, action="ListTaskDefinitions", code="ServerException", message="", status=500, delay=0.2)
    )
    failures: list[AwsError] = []

    async def ensure(number: int) -> None:
        with pytest.raises(AwsError) as raised:
            await scene.parts.steps.define.ensure(requests[number])
        failures.append(raised.value)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(ensure, number)
    assert len(set(map(id, failures))) == 1
    assert scene.asked("ListTaskDefinitions") == 3  # the SDK's three attempts of one call


async def test_cancelling_is_seen_while_a_launch_waits(scene: Scene) -> None:
    scene.aws.fault(fault(What.HANG_BEFORE, action="ListTaskDefinitions"))
    run = scene.claimed("PENDING")
    async with scene.parts.way.open(0):
        scene.parts.way.send(run)
        await until(lambda: scene.asked("ListTaskDefinitions"))
        run.cancel()
        await until(lambda: run.phase not in UNLAUNCHED | WATCHED, 5)
    assert run.phase is Phase.ABANDONED
    assert "cancelled" in run.why


async def test_a_lane_that_moves_has_room_and_a_sick_one_has_none() -> None:
    gate = anyio.Event()
    lanes = Lanes(MOST_BEGUN)
    async with background() as group:
        for _ in range(MOST_BEGUN):
            lanes.begin(group, SICK, uuid4(), "a run", gate.wait)
        assert not await lanes.room(SICK)
        assert await lanes.room("another")
        gate.set()
        assert await lanes.room(SICK)
        await until(lambda: not len(lanes))
