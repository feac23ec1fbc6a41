"""Where settings come from, and what the worker shows of itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest

from ecs_worker.job.variables import default_base_job_template
from support.servers.prefect import free_port
from support.servers.worker import QUICK, command, environment
from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from support.world import World

pytestmark = pytest.mark.anyio


async def test_api_url_of_the_active_profile(world: World, tmp_path: Path) -> None:
    """It reaches the containers too, as the worker's variables would."""
    profiles = tmp_path / ".prefect" / "profiles.toml"
    profiles.parent.mkdir()
    profiles.write_text(
        f'active = "here"\n[profiles.here]\nPREFECT_API_URL = "{world.server.url}"\n'
        '[profiles.elsewhere]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'
    )
    env = environment(tmp_path, aws_url=world.aws_url, extra=QUICK)
    assert "PREFECT_API_URL" not in env
    arguments = ["start", "--pool", world.pool, "--cluster", world.pool]
    async with command(tmp_path, arguments, env, log=tmp_path / "log", whole=True) as process:
        await world.admin.wait_for_state(await world.run("RUNNING", "COMPLETED"), "COMPLETED")
        assert await process.stop() == 0


async def test_every_option_is_a_variable_too(world: World, tmp_path: Path) -> None:
    own = {"ECS_WORKER_POOL": world.pool, "ECS_WORKER_CLUSTER": world.pool, "ECS_WORKER_NAME": "by-variable"}
    extra = {**QUICK, **own, "ECS_WORKER_RUN_ONCE": "true", "ECS_WORKER_LOG_FORMAT": "json"}
    run_id = await world.run("RUNNING", "COMPLETED")
    env = environment(tmp_path, api_url=world.server.url, aws_url=world.aws_url, extra=extra)
    async with command(tmp_path, ["start"], env, log=tmp_path / "log", whole=True) as process:
        assert await process.wait() == 0
    tags = {tag["key"]: tag["value"] for tag in (await world.task_of(run_id))["tags"]}
    assert tags["prefect.io/worker-name"] == "by-variable"


async def test_jobs_read_of_the_worker_s_environment_what_its_operator_allows(world: World) -> None:
    template = default_base_job_template()
    template["variables"]["properties"]["env"]["default"] = {"POOL": "{{ $DB_PASSWORD }}"}
    await world.admin.call("PATCH", f"/work_pools/{world.pool}", json={"base_job_template": template})
    own = {"DB_PASSWORD": "hunter2", "TEAM_NAME": "data"}
    async with world.worker("--job-env-from-worker", "TEAM_*", env=own) as process:
        asking = {"STOLEN": "{{ $DB_PASSWORD }}", "TEAM": "{{ $TEAM_NAME }}"}
        run_id = await world.run("RUNNING", "COMPLETED", env=asking)
        await world.admin.wait_for_state(run_id, "COMPLETED")
        await process.wait_for_output("env asks for DB_PASSWORD of the worker's environment, which jobs may not read")
        assert "hunter2" not in process.output
    (container,) = (await world.task_of(run_id))["overrides"]["containerOverrides"]
    env = {item["name"]: item["value"] for item in container["environment"]}
    assert (env["STOLEN"], env["TEAM"], env["POOL"]) == ("{{ $DB_PASSWORD }}", "data", "hunter2")


async def test_aws_region_is_honoured(world: World, tmp_path: Path) -> None:
    """ECS and Lambda set AWS_REGION; botocore itself reads AWS_DEFAULT_REGION only."""
    env = environment(tmp_path, api_url=world.server.url, aws_url=world.aws_url, extra=QUICK)
    del env["AWS_DEFAULT_REGION"]
    arguments = ["start", "--pool", world.pool, "--run-once"]
    run_id = await world.run("RUNNING", "COMPLETED")
    async with command(tmp_path, arguments, env | {"AWS_REGION": "eu-west-1"}, log=tmp_path / "log") as process:
        assert await process.wait() == 0
    run = await world.admin.wait_for_state(run_id, "COMPLETED")
    assert "::arn:aws:ecs:eu-west-1:" in run["infrastructure_pid"]


async def test_health_and_metrics(world: World, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    env = environment(tmp_path)

    async def ask_health() -> tuple[int, str]:
        log = tmp_path / f"health-{free_port()}.log"
        async with command(tmp_path, ["health", "--health-address", address], env, log=log) as asking:
            return await asking.wait(), asking.output

    code, told = await ask_health()
    assert code == 1
    assert address in told
    assert "Traceback" not in told
    async with world.worker("--with-healthcheck", "--health-address", address) as process:
        await process.wait_for_output(f"http://{address}")
        run_id = await world.run("RUNNING", "sleep=30")
        await world.admin.wait_for_state(run_id, "RUNNING")
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
            answer = await client.get("/health")
            assert answer.status_code == 200
            assert answer.json()["healthy"] is True
            assert answer.json()["runs"] == 1

            async def counted() -> bool:
                text = (await client.get("/metrics")).text
                return all(
                    line in text
                    for line in (
                        'ecs_worker_runs{phase="running"} 1.0',
                        'ecs_worker_events_total{event="launched"} 1.0',
                        "ecs_worker_last_poll_age_seconds",
                    )
                )

            await until(counted)
        code, told = await ask_health()
        assert code == 0
        assert json.loads(told)["healthy"] is True
        assert await process.stop() == 0


async def test_nothing_is_served_unless_asked_for(world: World) -> None:
    port = free_port()
    async with world.worker("--health-address", f"127.0.0.1:{port}") as process:
        await process.wait_for_output("takes flow runs")
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.1:{port}/health")


async def test_json_lines(world: World) -> None:
    async with world.worker("--log-format", "json", name="a-worker") as process:
        run_id = await world.run("RUNNING", "exit=1")
        await world.admin.wait_for_state(run_id, "CRASHED")
        await process.wait_for_output("Crashed:")
        assert await process.stop() == 0
    lines = [json.loads(line) for line in process.output.splitlines()]
    assert all(set(line) >= {"time", "level", "logger", "message"} for line in lines)
    crash = next(line for line in lines if "Crashed:" in line["message"])
    assert crash["flow_run_id"] == run_id
    assert crash["level"] == "error"
