"""A run's way, from Scheduled to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from support.paths import EXAMPLES
from support.servers.worker import worker
from support.waiting import until
from support.world import FLOWS, ROLE, World, steps

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio
LOGGED = {"configure_cloudwatch_logs": True, "execution_role_arn": ROLE}


async def test_flow_completes(admin3: Admin, aws: str, tmp_path: Path) -> None:
    """The main job, in a pool that the worker makes itself, on the account's default cluster."""
    pool = f"made-by-{tmp_path.name}"
    async with worker(tmp_path, pool, server=admin3.server, aws_url=aws, whole=True) as process:
        await process.wait_for_output("takes flow runs")
        made = await admin3.get(f"/work_pools/{pool}")
        assert made["type"] == "ecs"
        deployment = await admin3.create_deployment(
            pool,
            entrypoint="my_flow.py:my_flow",
            path=str(EXAMPLES),
            job_variables=LOGGED | {"stream_output": True, "env": {"GREETING": "Hello there"}},
        )
        run_id = await admin3.create_run(deployment, parameters={"text": "three words here"})
        run = await admin3.wait_for_state(run_id, "COMPLETED", "CRASHED", "FAILED", seconds=90)
        assert run["state_type"] == "COMPLETED", run["state"]
        cluster, _, task = run["infrastructure_pid"].partition("::")
        assert cluster.endswith(":cluster/default")
        assert task.startswith("arn:aws:ecs:us-east-1:123456789012:task/default/")
        assert run["labels"]["prefect.worker.type"] == "ecs"
        names = [state["name"] for state in await admin3.states(run_id)]
        assert names == ["Scheduled", "Pending", "Running", "Completed"]

        async def told() -> bool:
            messages = [line["message"] for line in await admin3.logs(run_id)]
            return any("STOPPED" in message for message in messages) and "Counted 3 words" in messages

        await until(told)
        line = "Hello there from the container's output"
        await process.wait_for_output(line)
        assert await process.stop() == 0
        assert process.output.count(line) == 1


async def test_flow_whose_process_dies_is_crashed(world: World) -> None:
    deployment = await world.deploy(
        entrypoint="crashing_flow.py:crashing_flow", path=str(EXAMPLES), job_variables=LOGGED
    )
    async with world.worker():
        run_id = await world.admin.create_run(deployment)
        run = await world.admin.wait_for_state(run_id, "CRASHED", seconds=90)
    assert "137" in run["state"]["message"]
    assert (await world.task_of(run_id))["taskArn"].rpartition("/")[2] in run["state"]["message"]  # where to look
    assert "Running" in [state["name"] for state in await world.admin.states(run_id)]


async def test_completes(either_world: World) -> None:
    world = either_world
    async with world.worker() as process:
        run_id = await world.run("RUNNING", "COMPLETED")
        run = await world.admin.wait_for_state(run_id, "COMPLETED")
        task = await world.wait_for_task(run_id, "STOPPED")
        assert run["infrastructure_pid"] == f"{world.pool}::{task['taskArn']}"
        assert task["startedBy"].startswith(f"prefect/{run_id}/")
        await process.wait_for_output("the run is Completed")
        assert await process.stop() == 0
    assert (await world.admin.read_run(run_id))["state_type"] == "COMPLETED"


@pytest.mark.parametrize("command", [("exit=3",), ("RUNNING", "exit=3")], ids=["before Running", "while Running"])
async def test_silent_end_is_crashed_with_its_cause(either_world: World, command: tuple[str, ...]) -> None:
    world = either_world
    async with world.worker():
        run_id = await world.run(*command)
        run = await world.admin.wait_for_state(run_id, "CRASHED")
        assert run["state"]["name"] == "Crashed"
        assert "exit code 3" in run["state"]["message"].lower() or "code 3" in run["state"]["message"]

        async def told() -> bool:
            lines = await world.admin.logs(run_id)
            return any("code 3" in line["message"] and line["level"] == 40 for line in lines)

        await until(told)
    await world.task_of(run_id)


async def test_a_run_on_managed_instances_as_the_example_has_it(world: World) -> None:
    variables = yaml.safe_load((EXAMPLES / "managed-instances.yaml").read_text(encoding="utf-8"))
    [provider] = variables["capacity_provider_strategy"]
    subnets = await world.subnets()
    await world.ecs.create_capacity_provider(
        name=provider["capacityProvider"],
        cluster=world.pool,
        managedInstancesProvider={
            "infrastructureRoleArn": ROLE,
            "instanceLaunchTemplate": {
                "ec2InstanceProfileArn": "arn:aws:iam::123456789012:instance-profile/p",
                "networkConfiguration": {"subnets": subnets},
            },
        },
    )
    async with world.worker():
        run_id = await world.run("RUNNING", "COMPLETED", **variables | {"cluster": world.pool, "subnets": subnets})
        await world.admin.wait_for_state(run_id, "COMPLETED")
        task = await world.wait_for_task(run_id, "STOPPED")
    assert (task["launchType"], task["capacityProviderName"]) == ("MANAGED_INSTANCES", provider["capacityProvider"])
    assert (task["cpu"], task["memory"]) == (str(variables["cpu"]), str(variables["memory"]))


