"""A simulated AWS with a queue of task events."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import aioboto3
import pytest

from support.listeners import Scene
from support.simulator import AwsSimulator
from support.simulator.helpers import point_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(AwsSimulator(check_answers=True))
        point_at(simulator.url, monkeypatch)
        session = aioboto3.Session()
        ecs = await stack.enter_async_context(session.client("ecs"))
        sqs = await stack.enter_async_context(session.client("sqs"))
        yield Scene(simulator, ecs, sqs, stack)
    assert simulator.violations == []
