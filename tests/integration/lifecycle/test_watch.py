"""What one sweep makes of tasks that ECS can't, or won't, tell of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ecs_worker.lifecycle.run.run import Run
from ecs_worker.model import Phase
from support.builders import placement
from support.simulator import TaskScript, What, fault

if TYPE_CHECKING:
    from support.scene import Scene

pytestmark = pytest.mark.anyio

GRACE = 61.0  # seconds, after which what is missing is believed to be gone


async def test_runs_of_a_deleted_cluster_come_to_an_end(scene: Scene) -> None:
    scene.aws.ecs.create_cluster("doomed")
    running = await scene.launched("RUNNING", cluster="doomed")
    cancelled = await scene.launched("CANCELLING", cluster="doomed")
    del scene.aws.ecs.clusters["doomed"]
    await scene.watch()
    assert running.phase is Phase.STARTING  # not at the first word
    await scene.watch(later=GRACE)
    await scene.report()
    assert scene.state(running)["type"] == "CRASHED"
    assert scene.state(cancelled)["type"] == "CANCELLED"
    assert len(scene.parts.ledger) == 0


async def test_one_unusable_arn_does_not_hide_the_other_tasks(scene: Scene) -> None:
    no_task = {"arn": "arn:aws:ecs:us-east-1:123456789012:task/elsewhere/no-task"}
    runs = [await scene.launched(facts=no_task if number == 4 else None) for number in range(7)]
    bad = runs[4]
    refused = {"code": "InvalidParameterException", "message": "Invalid identifier: Unexpected number of separators"}
    scene.aws.fault(fault(What.ERROR, action="DescribeTasks", containing="no-task", **refused))
    scene.aws.advance(10)
    await scene.watch()
    assert [run.phase is Phase.RUNNING for run in runs] == [run is not bad for run in runs]
    assert scene.asked("DescribeTasks") < 2 * len(runs)
    await scene.watch(later=GRACE)
    await scene.report()
    assert bad.task is not None
    assert bad.task.arn in {task.arn for task in scene.aws.launched}  # found by its claim, under its true name
    assert {scene.state(run)["type"] for run in runs} == {"RUNNING"}


async def test_a_throttle_in_disguise_makes_no_task_missing(scene: Scene) -> None:
    run = await scene.launched()
    scene.aws.fault(fault(What.DISGUISED_THROTTLE, action="DescribeTasks"))
    await scene.watch()
    assert run.missing_for is None


async def test_a_task_that_never_shows_is_stopped_and_not_launched_again(scene: Scene) -> None:
    scene.aws.ecs.scripts.default = TaskScript(missing=3600, provisioning=7200)
    run = await scene.launched("PENDING", start_attempts=3)
    await scene.watch()
    await scene.watch(later=GRACE)
    (task,) = scene.aws.launched
    assert task.stopping
    assert "did not describe" in task.document["stoppedReason"]
    assert run.phase is Phase.STARTING  # its end may show now
    await scene.watch()
    await scene.watch(later=GRACE)
    await scene.report()
    assert scene.asked("StopTask") == 1
    assert scene.state(run)["type"] == "CRASHED"
    assert "may yet appear" in scene.state(run)["message"]


async def test_a_task_that_shows_after_all_tells_its_end(scene: Scene) -> None:
    scene.aws.ecs.scripts.default = TaskScript(missing=100, provisioning=7200)
    run = await scene.launched("PENDING", start_attempts=3)
    await scene.watch()
    await scene.watch(later=GRACE)
    scene.aws.advance(200)
    await scene.watch()
    await scene.report()
    assert scene.state(run)["type"] == "CRASHED"
    assert "UserInitiated" in scene.state(run)["message"]


async def test_a_forgotten_task_needs_no_leave_to_be_gone(scene: Scene) -> None:
    run = await scene.launched("PENDING", start_attempts=3)
    scene.aws.ecs.fleet.tasks.clear()
    await scene.watch()
    await scene.watch(later=GRACE)
    await scene.report()
    assert scene.asked("StopTask") == 1
    assert scene.state(run)["type"] == "CRASHED"
    assert "No other is launched" in scene.state(run)["message"]


async def test_a_task_that_had_stopped_when_it_was_found_ends_its_run(scene: Scene) -> None:
    run = await scene.launched("PENDING", start_attempts=1)
    assert run.task is not None
    await scene.ecs.stop_task(cluster="default", task=run.task.arn)
    scene.aws.advance(60)
    found = await scene.parts.locate.find(run)
    assert found is not None
    scene.parts.ledger.drop(run)
    again = Run(run.claim, clock=scene.clock)
    again.placed(placement())
    await scene.parts.way.adopt(again, found)
    await scene.watch()
    assert again.phase is Phase.STOPPED
