"""What becomes of a stopped task's run that the server's bulk read doesn't show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.model import Phase
from support.simulator import TaskScript

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.run import Run
    from support.scene import Scene

pytestmark = pytest.mark.anyio

IMPOSSIBLE: Any = "impossible"  # the program itself would have to be wrong to hold it


async def dies(scene: Scene, **where: Any) -> Run:
    """A run whose task ends without a word."""
    scene.aws.ecs.scripts.default = TaskScript(running=0.1, exit_code=1)
    run = await scene.launched(**where)
    scene.aws.advance(10)
    await scene.watch()
    assert run.phase is Phase.STOPPED
    return run


async def test_a_run_that_a_bulk_read_misses_is_crashed_all_the_same(scene: Scene) -> None:
    run = await dies(scene)
    scene.api.unlisted.add(str(run.id))
    await scene.report()
    assert scene.state(run)["type"] == "CRASHED"
    assert run.id not in scene.parts.ledger


async def test_a_deleted_run_is_forgotten(scene: Scene) -> None:
    run = await dies(scene)
    del scene.api.runs[str(run.id)]
    await scene.report()
    assert run.id not in scene.parts.ledger
    assert scene.parts.journal.counts["ended_deleted"] == 1


async def test_a_fault_in_one_end_keeps_no_other_from_being_told(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = await dies(scene, log=IMPOSSIBLE), await dies(scene)
    await scene.report()
    assert scene.state(sound)["type"] == "CRASHED"
    assert f"{broken.label} met a fault" in caplog.text


async def test_an_abandoned_run_ends_with_its_reason(scene: Scene) -> None:
    run = scene.claimed()
    run.abandoned("There is no such cluster.")
    await scene.report()
    assert (scene.state(run)["type"], scene.state(run)["message"]) == ("CRASHED", "There is no such cluster.")
    assert len(scene.parts.ledger) == 0


async def test_an_abandoned_run_that_is_cancelled_ends_cancelled(scene: Scene) -> None:
    run = scene.claimed("CANCELLING")
    run.abandoned("It was cancelled.")
    await scene.report()
    assert scene.state(run)["type"] == "CANCELLED"
