"""The worker as the template deploys it: a service of the embedded AWS, with a real Prefect server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support import stacks
from support.embedded import Aws, connected, fresh
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.world import World

pytestmark = pytest.mark.anyio


@pytest.fixture
async def clients(aws: str) -> AsyncIterator[Aws]:
    """Clients of the embedded AWS that the world is in."""
    async with connected(aws) as clients:
        yield clients


async def values_of(world: World, clients: Aws) -> dict[str, str]:
    """The parameters for a worker of the world's pool in the world's cluster."""
    least = await stacks.least_parameters(clients, world.pool, world.server.url)
    (cluster,) = (await clients.ecs.describe_clusters(clusters=[world.pool]))["clusters"]
    return least | {"ClusterArn": cluster["clusterArn"]}


async def workers(world: World) -> list[dict[str, Any]]:
    found = await world.admin.post(f"/work_pools/{world.pool}/workers/filter", {})
    return [worker for worker in found if worker["status"] == "ONLINE"]


async def service_tasks(clients: Aws, outputs: dict[str, str]) -> set[str]:
    place = {"cluster": outputs["ClusterArn"], "serviceName": outputs["ServiceName"]}
    return set((await clients.ecs.list_tasks(**place))["taskArns"])


async def test_a_deployed_worker_runs_flows_is_changed_under_way_and_leaves_only_its_log(
    world: World, clients: Aws
) -> None:
    name, values = fresh("ecs-worker"), await values_of(world, clients)
    await stacks.create(clients, name, values)
    made = stacks.outputs(await stacks.settles(clients, name, "CREATE_COMPLETE"))
    assert len(await until(lambda: workers(world))) == 1
    assert len(await role_names(clients, name)) == 3
    run_id = await world.run("RUNNING", "COMPLETED")
    await world.admin.wait_for_state(run_id, "COMPLETED")
    task = await world.task_of(run_id)
    definition = (await clients.ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"]))[
        "taskDefinition"
    ]
    assert definition["executionRoleArn"] == made["ExecutionRoleArn"]
    assert task["overrides"]["taskRoleArn"] == made["RunTaskRoleArn"]

    # Another image and another worker, while runs are on their way and new ones come.
    first = await service_tasks(clients, made)
    gate = world.gate()
    under_way = [await world.run("RUNNING", f"wait={gate}", "COMPLETED") for _ in range(4)]
    for run_id in under_way:
        await world.admin.wait_for_state(run_id, "RUNNING")
    newer = values | {"Image": stacks.IMAGE.replace(":1", ":2"), "DesiredCount": "2"}
    await stacks.update(clients, name, newer)
    under_way += [await world.run("RUNNING", f"wait={gate}", "COMPLETED") for _ in range(4)]
    changed = stacks.outputs(await stacks.settles(clients, name, "UPDATE_COMPLETE"))
    second = await service_tasks(clients, made)
    assert len(second) == 2
    assert not first & second
    assert changed["TaskDefinitionArn"] != made["TaskDefinitionArn"]
    old = (await clients.ecs.describe_task_definition(taskDefinition=made["TaskDefinitionArn"]))["taskDefinition"]
    assert old["status"] == "INACTIVE"
    gate.touch()
    for run_id in under_way:
        await world.admin.wait_for_state(run_id, "COMPLETED")
    assert set((await world.launches()).values()) == {1}, "no run was launched twice"

    await clients.cloudformation.delete_stack(StackName=name)
    with pytest.raises(clients.cloudformation.exceptions.ClientError, match="does not exist"):
        await clients.cloudformation.describe_stacks(StackName=name)

    async def ended() -> bool:
        tasks = (await clients.ecs.describe_tasks(cluster=world.pool, tasks=list(second)))["tasks"]
        return {each["lastStatus"] for each in tasks} == {"STOPPED"}

    await until(ended)
    assert not (await clients.ecs.list_services(cluster=world.pool))["serviceArns"]
    assert not await role_names(clients, name)
    assert not await log_filters(clients, name)
    groups = await log_groups(clients, name)
    assert groups == [made["LogGroupName"]], "the log outlives the stack"
    await clients.logs.delete_log_group(logGroupName=groups[0])


async def role_names(clients: Aws, stack: str) -> list[str]:
    """The stack's; other tests' stacks are beside it."""
    names = [role["RoleName"] for role in (await clients.iam.list_roles())["Roles"]]
    return [name for name in names if name.startswith(stack)]


async def log_groups(clients: Aws, stack: str) -> list[str]:
    found = (await clients.logs.describe_log_groups(logGroupNamePrefix=stack))["logGroups"]
    return [group["logGroupName"] for group in found]


async def log_filters(clients: Aws, stack: str) -> list[str]:
    found = (await clients.logs.describe_metric_filters(filterNamePrefix=stack))["metricFilters"]
    return [each["filterName"] for each in found]


async def test_a_worker_that_cannot_start_rolls_the_stack_back(world: World, clients: Aws) -> None:
    """An option that `start` doesn't know: the circuit breaker opens, and the worker of before goes on."""
    name, values = fresh("ecs-worker"), await values_of(world, clients)
    await stacks.create(clients, name, values)
    made = stacks.outputs(await stacks.settles(clients, name, "CREATE_COMPLETE"))
    before = await service_tasks(clients, made)
    await stacks.update(clients, name, values | {"ExtraOptions": "--no-such-option"})
    back = stacks.outputs(await stacks.settles(clients, name, "UPDATE_ROLLBACK_COMPLETE"))
    assert back == made
    assert await service_tasks(clients, made) == before
    told = await stacks.story(clients, name)
    assert "Service UPDATE_FAILED" in told
    assert "ECS Deployment Circuit Breaker was triggered" in told
    run_id = await world.run("RUNNING", "COMPLETED")
    await world.admin.wait_for_state(run_id, "COMPLETED")
    await clients.cloudformation.delete_stack(StackName=name)


async def test_a_stack_whose_worker_never_starts_is_undone(world: World, clients: Aws) -> None:
    name, values = fresh("ecs-worker"), await values_of(world, clients)
    missing = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prefect-api-key-AbCdEf"
    await stacks.create(clients, name, values | {"PrefectApiKeySecretArn": missing})
    await stacks.settles(clients, name, "ROLLBACK_COMPLETE")
    told = await stacks.story(clients, name)
    assert "Service CREATE_FAILED" in told
    assert "LogGroup DELETE_COMPLETE" in told
    assert not await role_names(clients, name)
    assert not await log_groups(clients, name)
    assert not (await clients.ecs.list_services(cluster=world.pool))["serviceArns"]
