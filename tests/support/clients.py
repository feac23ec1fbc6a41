"""Real SDK clients of the simulated AWS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aioboto3
from aiobotocore.config import AioConfig

if TYPE_CHECKING:
    from contextlib import AsyncExitStack


class Clients:
    """Real SDK clients of a simulator; no retries, so that every error is seen."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack

    async def make(self, service: str, *, region: str = "us-east-1", key: str = "AKIATEST", attempts: int = 1) -> Any:
        session = aioboto3.Session(aws_access_key_id=key, aws_secret_access_key="secret", region_name=region)
        config = AioConfig(retries={"total_max_attempts": attempts, "mode": "standard"}, max_pool_connections=50)
        return await self._stack.enter_async_context(session.client(service, endpoint_url=self._url, config=config))
