"""Runs that wait for capacity leave their launching slots to others, and a crowd of them is given back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.lifecycle.run.aside import FIRST_LATER
from ecs_worker.model import Phase
from ecs_worker.settings import WorkerSettings
from support.scene import POOL
from support.simulator import What, fault
from support.waiting import until

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.run import Run
    from support.scene import MakeScene, Scene

pytestmark = pytest.mark.anyio

FULL = "full"


async def full_cluster(make_scene: MakeScene, **settings: Any) -> Scene:
    """A scene whose cluster FULL has no capacity."""
    scene = await make_scene(WorkerSettings(pool=POOL, name="worker", **settings))
    for cluster in (FULL, "default"):
        scene.aws.ecs.create_cluster(cluster)
    scene.aws.fault(fault(What.FAILURES, action="RunTask", containing=f'"{FULL}"'))
    return scene


async def send(scene: Scene, number: int, cluster: str) -> list[str]:
    """So many scheduled runs for the cluster, on their way; their ids."""
    ids = [scene.api.add_run() for _ in range(number)]
    for run_id in ids:
        scene.api.runs[run_id]["job_variables"] = {"cluster": cluster, "launch_type": "EC2"}
    for scheduled in await scene.scheduled():
        if str(scheduled.id) in ids:
            scene.parts.way.send_scheduled(scheduled, scene.clock())
    return ids


def held(scene: Scene, ids: list[str]) -> list[Run]:
    return [run for run in scene.parts.ledger if str(run.id) in ids]


async def test_launches_that_wait_leave_their_slots_to_others(make_scene: MakeScene) -> None:
    scene = await full_cluster(make_scene, max_launching=3)
    async with scene.parts.way.open(0):
        waiting = await send(scene, 3, FULL)
        await until(lambda: len(scene.parts.ledger.aside) == 3)
        assert scene.parts.ledger.free == 3
        others = await send(scene, 3, "default")
        await until(lambda: [run.phase for run in held(scene, others)] == [Phase.STARTING] * 3)
        assert [run.phase for run in held(scene, waiting)] == [Phase.LAUNCHING] * 3
        assert scene.parts.ledger.free == 3


async def test_a_crowd_is_given_back_for_later_with_the_reason(make_scene: MakeScene) -> None:
    scene = await full_cluster(make_scene, limit=4)  # half of it may wait for one place
    async with scene.parts.way.open(0):
        sent = await send(scene, 4, FULL)
        await until(lambda: len(held(scene, sent)) == 2)
        assert scene.parts.ledger.free == 2
        scene.clock.advance(60)
        (late,) = await send(scene, 1, FULL)
        given_back = [*(run_id for run_id in sent if not held(scene, [run_id])), late]
        await until(lambda: len(scene.api.history[late]) == 3 and not held(scene, [late]))
        assert len(given_back) == 3
        assert not any(late in call.text for call in scene.aws.calls)  # that there is no room is known
    delays = []
    for run_id in given_back:
        state = scene.api.runs[run_id]["state"]
        assert "RESOURCE:MEMORY" in state["message"]
        due = datetime.fromisoformat(state["state_details"]["scheduled_time"])
        delays.append((due - datetime.now(UTC)).total_seconds())
    assert min(delays) > FIRST_LATER - 30
    assert delays[1] - delays[0] > 0.5  # not all at the same time
