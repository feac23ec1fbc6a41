"""The life of a deployed worker, by the commands: in the embedded AWS, with a real Prefect server."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from support import stacks
from support.command_line import Ended, ecs_worker
from support.embedded import Aws, connected
from support.servers.worker import command, environment
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.world import World

pytestmark = pytest.mark.anyio
KEY = "pnu_correct-horse-battery"
NEWER = stacks.IMAGE.replace(":1", ":2")
NOT_OURS = stacks.IMAGE.replace("ecs-worker", "some-other-image")


@pytest.fixture
async def clients(aws: str) -> AsyncIterator[Aws]:
    """Clients of the embedded AWS that the world is in."""
    async with connected(aws) as clients:
        yield clients


class Deploy:
    """`ecs-worker deploy`, for the world's pool and in its cluster."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.stack = f"ecs-worker-{world.pool}"

    async def __call__(self, *arguments: str) -> Ended:
        world = self._world
        env = {"PREFECT_API_KEY": KEY}
        return await ecs_worker(
            world.directory, "deploy", *arguments, api_url=world.server.url, aws_url=world.aws_url, env=env
        )

    async def well(self, *arguments: str) -> str:
        """What it prints, when it ends well."""
        ended = await self(*arguments)
        assert ended.code == 0, ended
        assert KEY not in ended.out + ended.err
        return ended.out

    async def new(self, *arguments: str) -> str:
        place = ("--pool", self._world.pool, "--cluster", self._world.pool)
        return await self.well(*place, "--image", stacks.IMAGE, "--option", "query-seconds=1", "--yes", *arguments)


@pytest.fixture
def deploy(world: World) -> Deploy:
    return Deploy(world)


async def the_stack(clients: Aws, name: str) -> dict[str, Any]:
    (found,) = (await clients.cloudformation.describe_stacks(StackName=name))["Stacks"]
    return dict(found)


async def defaults(world: World) -> dict[str, Any]:
    """The pool's defaults that aren't empty."""
    template = (await world.admin.get(f"/work_pools/{world.pool}"))["base_job_template"]
    properties = template["variables"]["properties"]
    return {name: each["default"] for name, each in properties.items() if each.get("default") not in (None, {}, [])}


async def workers(world: World) -> list[dict[str, Any]]:
    found = await world.admin.post(f"/work_pools/{world.pool}/workers/filter", {})
    return [worker for worker in found if worker["status"] == "ONLINE"]


async def service_tasks(clients: Aws, outputs: dict[str, str]) -> set[str]:
    place = {"cluster": outputs["ClusterArn"], "serviceName": outputs["ServiceName"]}
    return set((await clients.ecs.list_tasks(**place))["taskArns"])


async def left(clients: Aws, stack: str) -> dict[str, list[str]]:
    """What there is by the stack's name, by kind; other tests' stacks are beside it."""
    roles = [role["RoleName"] for role in (await clients.iam.list_roles())["Roles"]]
    groups = (await clients.logs.describe_log_groups(logGroupNamePrefix=stack))["logGroups"]
    filters = (await clients.logs.describe_metric_filters(filterNamePrefix=stack))["metricFilters"]
    secrets = (await clients.secretsmanager.list_secrets())["SecretList"]
    security = (await clients.ec2.describe_security_groups())["SecurityGroups"]
    found = {
        "role": [name for name in roles if name.startswith(stack)],
        "log": [group["logGroupName"] for group in groups],
        "filter": [each["filterName"] for each in filters],
        "secret": [each["Name"] for each in secrets if each["Name"].startswith(f"ecs-worker/{stack}/")],
        "security group": [each["GroupId"] for each in security if each["GroupName"].startswith(stack)],
    }
    return {kind: names for kind, names in found.items() if names}


