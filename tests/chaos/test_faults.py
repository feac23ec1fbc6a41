"""Each thing that goes wrong with AWS costs time and nothing else. Many runs, each with its own trouble, share a
worker."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from support.arena import CLAIM, WORKERS, Arena
from support.simulator import Fault, FlowScript, Limit, ScriptRule, TaskScript, What, fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.servers.prefect import PrefectServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

QUICK_FLOW = TaskScript(flow=FlowScript(seconds=0.2))
NO_CAPACITY = "Capacity is unavailable at this time. Please try again later or in a different availability zone"


@pytest.fixture
async def arena(prefect3: PrefectServer, tmp_path: Path) -> AsyncIterator[Arena]:
    async with Arena(prefect3, tmp_path) as arena:
        arena.aws.ecs.scripts.default = QUICK_FLOW
        yield arena
        assert "Traceback" not in arena.outputs()


async def all_complete_once(arena: Arena, runs: dict[str, str] | list[str], seconds: float = 90) -> None:
    """Each run is Completed, by the one and only task that it got."""
    for run in runs.values() if isinstance(runs, dict) else runs:
        await arena.ends(run, "COMPLETED", seconds=seconds)
    names = runs.items() if isinstance(runs, dict) else ((run, run) for run in runs)
    tasks = {name: (len(arena.tasks_of(run)), len(arena.effective(run))) for name, run in names}
    assert set(tasks.values()) == {(1, 1)}, {name: found for name, found in tasks.items() if found != (1, 1)}


RUN_TASK: dict[str, dict[str, Any]] = {
    "throttled": {"what": (What.THROTTLE,), "nth": (1, 2, 3)},
    "throttled in disguise": {"what": (What.DISGUISED_THROTTLE,), "nth": (1, 2, 3)},
    "no capacity for a while": {"what": (What.FAILURES,), "reason": NO_CAPACITY, "nth": (1, 2)},
    "no memory for a while": {"what": (What.FAILURES,), "reason": "RESOURCE:MEMORY", "nth": (1, 2)},
    "agent disconnected": {"what": (What.FAILURES,), "reason": "AGENT", "nth": (1,)},
    "request lost": {"what": (What.LOST_BEFORE,), "nth": (1, 2)},
    "answers lost": {"what": (What.LOST_AFTER,), "nth": (1, 2, 3, 4)},
    "half an answer": {"what": (What.TRUNCATED,), "nth": (1, 2)},
    "server error": {"what": (What.SERVER_ERROR,), "nth": (1, 2, 3, 4)},
    "server error, and yet done": {"what": (What.SERVER_ERROR_AFTER,), "nth": (1, 2, 3, 4)},
    "no answer, nothing done": {"what": (What.HANG_BEFORE,), "nth": (1,)},
    "no answer, and yet done": {"what": (What.HANG_AFTER,), "nth": (1,)},
    "credentials expired": {"what": (What.ERROR,), "code": "ExpiredTokenException", "nth": (1,)},
}
CLAIMING: dict[str, dict[str, Any]] = {
    "503 and Retry-After": {"what": (What.SERVER_ERROR,), "retry_after": 1, "nth": (1, 2)},
    "503, and yet claimed": {"what": (What.SERVER_ERROR_AFTER,), "nth": (1, 2)},
    "claim lost": {"what": (What.LOST_BEFORE,), "nth": (1, 2)},
    "claim's answer lost": {"what": (What.LOST_AFTER,), "nth": (1, 2)},
    "half a claim's answer": {"what": (What.TRUNCATED,), "nth": (1,)},
    "429": {"what": (What.THROTTLE,), "retry_after": 1, "nth": (1,)},
    # More than the client's retries bear: the claim is found by `adopt`.
    "claim never answered": {"what": (What.LOST_AFTER,), "nth": tuple(range(1, 40))},
}


async def test_a_launch_that_meets_trouble_is_made_once(arena: Arena) -> None:
    runs = {name: await arena.run() for name in RUN_TASK}
    arena.aws.fault(*(Fault(action="RunTask", containing=runs[name], **kind) for name, kind in RUN_TASK.items()))
    arena.worker("worker")
    await all_complete_once(arena, runs)


async def test_a_claim_that_meets_trouble_is_known_as_ours(arena: Arena) -> None:
    runs = {name: await arena.run() for name in CLAIMING}
    arena.proxy.fault(*(Fault(action=CLAIM, containing=runs[name], **kind) for name, kind in CLAIMING.items()))
    arena.worker("worker")
    await all_complete_once(arena, runs)


async def test_the_other_calls_may_fail_too(arena: Arena) -> None:
    """Registration, look-ups, sweeps, the task's name on the run, sockets."""
    concurrent = "Too many concurrent attempts to create a new revision of the specified family."
    arena.aws.fault(
        fault(What.ERROR, action="RegisterTaskDefinition", code="ClientException", message=concurrent, nth=(1, 2)),
        fault(What.SERVER_ERROR, What.THROTTLE, What.LOST_BEFORE, action="List*", nth=(1, 2)),
        fault(What.DISGUISED_THROTTLE, What.LOST_AFTER, action="DescribeSubnets", nth=(1, 2)),
        fault(What.THROTTLE, What.LOST_AFTER, What.SERVER_ERROR, action="DescribeTasks", probability=0.6),
    )
    arena.proxy.fault(
        fault(What.SERVER_ERROR, What.LOST_AFTER, action="PATCH *", caller=WORKERS, nth=tuple(range(1, 12))),
        fault(What.SERVER_ERROR, What.LOST_BEFORE, action="GET *", caller=WORKERS, probability=0.4),
        fault(What.SERVER_ERROR, What.LOST_AFTER, action="POST /flow_runs/filter", caller=WORKERS, probability=0.4),
        fault(What.DISCONNECT, action="WS *", delay=0.3, times=6),
    )
    arena.aws.ecs.scripts.default = TaskScript(missing=3, flow=FlowScript(seconds=4))
    runs = await arena.runs(3)
    arena.worker("worker")
    await all_complete_once(arena, runs)
    for run in runs:
        await arena.until(partial(is_named, arena, run))


