from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from support.clients import Clients
from support.simulator.aws import AwsSimulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def aws() -> AsyncIterator[AwsSimulator]:
    """A simulator whose every answer is compared with botocore's model."""
    async with AwsSimulator(check_answers=True) as simulator:
        yield simulator
        assert simulator.violations == []


@pytest.fixture
async def clients(aws: AwsSimulator) -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(aws.url, stack)


@pytest.fixture
async def ecs(clients: Clients) -> Any:
    return await clients.make("ecs")
