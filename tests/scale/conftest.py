"""AWS and a canned Prefect API in a thread of their own: what the test's own thread uses is the worker's."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal

from ecs_worker.job.variables import default_base_job_template
from support.servers.canned import CannedApi, serve
from support.simulator import AwsSimulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

from support.outside import POOL, Outside


@asynccontextmanager
async def _serve() -> AsyncIterator[tuple[AwsSimulator, CannedApi]]:
    async with AsyncExitStack() as stack:
        aws = await stack.enter_async_context(AwsSimulator(seed=5, limits="aws"))
        api = await stack.enter_async_context(serve(CannedApi(POOL, default_base_job_template())))
        yield aws, api


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    for name in [name for name in os.environ if name.startswith(("AWS_", "ECS_WORKER_"))]:
        monkeypatch.delenv(name)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_serve()) as (aws, api):
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an-example")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield Outside(portal, aws, api)
