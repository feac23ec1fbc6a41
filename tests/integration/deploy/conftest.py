from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.embedded import Aws, connected
from support.servers.shared import shared_aws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(scope="session")
async def aws(anyio_backend: str, session_directory: Path) -> AsyncIterator[Aws]:
    """Clients of an embedded AWS that all tests share; each takes names of its own."""
    assert anyio_backend == "asyncio"
    async with connected(shared_aws(session_directory, "deploy_aws", step_seconds=0.05)) as aws:
        yield aws
