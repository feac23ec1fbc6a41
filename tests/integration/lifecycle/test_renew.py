"""The concurrency slots of runs whose tasks do not run yet are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from support.scene import Scene

pytestmark = pytest.mark.anyio


async def test_only_what_does_not_run_yet_is_renewed(scene: Scene) -> None:
    waiting, starting, running, without = [uuid4() for _ in range(4)]
    scene.api.leases = dict.fromkeys(map(str, (waiting, starting, running, without)), 0)
    running_run = await scene.launched()
    scene.aws.advance(10)
    await scene.watch()
    running_run.leased(running)
    scene.claimed().leased(waiting)
    (await scene.launched()).leased(starting)
    scene.claimed()
    await scene.parts.renewal.renew()
    assert scene.api.leases == {str(waiting): 1, str(starting): 1, str(running): 0, str(without): 0}


async def test_a_slot_that_went_to_another_run_is_not_asked_for_again(scene: Scene) -> None:
    run = scene.claimed()
    run.leased(uuid4())
    await scene.parts.renewal.renew()
    assert run.lease_id is None
    calls = len(scene.api.calls)
    await scene.parts.renewal.renew()
    assert len(scene.api.calls) == calls
