"""Orders of the worker channel to stop a task, for runs that are held and for those that are not."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from ecs_worker.errors import CleanupFailed, EcsWorkerError
from ecs_worker.prefect_api.channel import Teardown
from support.builders import task_arn
from support.simulator.helpers import run_task

if TYPE_CHECKING:
    from support.scene import Scene

pytestmark = pytest.mark.anyio


def order(run_id: UUID | str, named: str | None) -> Teardown:
    return Teardown(uuid4(), UUID(str(run_id)), named, lease_seconds=60, reservation="r")


def stopping(scene: Scene) -> list[str]:
    return [task.arn for task in scene.aws.launched if task.stopping]


async def test_a_held_run_s_task_is_stopped_as_for_any_cancellation(scene: Scene) -> None:
    run = await scene.launched("CANCELLED")
    await scene.parts.cleanup.obey(order(run.id, str(run.name)))
    assert run.stop_reason == "Its cancellation took too long."
    assert stopping(scene) == [run.task.arn if run.task else ""]


async def test_while_the_launch_is_under_way_the_order_waits(scene: Scene) -> None:
    run = scene.claimed("CANCELLED")
    with pytest.raises(EcsWorkerError, match="not stopped yet; the run is claimed"):
        await scene.parts.cleanup.obey(order(run.id, None))
    assert run.cancelled


async def test_a_colleague_s_task_is_stopped_by_its_name(scene: Scene) -> None:
    run_id = scene.api.add_run("CANCELLED")
    answer = await scene.ecs.run_task(**run_task(startedBy=f"prefect/{run_id}/{uuid4()}"))
    arn = answer["tasks"][0]["taskArn"]
    await scene.parts.cleanup.obey(order(run_id, f"default::{arn}"))
    assert stopping(scene) == [arn]


async def test_a_task_that_the_run_does_not_name_is_found_by_its_claim(scene: Scene) -> None:
    run_id, claim = scene.api.add_run(), uuid4()
    scene.api.enter(run_id, {"type": "PENDING", "state_details": {"transition_id": str(claim)}})
    answer = await scene.ecs.run_task(**run_task(startedBy=f"prefect/{run_id}/{claim}"))
    scene.api.enter(run_id, {"type": "CANCELLED"})
    await scene.parts.cleanup.obey(order(run_id, None))
    assert stopping(scene) == [answer["tasks"][0]["taskArn"]]


async def test_what_is_gone_is_as_good_as_stopped(scene: Scene) -> None:
    run_id = scene.api.add_run("CANCELLED")
    await scene.parts.cleanup.obey(order(run_id, f"default::{task_arn()}"))
    await scene.parts.cleanup.obey(order(uuid4(), None))
    assert stopping(scene) == []


async def test_a_run_that_was_scheduled_anew_is_left_alone(scene: Scene) -> None:
    run_id = scene.api.add_run("SCHEDULED")
    await scene.parts.cleanup.obey(order(run_id, None))
    assert scene.asked("ListTasks") == 0


async def test_what_names_no_ecs_task_can_t_be_obeyed(scene: Scene) -> None:
    with pytest.raises(CleanupFailed, match="'process-12' is no ECS task"):
        await scene.parts.cleanup.obey(order(uuid4(), "process-12"))
