"""A server that asks for an auth string and CSRF tokens, and what of it may be seen."""

from __future__ import annotations

import base64

import pytest

from support.world import AUTH_STRING, ROLE, World

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("guarded")]  # one process, as they are its server's only ones
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
API_KEY = "pnu_0123456789abcdefghijklmnopqrstuvwxyz"


async def test_run_completes_and_no_secret_is_told(guarded_world: World) -> None:
    world = guarded_world
    secrets = {"PREFECT_API_AUTH_STRING": AUTH_STRING, "PREFECT_API_KEY": API_KEY, "AWS_SECRET_ACCESS_KEY": AWS_SECRET}
    logged = {"configure_cloudwatch_logs": True, "stream_output": True, "execution_role_arn": ROLE}
    async with world.worker("--log-level", "debug", env=secrets, whole=True) as process:
        good = await world.run("RUNNING", "print=1", "COMPLETED", **logged)
        await world.admin.wait_for_state(good, "COMPLETED")
        await process.wait_for_output("line 0000")
        bad = await world.run("RUNNING", "exit=1")
        crashed = await world.admin.wait_for_state(bad, "CRASHED")
        refused = await world.run(cluster="nowhere")
        await world.admin.wait_for_state(refused, "CRASHED")
        assert await process.stop() == 0
    told = process.output + str(crashed) + str([await world.admin.logs(run_id) for run_id in (good, bad, refused)])
    tasks = await world.tasks()
    told += str([task["tags"] for task in tasks])
    for task in tasks:
        definition = await world.ecs.describe_task_definition(
            taskDefinition=task["taskDefinitionArn"], include=["TAGS"]
        )
        told += str(definition["taskDefinition"]) + str(definition["tags"])
    password = AUTH_STRING.partition(":")[2]
    encoded = base64.b64encode(AUTH_STRING.encode()).decode()
    for secret in (AUTH_STRING, password, encoded, API_KEY, AWS_SECRET):
        assert secret not in told


@pytest.mark.parametrize("given", ["administrator:wrong-password", None], ids=["wrong", "missing"])
async def test_refused_credentials_end_the_worker_with_a_remedy(guarded_world: World, given: str | None) -> None:
    env = {"PREFECT_API_AUTH_STRING": given} if given else {}
    async with guarded_world.worker(env=env) as process:
        assert await process.wait() == 2
    (sentence,) = process.output.splitlines()
    assert sentence.startswith("ecs-worker: ")
    assert "PREFECT_API_AUTH_STRING" in sentence
    assert "wrong-password" not in sentence