async def test_the_life_of_a_deployed_worker(world: World, clients: Aws, deploy: Deploy) -> None:
    before = await defaults(world)
    told = await deploy.new()
    assert len(await workers(world)) == 1
    stack = await the_stack(clients, deploy.stack)
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    made = stacks.outputs(stack)
    for shown in (
        "+ AWS::ECS::Service Service",
        "CREATE_COMPLETE              Service",
        "is ONLINE",
        made["LogGroupName"],
    ):
        assert shown in told, told
    assert KEY not in json.dumps(stack, default=str)

    # A deployment that says nothing of ECS but its image.
    now = await defaults(world)
    assert {name: now[name] for name in now if now[name] != before.get(name)} == {
        "cluster": made["ClusterArn"],
        "subnets": made["SubnetIds"].split(","),
        "assign_public_ip": True,
        "execution_role_arn": made["ExecutionRoleArn"],
        "task_role_arn": made["RunTaskRoleArn"],
        "prefect_api_key_secret_arn": made["PrefectApiKeySecretArn"],
    }
    run_id = await world.run("RUNNING", "COMPLETED", image="example.com/flows:1")
    await world.admin.wait_for_state(run_id, "COMPLETED")
    task = await world.task_of(run_id)
    definition = (await clients.ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"]))[
        "taskDefinition"
    ]
    (container,) = definition["containerDefinitions"]
    assert {each["name"]: each["valueFrom"] for each in container["secrets"]} == {
        "PREFECT_API_KEY": made["PrefectApiKeySecretArn"]
    }
    assert KEY not in json.dumps([task, definition], default=str)
    assert definition["executionRoleArn"] == made["ExecutionRoleArn"]
    assert task["overrides"]["taskRoleArn"] == made["RunTaskRoleArn"]
    details = {each["name"]: each["value"] for each in task["attachments"][0]["details"]}
    assert details["subnetId"] in made["SubnetIds"]

    # Given again it finds nothing to do.
    assert "already up to date" in await deploy.well("--pool", world.pool, "--yes")
    assert (await the_stack(clients, deploy.stack)) == stack

    await _changed_under_way(world, clients, deploy, made)
    shown = json.loads(await deploy.well("status", deploy.stack, "--format", "json"))
    assert shown["service"]["image"] == NEWER
    assert shown["service"]["running"] == 2
    assert len(shown["workers"]) >= 2
    told = await deploy.well("rollback", deploy.stack, "--yes")
    assert f"{NEWER} → {stacks.IMAGE}" in told
    assert "DesiredCount: 2 → 1" in told
    assert f"Image {stacks.IMAGE}" in await deploy.well("status", deploy.stack)
    third = await service_tasks(clients, made)
    assert len(third) == 1

    await _deleted(world, clients, deploy, made, third)
    assert await defaults(world) == before


async def _changed_under_way(world: World, clients: Aws, deploy: Deploy, made: dict[str, str]) -> None:
    """Another image and another worker, while runs are on their way and new ones come."""
    first = await service_tasks(clients, made)
    gate = world.gate()
    deployment = await world.deploy("RUNNING", f"wait={gate}", "COMPLETED", job_variables={"image": "flows"})
    under_way = await world.admin.create_runs(deployment, 10)
    for run_id in under_way:
        await world.admin.wait_for_state(run_id, "RUNNING")
    # Somebody has scaled the service meanwhile: that stays.
    await clients.ecs.update_service(cluster=made["ClusterArn"], service=made["ServiceName"], desiredCount=2)
    assert "already up to date" in await deploy.well("upgrade", deploy.stack, "--yes")
    async with anyio.create_task_group() as both:
        both.start_soon(deploy.well, "upgrade", deploy.stack, "--image", NEWER, "--yes")
        under_way += await world.admin.create_runs(deployment, 10)
    changed = stacks.outputs(await the_stack(clients, deploy.stack))
    second = await service_tasks(clients, made)
    assert len(second) == 2
    assert not first & second
    assert changed["TaskDefinitionArn"] != made["TaskDefinitionArn"]
    gate.touch()
    await world.all_are(under_way, "COMPLETED")
    assert set((await world.launches()).values()) == {1}, "no run was launched twice"


async def _deleted(world: World, clients: Aws, deploy: Deploy, made: dict[str, str], tasks: set[str]) -> None:
    gate = world.gate()
    held = await world.run("RUNNING", f"wait={gate}", "COMPLETED")
    await world.admin.wait_for_state(held, "RUNNING")
    refused = await deploy("delete", "--pool", world.pool, "--yes")
    assert refused.code == 2
    assert held in refused.err, refused
    assert "--force" in refused.err
    assert await service_tasks(clients, made) == tasks, "nothing was done"
    gate.touch()
    await world.admin.wait_for_state(held, "COMPLETED")

    told = await deploy.well("delete", "--pool", world.pool, "--yes")
    assert f"aws logs delete-log-group --region us-east-1 --log-group-name {made['LogGroupName']}" in told
    with pytest.raises(clients.cloudformation.exceptions.ClientError, match="does not exist"):
        await the_stack(clients, deploy.stack)

    async def ended() -> bool:
        found = (await clients.ecs.describe_tasks(cluster=world.pool, tasks=list(tasks)))["tasks"]
        return {each["lastStatus"] for each in found} == {"STOPPED"}

    await until(ended)
    assert not (await clients.ecs.list_services(cluster=world.pool))["serviceArns"]
    secret = f"ecs-worker/{deploy.stack}/prefect-api-key"
    assert await left(clients, deploy.stack) == {"log": [made["LogGroupName"]], "secret": [secret]}
    await clients.logs.delete_log_group(logGroupName=made["LogGroupName"])
    await clients.secretsmanager.delete_secret(SecretId=secret, ForceDeleteWithoutRecovery=True)


