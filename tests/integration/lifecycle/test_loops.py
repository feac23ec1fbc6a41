"""A fault of ours in one run's affairs ends neither the worker nor the others'.

Such a fault is played by facts that can't be: the program itself would have to be wrong to hold them.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.aws.sqs import Message
from ecs_worker.lifecycle.listen import Fate
from ecs_worker.model import Phase

if TYPE_CHECKING:
    from support.scene import Scene

pytestmark = pytest.mark.anyio

IMPOSSIBLE: Any = "impossible"
BROKEN = {"version": IMPOSSIBLE}


async def test_a_sweep_goes_on_with_the_next_run(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    broken = await scene.launched(facts=BROKEN)
    unstoppable = await scene.launched(max_runtime=IMPOSSIBLE)
    sound = await scene.launched()
    scene.aws.advance(10)
    await scene.watch()
    assert sound.phase is Phase.RUNNING
    assert broken.due > scene.clock()  # and is not looked at all the time
    for run in (broken, unstoppable):
        assert f"{run.label} met a fault of ecs-worker: please report it" in caplog.text
    assert sound.label not in caplog.text


async def test_a_cancellation_goes_on_with_the_next_run(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = await scene.launched("CANCELLING", target=IMPOSSIBLE), await scene.launched("CANCELLING")
    await scene.cancel()
    assert sound.stop_reason
    assert f"{broken.label} met a fault" in caplog.text


async def test_an_event_goes_on_with_the_next_run(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = await scene.launched(facts=BROKEN), await scene.launched()
    told = []
    for run in (broken, sound):
        assert run.task is not None
        task = {"taskArn": run.task.arn, "startedBy": run.claim.started_by, "lastStatus": "STOPPED", "version": 9}
        body = {"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": task}
        told.append(Message(json.dumps(body), "receipt", sent=time.time()))
    listener = scene.parts.listener
    assert listener is not None
    assert listener.sort(told)[Fate.DELETE] == told
    assert sound.phase is Phase.STOPPED
    assert f"{broken.label} met a fault" in caplog.text
