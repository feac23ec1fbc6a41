"""A fault of ours in one run's affairs ends neither the worker nor the others'.

Such a fault is played by facts that can't be: the program itself would have to be wrong to hold them.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.aws.sqs import Message
from ecs_worker.lifecycle.listen import Fate
from ecs_worker.model import Phase

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.ledger import Held
    from support.scene import Scene

pytestmark = pytest.mark.anyio

IMPOSSIBLE: Any = "impossible"


def break_facts(held: Held) -> None:
    assert held.task is not None
    held.task = replace(held.task, version=IMPOSSIBLE)


async def test_a_sweep_goes_on_with_the_next_run(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    broken, unstoppable, sound = [await scene.launched() for _ in range(3)]
    break_facts(broken)
    assert unstoppable.placement is not None
    unstoppable.placement = replace(unstoppable.placement, max_runtime=IMPOSSIBLE)
    scene.aws.advance(10)
    await scene.watch()
    assert sound.phase is Phase.RUNNING
    assert broken.due > time.monotonic()  # and is not looked at all the time
    for held in (broken, unstoppable):
        assert f"{held.run.name} met a fault of ecs-worker: please report it" in caplog.text
    assert sound.run.name not in caplog.text


async def test_a_cancellation_goes_on_with_the_next_run(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = [await scene.launched("CANCELLING") for _ in range(2)]
    assert broken.placement is not None
    broken.placement = replace(broken.placement, target=IMPOSSIBLE)
    await scene.worker._cancel.once()  # noqa: SLF001 - one of its loops
    assert sound.stop_reason
    assert f"{broken.run.name} met a fault" in caplog.text


async def test_an_event_goes_on_with_the_next_run(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = [await scene.launched() for _ in range(2)]
    break_facts(broken)
    told = []
    for held in (broken, sound):
        assert held.task is not None
        task = {"taskArn": held.task.arn, "startedBy": held.run.started_by, "lastStatus": "STOPPED", "version": 9}
        body = {"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": task}
        told.append(Message(json.dumps(body), "receipt", sent=time.time()))
    events = scene.worker.events
    assert events is not None
    assert events.sort(told)[Fate.DELETE] == told
    assert sound.phase is Phase.STOPPED
    assert f"{broken.run.name} met a fault" in caplog.text
