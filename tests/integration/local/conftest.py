from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ecs_worker.local.server import EmbeddedAws, LocalSettings
from support.embedded import LOG_GROUP, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.embedded import Aws


@pytest.fixture(scope="session")
async def aws(anyio_backend: str) -> AsyncIterator[Aws]:
    """One embedded AWS for all tests, quicker than by default; each test takes names of its own."""
    assert anyio_backend == "asyncio"
    async with EmbeddedAws(LocalSettings(step_seconds=0.05)) as served, connected(served.url) as aws:
        aws.subnets = [subnet["SubnetId"] for subnet in (await aws.ec2.describe_subnets())["Subnets"]]
        await aws.logs.create_log_group(logGroupName=LOG_GROUP)
        yield aws
