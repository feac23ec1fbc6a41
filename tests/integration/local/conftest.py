from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from support.embedded import LOG_GROUP, connected
from support.servers.shared import shared_aws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.embedded import Aws


@pytest.fixture(scope="session")
async def aws(anyio_backend: str, session_directory: Path) -> AsyncIterator[Aws]:
    """One embedded AWS for all tests, quicker than by default; each test takes names of its own."""
    assert anyio_backend == "asyncio"
    async with ready(shared_aws(session_directory, "local_aws", step_seconds=0.05)) as aws:
        yield aws


@pytest.fixture(scope="session")
async def slow_aws(anyio_backend: str, session_directory: Path) -> AsyncIterator[Aws]:
    """Another one, whose tasks stay long enough in each status for a busy machine to see them all."""
    assert anyio_backend == "asyncio"
    async with ready(shared_aws(session_directory, "local_slow_aws", step_seconds=0.4)) as aws:
        yield aws


@asynccontextmanager
async def ready(url: str) -> AsyncIterator[Aws]:
    """Clients of the embedded AWS at that URL, which has a network and a log group."""
    async with connected(url) as aws:
        aws.subnets = [subnet["SubnetId"] for subnet in (await aws.ec2.describe_subnets())["Subnets"]]
        with suppress(aws.logs.exceptions.ResourceAlreadyExistsException):  # another process was first
            await aws.logs.create_log_group(logGroupName=LOG_GROUP)
        yield aws
