"""Definitions of ours that somebody deregistered are made again at once."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from ecs_worker.lifecycle.run.run import UNLAUNCHED
from ecs_worker.model import Phase
from support.waiting import until

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.run import Run
    from support.scene import Scene

pytestmark = pytest.mark.anyio


async def launch(scene: Scene) -> Run:
    run = scene.claimed(deployment_id=UUID(scene.api.deployment["id"]))
    async with scene.parts.way.open(20):
        scene.parts.way.send(run)
        await until(lambda: run.phase not in UNLAUNCHED)
    return run


async def test_what_a_colleague_deregistered_is_registered_again(scene: Scene) -> None:
    scene.aws.ecs.definitions.deregistration_seconds = 0
    first = await launch(scene)
    assert first.task is not None
    await scene.ecs.deregister_task_definition(taskDefinition=first.task.definition_arn)
    second = await launch(scene)
    assert second.task is not None
    assert (second.phase, second.task.definition_arn != first.task.definition_arn) == (Phase.STARTING, True)


async def test_what_the_worker_retires_itself_is_not_asked_for_again(scene: Scene) -> None:
    scene.aws.ecs.definitions.deregistration_seconds = 0
    scene.api.deployment["job_variables"] = {"auto_deregister_task_definition": True}
    for _ in range(3):
        run = await launch(scene)
        assert run.phase is Phase.STARTING
        scene.document(run)["state"] |= {"type": "COMPLETED"}
        scene.document(run)["state_type"] = "COMPLETED"
        assert run.task is not None
        await scene.ecs.stop_task(cluster="default", task=run.task.arn)
        scene.aws.advance(60)
        await scene.watch()
        await scene.report()
        assert run.id not in scene.parts.ledger
    assert (scene.asked("RunTask"), scene.asked("DeregisterTaskDefinition")) == (3, 3)


async def test_a_definition_that_the_job_names_ends_the_run_with_its_name(scene: Scene) -> None:
    scene.aws.ecs.definitions.deregistration_seconds = 0
    named = (await scene.ecs.describe_task_definition(taskDefinition="flows"))["taskDefinition"]["taskDefinitionArn"]
    await scene.ecs.deregister_task_definition(taskDefinition=named)
    scene.aws.advance(1)
    scene.api.deployment["job_variables"] = {"task_definition_arn": named}
    run = await launch(scene)
    assert run.phase is Phase.ABANDONED
    assert "inactive" in run.why
