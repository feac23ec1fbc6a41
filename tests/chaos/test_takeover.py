"""What a worker leaves to the next one in odd moments: refused launches, jobs that became invalid, later claims."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from support.arena import CLAIM, WORKERS, Arena
from support.simulator import FlowScript, Phase, Point, ScriptRule, TaskScript, What, fails_to_start, fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.servers.prefect import PrefectServer
    from support.servers.worker import WorkerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

NO_CAPACITY = "Capacity is unavailable at this time. Please try again later or in a different availability zone"


@pytest.fixture
async def arena(prefect3: PrefectServer, tmp_path: Path) -> AsyncIterator[Arena]:
    async with Arena(prefect3, tmp_path) as arena:
        arena.aws.ecs.scripts.default = TaskScript(flow=FlowScript(seconds=0.2))
        yield arena
        assert "Traceback" not in arena.outputs()


async def completes_once(arena: Arena, run: str, tasks: int = 1) -> None:
    await arena.ends(run, "COMPLETED", seconds=90)
    assert (len(arena.tasks_of(run)), len(arena.effective(run))) == (tasks, 1), arena.outputs()


async def asked(arena: Arena, action: str, times: int = 1) -> None:
    async def often_enough() -> bool:
        return arena.aws.director.count(action, "*") >= times

    await arena.until(often_enough, 40)


async def settles(worker: WorkerProcess) -> None:
    worker.send(signal.SIGTERM)
    assert await worker.wait(30) == 0


# -- what can't be launched any more


async def dies_after_its_claim(arena: Arena) -> str:
    """A run that a dead worker has claimed, and no more than that."""
    run = await arena.run()
    pause = arena.proxy.director.pause_at(Point(CLAIM, Phase.AFTER, 1, WORKERS), freeze=True)
    victim = arena.worker("victim")
    await pause.wait(40)
    await victim.kill()
    pause.resume()
    arena.proxy.director.thaw()
    assert (await arena.admin.read_run(run))["state_type"] == "PENDING"
    return run


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"job_variables": {"cpu": "much"}}, "cpu is 'much'"),
        ({"job_variables": {"cluster": "gone"}}, "cluster gone"),
        (None, "does not exist any more"),
    ],
    ids=["invalid job", "no cluster", "no deployment"],
)
async def test_a_claim_that_can_t_be_launched_any_more_is_ended_by_the_next_worker(
    arena: Arena, change: dict[str, Any] | None, sentence: str
) -> None:
    run = await dies_after_its_claim(arena)
    method, body = ("DELETE", {}) if change is None else ("PATCH", {"json": change})
    await arena.admin.call(method, f"/deployments/{arena.deployment}", **body)
    arena.worker("survivor")
    ended = await arena.ends(run, "CRASHED", seconds=60)
    assert sentence in ended["state"]["message"]
    assert arena.tasks_of(run) == []


async def test_a_deployment_that_goes_while_its_run_is_launched_ends_the_run(arena: Arena) -> None:
    run = await arena.run()
    pause = arena.proxy.director.pause_at(Point("GET /deployments/{id}", Phase.BEFORE, 1, WORKERS))
    arena.worker("worker")
    await pause.wait(40)
    await arena.admin.call("DELETE", f"/deployments/{arena.deployment}")
    pause.resume()
    ended = await arena.ends(run, "CRASHED", seconds=60)
    assert "does not exist any more" in ended["state"]["message"]


# -- launches whose outcome the next worker doesn't know


async def test_a_worker_that_stops_without_its_launchs_answer_leaves_no_second_task(arena: Arena) -> None:
    """The task shows in no list yet when it stops."""
    run = await arena.run()
    arena.aws.ecs.scripts.default = TaskScript(missing=6, flow=FlowScript(seconds=0.2))
    arena.aws.fault(
        fault(What.LOST_AFTER, action="RunTask", nth=(1,)),
        fault(What.THROTTLE, action="RunTask", nth=tuple(range(2, 30))),
    )
    worker = arena.worker("worker")
    await asked(arena, "RunTask", 2)
    await settles(worker)
    arena.aws.director.clear()
    arena.worker("next")
    await completes_once(arena, run)


async def test_a_refusal_that_ecs_has_kept_does_not_end_the_run_of_a_dead_worker(arena: Arena) -> None:
    """The next worker asks with the same token and other words: its name is in the request."""
    run = await arena.run()
    arena.aws.fault(fault(What.FAILURES, action="RunTask", reason=NO_CAPACITY))
    pause = arena.aws.director.pause_at(Point("RunTask", Phase.AFTER, 1, "*"))
    victim = arena.worker("victim")
    await pause.wait(40)
    await victim.kill()
    pause.drop()
    arena.aws.director.clear()
    arena.worker("survivor")
    await completes_once(arena, run)


async def test_refusals_take_no_attempts_from_tasks_that_fail_to_start(arena: Arena) -> None:
    run = await arena.run()
    arena.aws.fault(fault(What.FAILURES, action="RunTask", reason="AGENT", nth=(1, 2, 3)))
    arena.aws.script(ScriptRule(containing=run, script=fails_to_start("eni_timeout"), nth=(1, 2)))
    arena.worker("worker")
    await completes_once(arena, run, tasks=3)


async def test_the_task_of_a_later_claim_is_known_by_its_name_wherever_it_is(arena: Arena) -> None:
    """Given back, claimed again and launched, by a worker that dies; then the deployment moves to another cluster."""
    run = await arena.run()
    arena.aws.fault(fault(What.FAILURES, action="RunTask", reason=NO_CAPACITY))
    first = arena.worker("first")
    await asked(arena, "RunTask")
    await settles(first)
    arena.aws.director.clear()
    arena.aws.ecs.create_cluster("elsewhere")
    arena.aws.ecs.scripts.default = TaskScript(running=None, flow=FlowScript(seconds=8))
    second = arena.worker("second")
    (task,) = [await arena.task_of(run, seconds=60)]
    await arena.until(partial(_names, arena, run, task.arn))
    await second.kill()
    await arena.admin.call(
        "PATCH", f"/deployments/{arena.deployment}", json={"job_variables": {"cluster": "elsewhere"}}
    )
    third = arena.worker("third")

    async def watched() -> bool:
        return "is watched by worker third" in third.output

    await arena.until(watched, 60)
    await completes_once(arena, run)


async def _names(arena: Arena, run: str, arn: str) -> bool:
    return str((await arena.admin.read_run(run))["infrastructure_pid"]).endswith(arn)


# -- leaving


async def test_all_that_wait_for_their_turn_are_given_back(arena: Arena) -> None:
    """AWS takes no launch for a long time; whoever stops then keeps nothing."""
    number = 30
    runs = await arena.runs(number)
    arena.aws.fault(fault(What.THROTTLE, action="RunTask"))
    worker = arena.worker("worker", ECS_WORKER_MAX_LAUNCHING=str(number))

    async def claimed() -> bool:
        return arena.proxy.director.count(CLAIM, WORKERS) >= number

    await arena.until(claimed, 60)
    await settles(worker)
    states = {run: (await arena.admin.read_run(run))["state_type"] for run in runs}
    assert set(states.values()) == {"SCHEDULED"}, states
    assert arena.aws.launched == []
