"""The simulator's CloudWatch Logs, real clients of it, and readers that follow its time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from ecs_worker.aws.limits import Limits
from ecs_worker.aws.session import Aws
from ecs_worker.lifecycle.journal.reader import Reader
from support.reading import PACE, SPEED, Console
from support.simulator.aws import AwsSimulator
from support.simulator.helpers import point_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class SimulatedTime:
    """AWS's request limits hold in its own time."""

    def now(self) -> float:
        return time.monotonic() * SPEED

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds / SPEED)


@pytest.fixture
async def cloud(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AwsSimulator]:
    """Fifty times as fast as the world."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    async with AwsSimulator(seed=4, speed=SPEED) as simulator:
        point_at(simulator.url, monkeypatch)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        simulator.logs.create_group("flows")
        yield simulator


@pytest.fixture
async def aws(cloud: AwsSimulator) -> AsyncIterator[Aws]:  # noqa: ARG001 - its address is in the environment
    async with Aws(limits=Limits(clock=SimulatedTime())) as session:
        yield session


@pytest.fixture
def console(cloud: AwsSimulator, aws: Aws) -> Console:
    """What readers pass on, and the containers that write."""
    return Console(cloud, Reader(aws, PACE))
