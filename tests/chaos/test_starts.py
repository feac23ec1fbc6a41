"""Tasks that never start: what passes is tried again, what can't pass is said at once with its remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.arena import Arena
from support.simulator import START_FAILURES, FlowScript, ScriptRule, TaskScript, fails_to_start, spot_interruption

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.servers.prefect import PrefectServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

# They can't pass until somebody changes something (images, rights, secrets, configuration); all others may.
PERMANENT = {
    "image_not_found",
    "image_access_denied",
    "image_wrong_platform",
    "image_disk_full",
    "secret_denied",
    "secret_missing",
    "log_group_missing",
    "log_access_denied",
    "attribute",
    "command_not_found",
    "resource_not_found",
    "volume",
    "efs",
}
ATTEMPTS = 3


@pytest.fixture
async def arena(prefect3: PrefectServer, tmp_path: Path) -> AsyncIterator[Arena]:
    async with Arena(prefect3, tmp_path) as arena:
        yield arena
        assert "Traceback" not in arena.outputs()


async def test_each_reason_gets_the_attempts_that_it_is_worth(arena: Arena) -> None:
    runs = {name: await arena.run() for name in START_FAILURES}
    arena.aws.script(*(ScriptRule(containing=run, script=fails_to_start(name)) for name, run in runs.items()))
    arena.worker("worker")
    states = {name: (await arena.ends(run, "CRASHED", seconds=90))["state"] for name, run in runs.items()}
    tasks = {name: len(arena.tasks_of(run)) for name, run in runs.items()}
    assert tasks == {name: 1 if name in PERMANENT else ATTEMPTS for name in runs}
    for name, state in states.items():
        assert START_FAILURES[name][1][:60] in state["message"], (name, state["message"])
    assert arena.aws.ecs.fleet.flow_runs == {}


async def test_attempts_are_the_jobs_to_say_and_end_with_success(arena: Arena) -> None:
    one = await arena.run_with(start_attempts=1)
    two = await arena.run_with(start_attempts=2)
    arena.aws.ecs.scripts.default = TaskScript(flow=FlowScript(seconds=0.2))
    broken = fails_to_start("eni_timeout")
    arena.aws.script(ScriptRule(containing=one, script=broken, nth=(1,)))
    arena.aws.script(ScriptRule(containing=two, script=broken, nth=(1,)))
    arena.worker("worker")
    await arena.ends(one, "CRASHED")
    ended = await arena.ends(two, "COMPLETED")
    assert len(arena.tasks_of(one)) == 1
    assert len(arena.tasks_of(two)) == 2
    assert str(ended["infrastructure_pid"]).endswith(arena.tasks_of(two)[1].arn)
    assert arena.effective(two) == [arena.tasks_of(two)[1].arn]


async def test_a_task_that_never_starts_is_stopped(arena: Arena) -> None:
    arena.aws.ecs.scripts.default = TaskScript(provisioning=None)
    run = await arena.run_with(task_start_timeout_seconds=3)
    arena.worker("worker")
    ended = await arena.ends(run, "CRASHED")
    assert "task_start_timeout_seconds" in ended["state"]["message"]
    (task,) = arena.tasks_of(run)
    assert task.status == "STOPPED"
    assert run in task.document["stoppedReason"]


async def test_spot_that_is_taken_away_before_the_start_falls_back_if_wanted(arena: Arena) -> None:
    spot = {"launch_type": "FARGATE_SPOT"}
    stays = await arena.run_with(**spot)
    falls_back = await arena.run_with(**spot, spot_fallback=True)
    arena.aws.ecs.scripts.default = TaskScript(flow=FlowScript(seconds=0.2))
    taken = fails_to_start("spot_before_start")
    for run in (stays, falls_back):
        arena.aws.script(ScriptRule(containing=run, script=taken, nth=(1,)))
    arena.worker("worker")
    capacity = {}
    for run in (stays, falls_back):
        await arena.ends(run, "COMPLETED")
        capacity[run] = [task.document.get("capacityProviderName", "") for task in arena.tasks_of(run)]
    assert capacity[stays] == ["FARGATE_SPOT", "FARGATE_SPOT"]
    assert capacity[falls_back][0] == "FARGATE_SPOT"
    assert capacity[falls_back][1] != "FARGATE_SPOT"


async def test_a_flow_that_has_begun_is_never_started_again(arena: Arena) -> None:
    arena.aws.ecs.scripts.default = spot_interruption(600, flow=FlowScript(seconds=1, ends_as=None), exit_code=143)
    run = await arena.run_with(launch_type="FARGATE_SPOT", spot_fallback=True)
    arena.worker("worker")
    ended = await arena.ends(run, "CRASHED")
    assert "Spot" in ended["state"]["message"]
    assert len(arena.tasks_of(run)) == 1


async def test_after_spot_was_taken_from_a_flow_its_retry_goes_without(arena: Arena) -> None:
    arena.aws.ecs.scripts.default = TaskScript(flow=FlowScript(seconds=0.2))
    run = await arena.run_with(launch_type="FARGATE_SPOT", spot_fallback=True)
    lost = spot_interruption(600, flow=FlowScript(seconds=1, ends_as=None), exit_code=143)
    arena.aws.script(ScriptRule(containing=run, script=lost, nth=(1,)))
    arena.worker("first")
    await arena.ends(run, "CRASHED")
    await arena.admin.set_state(run, "SCHEDULED", force=True)
    await arena.ends(run, "COMPLETED", seconds=60)
    first, second = arena.tasks_of(run)
    assert first.document["capacityProviderName"] == "FARGATE_SPOT"
    assert second.document.get("capacityProviderName") != "FARGATE_SPOT"