async def is_named(arena: Arena, run: str) -> bool:
    written = (await arena.admin.read_run(run))["infrastructure_pid"]
    return str(written).endswith(arena.tasks_of(run)[0].arn)


async def test_lost_answers_of_an_outage_leave_one_task_each(arena: Arena) -> None:
    # Many have ended before their launch is answered; to call them Pending again would lose their end.
    runs = await arena.runs(20)
    arena.aws.fault(fault(What.LOST_AFTER, action="RunTask", end=12))
    arena.worker("worker")
    await all_complete_once(arena, runs)


async def test_a_flow_that_runs_before_its_launch_is_answered_is_left_alone(arena: Arena) -> None:
    """RunTask's answers are lost for so long that the container has told Running meanwhile."""
    arena.aws.ecs.scripts.default = TaskScript(running=None, flow=FlowScript(seconds=20))
    run = await arena.run()
    arena.aws.fault(fault(What.LOST_AFTER, action="RunTask", end=15))
    arena.worker("worker")
    await all_complete_once(arena, [run])


async def test_awss_bucket_is_waited_for(prefect3: PrefectServer, tmp_path: Path) -> None:
    limits = {"cluster resource modify": Limit(5, 4, ("RunTask", "StopTask"))}
    async with Arena(prefect3, tmp_path, limits=limits) as arena:
        arena.aws.ecs.scripts.default = QUICK_FLOW
        runs = await arena.runs(40)
        arena.worker("worker")
        await all_complete_once(arena, runs)


async def test_a_stopped_task_that_ecs_has_forgotten_is_no_riddle(arena: Arena) -> None:
    """It ran, died without a word while no worker lived, and is not described any more."""
    arena.aws.ecs.scripts.default = TaskScript(running=None, flow=FlowScript(seconds=2, ends_as=None))
    run = await arena.run()
    worker = arena.worker("worker")
    await arena.admin.wait_for_state(run, "RUNNING", seconds=30)
    await worker.kill()
    task = await arena.task_of(run)

    async def stopped() -> bool:
        return task.status == "STOPPED"

    await arena.until(stopped)
    arena.aws.advance(2 * 3600)
    arena.worker("other")
    ended = await arena.ends(run, "CRASHED", seconds=100)
    assert "ECS" in ended["state"]["message"]


# -- nothing that goes on elsewhere is marked Crashed


