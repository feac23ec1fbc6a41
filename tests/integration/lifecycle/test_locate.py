"""Where a run's task is: by its claim, by its name, and by what its job says."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from ecs_worker.errors import AwsError
from ecs_worker.model import TaskName
from support.builders import claimed_run, placement, task_arn
from support.simulator import What, fault
from support.simulator.helpers import run_task

if TYPE_CHECKING:
    from support.scene import Scene

pytestmark = pytest.mark.anyio


async def test_a_claim_leads_to_its_task_also_when_that_has_stopped(scene: Scene) -> None:
    run = scene.claimed()
    run.placed(placement())
    assert await scene.parts.locate.find(run) is None
    answer = await scene.ecs.run_task(**run_task(startedBy=run.claim.started_by))
    arn = answer["tasks"][0]["taskArn"]
    found = await scene.parts.locate.find(run)
    assert found is not None
    assert found.arn == arn
    await scene.ecs.stop_task(cluster="default", task=arn)
    scene.aws.advance(60)
    found = await scene.parts.locate.find(run)
    assert found is not None
    assert (found.arn, found.stopped) == (arn, True)


async def test_of_several_attempts_the_one_that_lives_is_found(scene: Scene) -> None:
    run = scene.claimed()
    run.placed(placement())
    started_by = run.claim.started_by
    first = (await scene.ecs.run_task(**run_task(startedBy=started_by)))["tasks"][0]["taskArn"]
    await scene.ecs.stop_task(cluster="default", task=first)
    scene.aws.advance(60)
    second = (await scene.ecs.run_task(**run_task(startedBy=started_by)))["tasks"][0]["taskArn"]
    found = await scene.parts.locate.find(run)
    assert found is not None
    assert found.arn == second


async def test_not_to_be_answered_is_not_the_same_as_no_task(scene: Scene) -> None:
    run = scene.claimed()
    run.placed(placement())
    scene.aws.fault(fault(What.ERROR, action="ListTasks", code="AccessDeniedException", message="no"))
    with pytest.raises(AwsError, match="AccessDenied"):
        await scene.parts.locate.find(run)


async def test_the_name_says_the_cluster_whatever_the_job_says_now(scene: Scene) -> None:
    scene.api.deployment["job_variables"] = {"cluster": "another"}
    run = claimed_run(flow_id=uuid4(), deployment_id=uuid4())
    name = TaskName("flows", task_arn("flows"))
    found = await scene.parts.locate.placement_of(run, name)
    assert (found.cluster, found.container) == ("flows", "prefect")


async def test_a_job_that_is_gone_does_not_hide_the_task(scene: Scene) -> None:
    scene.api.deployment["job_variables"] = {"cpu": "much"}
    name = TaskName("flows", "arn:aws:ecs:eu-north-1:123456789012:task/flows/1")
    found = await scene.parts.locate.placement_of(claimed_run(deployment_id=uuid4()), name)
    assert (found.cluster, found.target.region) == ("flows", "eu-north-1")


async def test_a_task_is_of_the_claim_that_it_bears(scene: Scene) -> None:
    run = await scene.launched()
    assert run.name is not None
    assert await scene.parts.locate.is_of_claim(run.claim, run.name)
    later = claimed_run(run.id)
    assert not await scene.parts.locate.is_of_claim(later, run.name)


def test_a_task_s_name_says_where_it_is() -> None:
    name = TaskName.read("flows::arn:aws-cn:ecs:cn-north-1:123456789012:task/flows/0a1b")
    assert name is not None
    assert (name.region, name.account, name.task_id) == ("cn-north-1", "123456789012", "0a1b")
    assert TaskName.parse(str(name)) == name
    for other in (None, "", "process-12", "flows::", "arn:aws:ecs:eu-west-1:1:task/1"):
        assert TaskName.read(other) is None
    assert TaskName.parse("process-12").region == ""
