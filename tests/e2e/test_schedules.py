"""Runs that the server makes by itself, of a deployment's schedule."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from support.waiting import until

if TYPE_CHECKING:
    from support.world import World

pytestmark = pytest.mark.anyio
SECONDS = 15


async def test_an_interval_schedule_s_run_is_made_and_runs(either_world: World) -> None:
    world = either_world
    interval: dict[str, Any] = {"interval": SECONDS, "anchor_date": datetime.now(UTC).isoformat()}
    deployment = await world.deploy("RUNNING", "COMPLETED", schedules=[{"schedule": interval, "active": True}])
    completed: list[dict[str, Any]] = []

    async def some_completed() -> bool:
        runs = await world.admin.runs(world.pool)
        completed[:] = [run for run in runs if run["state_type"] == "COMPLETED"]
        return bool(completed)

    async with world.worker():
        await until(some_completed, 60, told=lambda: world.server.log.read_text()[-2000:])
    run = completed[0]
    assert (run["deployment_id"], run["auto_scheduled"]) == (deployment, True)
    due = datetime.fromisoformat(run["expected_start_time"])
    assert (due - datetime.fromisoformat(interval["anchor_date"])).total_seconds() % SECONDS == pytest.approx(0)
    assert (await world.task_of(run["id"]))["startedBy"].startswith(f"prefect/{run['id']}/")
