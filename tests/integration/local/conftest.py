from __future__ import annotations

from contextlib import suppress
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
    async with connected(shared_aws(session_directory, "local_aws", step_seconds=0.05)) as aws:
        aws.subnets = [subnet["SubnetId"] for subnet in (await aws.ec2.describe_subnets())["Subnets"]]
        with suppress(aws.logs.exceptions.ResourceAlreadyExistsException):  # another process was first
            await aws.logs.create_log_group(logGroupName=LOG_GROUP)
        yield aws
