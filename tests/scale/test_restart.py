"""A worker restarts with two thousand running runs under a limit of calls to the Prefect API, in virtual time."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio
import pytest

from ecs_worker.settings import PrefectSettings, WorkerSettings
from ecs_worker.worker import Worker
from support.builders import quick_template
from support.servers.canned import serve
from support.simulator import AwsSimulator, FlowScript, TaskScript
from support.simulator.flow_container import FlowEnd
from support.virtual import VirtualTime
from support.waiting import until
from support.week.prefect import POOL, Weather, WeekApi

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from support.simulator.fleet import Task

RUNNING, NEW = 2_000, 60
MOST = 1_000  # calls a minute
LONGEST_GAP = 20.0  # seconds between two heartbeats; by default a worker is gone after 30
STARTED_WITHIN = 60.0  # seconds for a new run
LOOK = 1.0  # seconds between two looks of the test


class Api(WeekApi):
    """Knows when heartbeats came."""

    def __init__(self) -> None:
        super().__init__(quick_template(), ("default",), random.Random(1))  # noqa: S311 - not a secret
        self.beats: list[tuple[str, float]] = []

    async def _heartbeat(self, request: web.Request) -> web.Response:
        self.beats.append(((await request.json())["name"], time.time()))
        return await super()._heartbeat(request)

    async def play(self, task: Task, on_running: Callable[[], None]) -> FlowEnd:
        """A flow that tells that it runs, and goes on."""
        running = {"type": "RUNNING", "name": "Running"}
        answer = self.propose(task.flow_run_id, running)
        if answer.status == "WAIT":  # it is not due yet
            await anyio.sleep(answer.delay)
            self.propose(task.flow_run_id, running)
        on_running()
        await anyio.sleep_forever()
        return FlowEnd.DONE

    def running(self) -> int:
        return sum(run["state_type"] == "RUNNING" for run in self.runs.values())


@pytest.mark.timeout(600)
def test_heartbeats_and_claims_go_on(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an-example")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with VirtualTime(datetime(2026, 3, 2, tzinfo=UTC)) as virtual:
        figures = virtual.run(_restart(monkeypatch))
    record_property("restart", figures)
    print(figures)  # noqa: T201 - for `pytest -s`
    assert figures["gap"] <= LONGEST_GAP, figures
    assert figures["started"] <= STARTED_WITHIN, figures
    assert figures["tasks"] == RUNNING + NEW, figures
    assert figures["calls"] <= MOST, figures


async def _restart(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    api, aws = Api(), AwsSimulator(seed=1)
    async with serve(api), aws, anyio.create_task_group() as group:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
        aws.ecs.scripts.default = TaskScript(flow=FlowScript())
        aws.ecs.fleet.player = api.play
        deployment = api.deploy("deployment", "default")
        first, death = _worker(api, "first"), anyio.CancelScope()

        async def lives() -> None:
            with death:
                await first.run()

        group.start_soon(lives)
        for number in range(RUNNING):
            api.schedule(deployment, f"running-{number}", time.time())
        await until(lambda: api.running() == RUNNING, 1_200, every=LOOK)
        death.cancel()

        await anyio.sleep(60 - time.time() % 60)  # the limit goes by the minute, and the first worker had none
        api.weather.append(Weather("limit", most=MOST))
        second, began = _worker(api, "second"), time.time()
        group.start_soon(second.run)
        for number in range(NEW):
            api.schedule(deployment, f"new-{number}", began + number)
        await until(lambda: api.running() == RUNNING + NEW, 600, every=LOOK)
        started = time.time() - began - NEW
        parts = second.parts
        assert parts is not None  # it has launched
        await until(lambda: len(parts.ledger) == RUNNING + NEW, 600, every=LOOK)
        adopted = time.time() - began
        await anyio.sleep(120)
        beats = [began, *(at for name, at in api.beats if name == "second"), time.time()]
        group.cancel_scope.cancel()
    return {
        "gap": max(after - before for before, after in pairwise(beats)),
        "started": started,
        "tasks": len(aws.launched),
        "adopted": adopted,
        "calls": max(number for minute, number in api.traffic.calls.items() if minute in api.traffic.limited),
        "refused": api.traffic.refused.total(),
    }


def _worker(api: WeekApi, name: str) -> Worker:
    return Worker(WorkerSettings(pool=POOL, name=name), PrefectSettings(api_url=api.url))