async def test_launch_type_null_runs_where_the_cluster_s_default_strategy_says(world: World) -> None:
    await world.ecs.put_cluster_capacity_providers(
        cluster=world.pool,
        capacityProviders=["FARGATE", "FARGATE_SPOT"],
        defaultCapacityProviderStrategy=[{"capacityProvider": "FARGATE_SPOT", "weight": 1}],
    )
    async with world.worker():
        run_id = await world.run("RUNNING", "COMPLETED", launch_type=None, ephemeral_storage_gib=50)
        await world.admin.wait_for_state(run_id, "COMPLETED")
    task = await world.task_of(run_id)
    assert (task["launchType"], task["capacityProviderName"]) == ("FARGATE", "FARGATE_SPOT")


async def test_silent_success_is_crashed_too(world: World) -> None:
    """An exit code of 0 doesn't make a run end that never said so itself."""
    async with world.worker():
        run = await world.admin.wait_for_state(await world.run("RUNNING", "exit=0"), "CRASHED")
    assert "0" in run["state"]["message"]


@pytest.mark.parametrize(
    ("job", "words"),
    [
        pytest.param(
            {"command": "no-such-program --really"}, ["CannotStartContainerError", "no-such-program"], id="command"
        ),
        pytest.param(
            {
                "prefect_api_key_secret_arn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:absent-AbCdEf",
                "execution_role_arn": ROLE,
                "command": steps("COMPLETED"),
            },
            ["ResourceInitializationError"],
            id="secret",
        ),
    ],
)
async def test_failed_start_is_crashed_with_its_cause(world: World, job: dict[str, Any], words: list[str]) -> None:
    async with world.worker():
        run_id = await world.run(**job)
        run = await world.admin.wait_for_state(run_id, "CRASHED")
    for word in words:
        assert word in run["state"]["message"]
    assert (await world.task_of(run_id))["stopCode"] == "TaskFailedToStart"


async def test_unknown_cluster_is_crashed_and_the_worker_goes_on(either_world: World) -> None:
    world = either_world
    async with world.worker() as process:
        lost = await world.run("COMPLETED", cluster="nowhere")
        run = await world.admin.wait_for_state(lost, "CRASHED")
        assert "ClusterNotFoundException" in run["state"]["message"]
        assert "nowhere" in run["state"]["message"]
        await world.admin.wait_for_state(await world.run("RUNNING", "COMPLETED"), "COMPLETED")
        assert await process.stop() == 0
    assert len(await world.tasks()) == 1


async def test_paused_and_suspended_flow_goes_on(world: World) -> None:
    """A paused flow waits in its container; a suspended one is resumed in another."""
    deployment = await world.deploy(entrypoint="pausing.py:pausing", path=str(FLOWS))
    async with world.worker() as process:
        run_id = await world.admin.create_run(deployment)
        run = await world.admin.wait_for_state(run_id, "PAUSED", seconds=90)
        assert run["state"]["name"] == "Paused"
        await world.admin.post(f"/flow_runs/{run_id}/resume", {})
        await world.admin.wait_for_state(run_id, "RUNNING")
        run = await world.admin.wait_for_state(run_id, "PAUSED")
        assert run["state"]["name"] == "Suspended"
        first = await world.wait_for_task(run_id, "STOPPED")
        await process.wait_for_output("the run is Suspended")
        assert (await world.admin.read_run(run_id))["state"]["name"] == "Suspended"
        await world.admin.post(f"/flow_runs/{run_id}/resume", {})
        await world.admin.wait_for_state(run_id, "COMPLETED", seconds=90)
        assert await process.stop() == 0
    both = await world.tasks_of(run_id)
    assert len(both) == 2
    assert both[0]["taskArn"] == first["taskArn"]


async def test_suspended_run_is_not_crashed_and_resumes(either_world: World) -> None:
    world = either_world
    async with world.worker() as process:
        run_id = await world.run("RUNNING", "suspend", "COMPLETED")
        await world.admin.wait_for_state(run_id, "PAUSED")
        await world.wait_for_task(run_id, "STOPPED")
        await process.wait_for_output("the run is Suspended")
        assert (await world.admin.read_run(run_id))["state"]["name"] == "Suspended"
        await world.admin.post(f"/flow_runs/{run_id}/resume", {})
        await world.admin.wait_for_state(run_id, "COMPLETED")
    assert len(await world.tasks_of(run_id)) == 2


async def test_run_without_deployment(world: World) -> None:
    """As a worker's `submit` and `Runner`s make them: in a pool, of a flow, of no deployment."""
    flow_id = await world.admin.create_flow()
    body = {
        "flow_id": flow_id,
        "work_pool_name": world.pool,
        "state": {"type": "SCHEDULED"},
        "job_variables": {"command": steps("RUNNING", "COMPLETED")},
    }
    async with world.worker():
        run_id = (await world.admin.post("/flow_runs/", body))["id"]
        run = await world.admin.wait_for_state(run_id, "COMPLETED")
    assert run["deployment_id"] is None
    family = (await world.task_of(run_id))["taskDefinitionArn"].rpartition("/")[2].partition(":")[0]
    assert family == f"prefect_{world.pool}_{flow_id}"
