"""What becomes of a stopped task's run that the server's bulk read doesn't show."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.model import Phase
from support.simulator import TaskScript

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.ledger import Held
    from support.scene import Scene

pytestmark = pytest.mark.anyio

IMPOSSIBLE: Any = "impossible"  # the program itself would have to be wrong to hold it


async def dies(scene: Scene) -> Held:
    """A run whose task ends without a word."""
    scene.aws.ecs.scripts.default = TaskScript(running=0.1, exit_code=1)
    held = await scene.launched()
    scene.aws.advance(10)
    await scene.watch()
    assert held.phase is Phase.STOPPED
    return held


async def test_a_run_that_a_bulk_read_misses_is_crashed_all_the_same(scene: Scene) -> None:
    held = await dies(scene)
    scene.api.unlisted.add(str(held.run.run_id))
    await scene.report()
    assert scene.state(held)["type"] == "CRASHED"
    assert held.run.run_id not in scene.worker.ledger


async def test_a_deleted_run_is_forgotten(scene: Scene) -> None:
    held = await dies(scene)
    del scene.api.runs[str(held.run.run_id)]
    await scene.report()
    assert held.run.run_id not in scene.worker.ledger
    assert scene.worker.ledger.counts["ended_deleted"] == 1


async def test_a_fault_in_one_end_keeps_no_other_from_being_told(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = [await dies(scene) for _ in range(2)]
    assert broken.placement is not None
    broken.placement = replace(broken.placement, log=IMPOSSIBLE)
    await scene.report()
    assert scene.state(sound)["type"] == "CRASHED"
    assert f"{broken.run.name} met a fault" in caplog.text
