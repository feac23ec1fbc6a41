"""What /health and /metrics tell of a worker, whatever its servers do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from ecs_worker.ops.health import serve
from ecs_worker.settings import WorkerSettings
from support.scene import POOL
from support.servers.prefect import free_port
from support.simulator import What, fault
from support.waiting import until

if TYPE_CHECKING:
    from support.scene import MakeScene

pytestmark = pytest.mark.anyio


async def test_health_and_metrics_tell_slots_waits_and_last_answers(make_scene: MakeScene) -> None:
    settings = WorkerSettings(pool=POOL, name="worker", limit=4, health_address=f"127.0.0.1:{free_port()}")
    scene = await make_scene(settings)
    scene.aws.fault(fault(What.FAILURES, action="RunTask"))
    run_id = scene.api.add_run()
    scene.api.runs[run_id]["job_variables"] = {"launch_type": "EC2"}
    async with scene.parts.way.open(0), anyio.create_task_group() as serving, httpx.AsyncClient() as client:
        serving.start_soon(serve, scene.parts, settings)
        for scheduled in await scene.scheduled():
            scene.parts.way.send_scheduled(scheduled, scene.clock())
        await until(lambda: len(scene.parts.ledger.aside))

        async def told() -> dict[str, Any] | None:
            try:
                answer: dict[str, Any] = (await client.get(f"http://{settings.health_address}/health")).json()
            except httpx.ConnectError:
                return None
            return answer

        health = await until(told)
        metrics = (await client.get(f"http://{settings.health_address}/metrics")).text
        serving.cancel_scope.cancel()
    assert (health["healthy"], health["name"], health["pool"], health["runs"]) == (True, "worker", POOL, 1)
    assert health["slots"] == {"free": 3, "limit": 4, "kept_for_orphans": 0, "launches_aside": 1}
    (wait,) = health["waits"]
    assert (wait["place"], wait["launches"], wait["why"]) == ("us-east-1 default EC2", 1, "RESOURCE:MEMORY")
    assert health["prefect_answered_seconds_ago"] < 30
    assert health["aws_answered_seconds_ago"]["ecs us-east-1 123456789012"] < 30
    assert 'ecs_worker_launches_waiting{place="us-east-1 default EC2"} 1.0' in metrics
    assert "ecs_worker_free_slots 3.0" in metrics
    assert "ecs_worker_prefect_answer_age_seconds" in metrics
    assert 'ecs_worker_aws_answer_age_seconds{target="ecs us-east-1 123456789012"}' in metrics
