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
    from collections.abc import AsyncIterator


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(AwsSimulator())
        point_at(simulator.url, monkeypatch)
        simulator.ecs.scripts.default = TaskScript(running=None)
        simulator.logs.create_group("flows")
        ecs = await stack.enter_async_context(aioboto3.Session().client("ecs"))
        await ecs.register_task_definition(**DEFINITION)
        canned = await stack.enter_async_context(serve(CannedApi(POOL, default_base_job_template())))
        prefect = PrefectSettings(api_url=canned.url)
        settings = WorkerSettings(pool=POOL, name="worker", events_queue="events")
        aws = await stack.enter_async_context(Aws())
        api = await stack.enter_async_context(PrefectClient(prefect, patience_seconds=0))
        clock = HandClock()
        parts = build(settings, prefect, api, aws, stopping=anyio.Event(), clock=clock)
        scene = Scene(simulator, canned, parts, ecs, clock, api)
        await parts.heartbeat.begin()
        yield scene