async def test_a_change_after_which_the_worker_cannot_start_is_told_and_undone(
    world: World, clients: Aws, deploy: Deploy
) -> None:
    """The circuit breaker opens, and the worker of before goes on."""
    await deploy.new()
    stack = await the_stack(clients, deploy.stack)
    made = stacks.outputs(stack)
    before = await service_tasks(clients, made)
    ended = await deploy("upgrade", deploy.stack, "--image", NOT_OURS, "--yes")
    assert ended.code == 2, ended
    assert "ended: " in ended.out, ended
    assert "Service (AWS::ECS::Service) failed" in ended.err, ended
    assert "Circuit Breaker" in ended.err
    assert "correct that, and deploy again" in ended.err
    assert "The stack is as it was before." in ended.err
    back = await the_stack(clients, deploy.stack)
    assert back["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert stacks.outputs(back) == made
    assert await service_tasks(clients, made) == before
    assert "has not been changed" in (await deploy("rollback", deploy.stack, "--yes")).err, (
        "the failed change left nothing to go back to"
    )
    run_id = await world.run("RUNNING", "COMPLETED")
    await world.admin.wait_for_state(run_id, "COMPLETED")
    told = await deploy.well("delete", deploy.stack, "--all", "--yes")
    assert "is deleted for good in 7 days" in told
    assert await left(clients, deploy.stack) == {}


async def test_a_stack_whose_worker_never_starts_is_undone_and_what_stays_is_named(
    world: World, clients: Aws, deploy: Deploy
) -> None:
    new = ("--pool", world.pool, "--cluster", world.pool, "--yes")
    ended = await deploy(*new, "--image", NOT_OURS)
    assert ended.code == 2, ended
    secret = f"ecs-worker/{deploy.stack}/prefect-api-key"
    assert f"The stack {deploy.stack} could not be made. Service (AWS::ECS::Service) failed" in ended.err, ended
    assert f"`ecs-worker deploy delete {deploy.stack}`" in ended.err
    assert f"aws secretsmanager delete-secret --region us-east-1 --secret-id {secret}" in ended.err
    assert await left(clients, deploy.stack) == {"secret": [secret]}
    again = await deploy(*new, "--image", stacks.IMAGE)
    assert again.code == 2
    assert "ROLLBACK_COMPLETE" in again.err
    assert f"`ecs-worker deploy delete {deploy.stack}`, then deploy again" in again.err
    await deploy.well("delete", deploy.stack, "--yes")
    assert "is ONLINE" in await deploy.new()
    await deploy.well("delete", deploy.stack, "--all", "--yes")
    assert await left(clients, deploy.stack) == {}


async def test_whoever_goes_away_is_told_that_aws_goes_on(slow_world: World) -> None:
    """While the service starts, which takes its time."""
    world, deploy = slow_world, Deploy(slow_world)
    new = ["deploy", "--pool", world.pool, "--cluster", world.pool, "--image", stacks.IMAGE, "--yes"]
    env = environment(world.directory, api_url=world.server.url, aws_url=world.aws_url)
    async with command(world.directory, new, env, log=world.directory / "deploy.log") as process:
        await process.wait_for_output("CREATE_IN_PROGRESS           Service")
        assert await process.stop(signal.SIGINT) == 130
        assert f"AWS goes on with the stack {deploy.stack}: `ecs-worker deploy status" in process.output
    async with connected(world.aws_url) as clients:
        await stacks.settles(clients, deploy.stack, "CREATE_COMPLETE")
        assert "Set the defaults of the work pool" in await deploy.well("--pool", world.pool, "--yes")
        await deploy.well("delete", deploy.stack, "--all", "--yes")
        assert await left(clients, deploy.stack) == {}
