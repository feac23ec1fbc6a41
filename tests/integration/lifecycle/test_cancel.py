"""Cancelled runs have their tasks stopped, after the moment that a running flow has to end by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ecs_worker.model import Phase
from support.simulator import What, fault

if TYPE_CHECKING:
    from support.scene import Scene

pytestmark = pytest.mark.anyio


async def test_nothing_is_asked_while_nothing_is_held(scene: Scene) -> None:
    scene.api.add_run("CANCELLING")
    await scene.cancel()
    assert "POST /flow_runs/filter" not in {name for _, name in scene.api.calls}


async def test_a_starting_task_is_stopped_at_once(scene: Scene) -> None:
    run = await scene.launched("CANCELLING")
    other = await scene.launched("PENDING")
    await scene.cancel()
    assert (run.stop_reason, other.stop_reason) == ("It was cancelled.", "")
    (stopped,) = [task for task in scene.aws.launched if task.stopping]
    assert stopped.arn == (run.task.arn if run.task else None)
    assert str(run.id) in stopped.document["stoppedReason"]


async def test_a_running_flow_has_a_moment_to_cancel_itself(scene: Scene) -> None:
    run = await scene.launched("CANCELLING")
    scene.aws.advance(10)
    await scene.watch()
    assert run.phase is Phase.RUNNING
    reasons = []
    for _ in range(2):
        await scene.cancel()
        reasons.append(run.stop_reason)
        scene.clock.advance(31)
    assert reasons == ["", "It was cancelled."]


async def test_a_run_without_a_task_is_only_marked(scene: Scene) -> None:
    run = scene.claimed("CANCELLING")
    await scene.cancel()
    assert run.cancelled
    assert scene.asked("StopTask") == 0


async def test_a_stop_that_failed_is_asked_again_and_one_that_was_taken_is_not(scene: Scene) -> None:
    run = await scene.launched("CANCELLING")
    scene.aws.fault(fault(What.ERROR, action="StopTask", code="ServerException", message="", status=500, times=3))
    reasons = []
    for _ in range(3):
        await scene.cancel()
        reasons.append(run.stop_reason)
    assert reasons == ["", "It was cancelled.", "It was cancelled."]
    assert scene.asked("StopTask") == 4  # three attempts of one call, and the one that was taken
