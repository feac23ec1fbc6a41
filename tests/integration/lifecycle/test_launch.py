"""One attempt to launch: RunTask as it is sent, and what is made of ECS's answers."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.errors import AwsError, NotOurs, NotWanted
from ecs_worker.lifecycle.patience import Refused
from ecs_worker.model import Phase
from support.builders import launch_request, placement
from support.simulator import What, fault
from support.simulator.helpers import run_task

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.model import LaunchRequest, TaskFacts
    from support.scene import Scene

pytestmark = pytest.mark.anyio

SPOT = {"capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]}


def request_for(**where: Any) -> LaunchRequest:
    asked = {key: value for key, value in run_task(cluster="default").items() if key != "taskDefinition"}
    return launch_request(placement(**where), definition="flows", run_task=asked)


def rendered(scene: Scene, request: LaunchRequest) -> Run:
    run = scene.claimed()
    run.rendered(request)
    return run


async def start(scene: Scene, run: Run, request: LaunchRequest) -> TaskFacts:
    return await scene.parts.steps.launch.start(run, request, "flows")


async def test_the_task_bears_the_claim(scene: Scene) -> None:
    request = request_for()
    run = rendered(scene, request)
    task = await start(scene, run, request)
    assert task.started_by == f"prefect/{run.id}/{run.claim.claim_id}"
    (launched,) = scene.aws.launched
    assert launched.token == f"{run.claim.claim_id}-1"


async def test_asked_twice_ecs_answers_with_the_same_task(scene: Scene) -> None:
    request = request_for()
    run = rendered(scene, request)
    assert (await start(scene, run, request)).arn == (await start(scene, run, request)).arn
    assert len(scene.aws.launched) == 1


async def test_a_refusal_needs_a_new_token_and_may_cost_spot(scene: Scene) -> None:
    request = request_for(spot_fallback=True)
    run = rendered(scene, request)
    scene.aws.fault(fault(What.FAILURES, action="RunTask", times=1, reason="RESOURCE:FARGATE"))
    with pytest.raises(Refused, match="RESOURCE:FARGATE"):
        await start(scene, run, request)
    assert (run.attempt, run.on_demand, run.unanswered) == (2, True, False)
    await start(scene, run, request)
    (launched,) = scene.aws.launched
    assert (launched.token, launched.document["launchType"]) == (f"{run.claim.claim_id}-2", "FARGATE")


async def test_an_answer_that_is_lost_leaves_a_doubt(scene: Scene) -> None:
    request = request_for()
    run = rendered(scene, request)
    scene.aws.fault(fault(What.SERVER_ERROR, action="RunTask"))
    with pytest.raises(AwsError):
        await start(scene, run, request)
    assert run.unanswered
    assert run.attempt == 1  # the same token is asked for again


async def test_a_token_that_was_asked_for_in_other_words_leads_to_its_task(scene: Scene) -> None:
    request = request_for()
    run = rendered(scene, request)
    first = await start(scene, run, request)
    other = launch_request(request.placement, run_task={**request.run_task, "group": "other"}, definition="flows")
    assert (await start(scene, run, other)).arn == first.arn


async def test_a_cancelled_run_is_not_launched(scene: Scene) -> None:
    request = request_for()
    run = rendered(scene, request)
    run.cancel()
    with pytest.raises(NotWanted, match="cancelled before"):
        await start(scene, run, request)
    assert scene.aws.launched == []


# -- the way that leads there


async def test_the_way_leads_from_the_claim_to_a_named_task(scene: Scene) -> None:
    run_id = scene.api.add_run()
    (scheduled,) = await scene.scheduled()
    async with scene.parts.way.open(5):
        scene.parts.way.send_scheduled(scheduled, scene.clock())
    (run,) = scene.parts.ledger
    assert (str(run.id), run.phase, run.signed) == (run_id, Phase.STARTING, True)
    assert scene.document(run)["infrastructure_pid"] == str(run.name)
    assert scene.document(run)["labels"]["prefect.worker.name"] == "worker"
    assert scene.parts.journal.counts == {"claimed": 1, "launched": 1}


async def test_a_launch_that_ecs_refuses_for_good_ends_the_run(scene: Scene) -> None:
    denied = {"code": "AccessDeniedException", "message": "not authorized to perform ecs:RunTask"}
    scene.aws.fault(fault(What.ERROR, action="RunTask", **denied))
    scene.api.add_run()
    (scheduled,) = await scene.scheduled()
    async with scene.parts.way.open(5):
        scene.parts.way.send_scheduled(scheduled, scene.clock())
    (run,) = scene.parts.ledger
    assert run.phase is Phase.ABANDONED
    await scene.report()
    assert scene.state(run)["type"] == "CRASHED"
    assert "Allow the action to the worker's role" in scene.state(run)["message"]


def told(scene: Scene, word: str) -> list[str]:
    return [line["message"] for line in scene.api.log_lines if word in line["message"]]


async def test_a_misspelt_variable_is_told_once_for_each_run(scene: Scene) -> None:
    scene.api.deployment["job_variables"] = {"memroy": 4096}
    run_id = scene.api.add_run()
    (scheduled,) = await scene.scheduled()
    way = scene.parts.way
    async with way.open(5):
        way.send_scheduled(scheduled, scene.clock())
    (run,) = scene.parts.ledger
    assert run.task is not None
    run.seen(replace(run.task, last_status="STOPPED"))
    run.again()
    async with way.open(5):
        way.send(run)  # a second task of the same claim
    await scene.parts.run_logs.flush()
    (line,) = told(scene, "memroy")
    assert line.endswith("has no effect: the work pool pool doesn't know it. Did you mean 'memory'?")
    (entry,) = (entry for entry in scene.api.log_lines if entry["message"] == line)
    assert (entry["flow_run_id"], entry["level"]) == (run_id, logging.WARNING)
    assert len(scene.aws.launched) == 2


async def test_a_misspelt_variable_is_told_of_a_run_that_ecs_refuses(scene: Scene) -> None:
    denied = {"code": "AccessDeniedException", "message": "not authorized to perform ecs:RunTask"}
    scene.aws.fault(fault(What.ERROR, action="RunTask", **denied))
    scene.api.runs[scene.api.add_run()]["job_variables"] = {"clustre": "mine"}
    (scheduled,) = await scene.scheduled()
    async with scene.parts.way.open(5):
        scene.parts.way.send_scheduled(scheduled, scene.clock())
    await scene.parts.run_logs.flush()
    (line,) = told(scene, "clustre")
    assert "(from the flow run's job variables) has no effect" in line


async def test_a_misspelt_variable_may_be_why_a_job_is_invalid(scene: Scene) -> None:
    scene.api.runs[scene.api.add_run()]["job_variables"] = {"clustre": "mine", "memory": "much"}
    (scheduled,) = await scene.scheduled()
    async with scene.parts.way.open(5):
        scene.parts.way.send_scheduled(scheduled, scene.clock())
    (run,) = scene.parts.ledger
    await scene.report()
    await scene.parts.run_logs.flush()
    assert "Did you mean 'cluster'?" in scene.state(run)["message"]
    assert len(told(scene, "clustre")) == 1, "only as a part of the end"


async def test_without_an_open_way_a_held_run_is_left_to_the_next_worker(scene: Scene) -> None:
    run = scene.claimed()
    scene.parts.way.send(run)
    assert len(scene.parts.ledger) == 0
    assert scene.state(run)["type"] == "PENDING"


@pytest.mark.parametrize("state", ["SCHEDULED", "COMPLETED"])
async def test_a_run_that_others_took_meanwhile_is_theirs(scene: Scene, state: str) -> None:
    run = scene.claimed(state)
    with pytest.raises(NotOurs, match=f"became {state.title()} while its launch waited"):
        await scene.parts.patience.still_wanted(run)


async def test_a_run_that_was_cancelled_meanwhile_is_known_as_such(scene: Scene) -> None:
    run = scene.claimed("CANCELLING")
    await scene.parts.patience.still_wanted(run)
    assert run.cancelled