async def test_what_has_ended_or_goes_on_elsewhere_is_left_alone(arena: Arena) -> None:
    arena.aws.ecs.scripts.default = TaskScript(running=None, flow=FlowScript(seconds=0.5, ends_as="PAUSED"))
    paused, failed, rescheduled = await arena.runs(3)
    dies_untold = TaskScript(running=None, flow=FlowScript(seconds=3, ends_as=None), exit_code=1)
    fails = TaskScript(running=None, flow=FlowScript(seconds=0.5, ends_as="FAILED"))
    arena.aws.script(ScriptRule(containing=failed, script=fails))
    arena.aws.script(ScriptRule(containing=rescheduled, script=dies_untold))
    worker = arena.worker("worker")
    await arena.admin.wait_for_state(rescheduled, "RUNNING", seconds=30)
    later = "2099-01-01T00:00:00+00:00"
    await arena.admin.set_state(rescheduled, "SCHEDULED", name="AwaitingRetry", scheduled_time=later, force=True)

    async def let_go() -> bool:
        return worker.output.count("its task has stopped, the run is") == 3

    await arena.until(let_go, 40)
    states = [(await arena.admin.read_run(run))["state_type"] for run in (paused, failed, rescheduled)]
    assert states == ["PAUSED", "FAILED", "SCHEDULED"]
    assert all(len(arena.tasks_of(run)) == 1 for run in (paused, failed, rescheduled))


# -- cancelling


async def test_a_cancelled_run_has_its_task_stopped_whatever_its_phase(arena: Arena) -> None:
    """Unclaimed, waiting to launch, asked and not answered, provisioning, running and heeding, running and deaf."""
    names = ("waiting", "unanswered", "provisioning", "running", "deaf")
    runs = {name: await arena.run() for name in names}
    arena.aws.fault(
        fault(What.THROTTLE, action="RunTask", containing=runs["waiting"]),
        fault(What.LOST_AFTER, action="RunTask", containing=runs["unanswered"], end=15),
    )
    rules = {
        "unanswered": TaskScript(provisioning=None),
        "provisioning": TaskScript(provisioning=None),
        "running": TaskScript(running=None, flow=FlowScript(seconds=600)),
        "deaf": TaskScript(running=None, flow=FlowScript(seconds=600, heeds_cancel=False)),
    }
    arena.aws.script(*(ScriptRule(containing=runs[name], script=script) for name, script in rules.items()))
    later = await arena.run(state={"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-01-01T00:00:00Z"}})
    arena.worker("worker")
    for name in ("running", "deaf"):
        await arena.admin.wait_for_state(runs[name], "RUNNING", seconds=40)
    for name in ("unanswered", "provisioning"):
        await arena.task_of(runs[name])
    await arena.admin.wait_for_state(runs["waiting"], "PENDING", seconds=40)
    for run in (*runs.values(), later):
        await arena.admin.cancel(run)
    for run in (*runs.values(), later):
        await arena.ends(run, "CANCELLED", seconds=60)
    assert [len(arena.tasks_of(runs[name])) for name in names] == [0, 1, 1, 1, 1]
    assert arena.tasks_of(later) == []
    assert all(task.stopping for task in arena.aws.launched)
    for name in ("unanswered", "provisioning", "deaf"):
        (task,) = arena.tasks_of(runs[name])
        assert runs[name] in task.document["stoppedReason"]


# -- leaving


@pytest.mark.timeout(400)
async def test_sigterm_with_two_hundred_claims_loses_none(arena: Arena) -> None:
    number, deadline, killed_after = 200, 15.0, 30.0
    arena.aws.ecs.scripts.default = TaskScript(running=None, flow=FlowScript(seconds=0))
    runs = await arena.runs(number)
    arena.aws.fault(fault(What.THROTTLE, action="RunTask", nth=tuple(range(20, 10_000))))
    worker = arena.worker("worker", ECS_WORKER_MAX_LAUNCHING=str(number), ECS_WORKER_STOP_SECONDS=str(deadline))

    async def claimed() -> bool:
        return arena.proxy.director.count(CLAIM, WORKERS) >= number

    await arena.until(claimed, 120)
    worker.send(signal.SIGTERM)
    assert await worker.wait(killed_after) == 0  # as ECS does by default; on a busy machine all takes its time
    arena.aws.director.clear()
    arena.worker("other")
    await all_complete_once(arena, runs, seconds=150)
