from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import aioboto3
import anyio
import pytest

from ecs_worker.aws.session import Aws
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings, WorkerSettings
from ecs_worker.worker import build
from support.builders import HandClock
from support.scene import POOL, Scene
from support.servers.canned import CannedApi, serve
from support.simulator import AwsSimulator, TaskScript
from support.simulator.helpers import DEFINITION, point_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from support.scene import MakeScene


@pytest.fixture
async def make_scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeScene]:
    """Makes a scene whose worker has these settings, and is in `region`. `beats`: how long ago others beat."""
    async with AsyncExitStack() as stack:

        async def make(
            settings: WorkerSettings, *, region: str = "us-east-1", beats: Mapping[str, float] | None = None
        ) -> Scene:
            simulator = await stack.enter_async_context(AwsSimulator())
            point_at(simulator.url, monkeypatch)
            monkeypatch.setenv("AWS_DEFAULT_REGION", region)
            simulator.ecs.scripts.default = TaskScript(running=None)
            simulator.logs.create_group("flows")
            ecs = await stack.enter_async_context(aioboto3.Session().client("ecs"))
            await ecs.register_task_definition(**DEFINITION)
            canned = await stack.enter_async_context(serve(CannedApi(POOL, default_base_job_template())))
            for name, ago in (beats or {}).items():
                canned.add_worker(name, status="OFFLINE", later=-ago)
            prefect = PrefectSettings(api_url=canned.url)
            aws = await stack.enter_async_context(Aws())
            api = await stack.enter_async_context(PrefectClient(prefect, patience_seconds=0))
            clock = HandClock()
            parts = build(settings, prefect, api, aws, stopping=anyio.Event(), clock=clock)
            await parts.heartbeat.begin()
            await parts.locate.settle()
            return Scene(simulator, canned, parts, ecs, clock, api)

        yield make


@pytest.fixture
async def scene(make_scene: MakeScene) -> Scene:
    return await make_scene(WorkerSettings(pool=POOL, name="worker", events_queue="events"))
