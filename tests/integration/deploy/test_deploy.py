"""`ecs-worker deploy` and its commands, but for the worker itself: stacks of none, which are quick."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support import stacks
from support.builders import quick_template
from support.deploying import Command
from support.embedded import Aws, connected, fresh
from support.servers.prefect import free_port
from support.servers.worker import environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio
KEY, OTHER_KEY = "pnu_one", "pnu_two"


async def commanding(admin: Admin, aws: Aws, home: Path) -> AsyncIterator[Command]:
    """For a new pool; whatever stack it makes goes with the test."""
    command = Command(admin, aws, home, await admin.create_pool(base_job_template=quick_template()))
    yield command
    await aws.cloudformation.delete_stack(StackName=command.stack)


@pytest.fixture
async def command(admin3: Admin, aws: Aws, tmp_path: Path) -> AsyncIterator[Command]:
    """With Prefect 3."""
    async for command in commanding(admin3, aws, tmp_path):
        yield command


@pytest.fixture
async def either_command(admin: Admin, aws: Aws, tmp_path: Path) -> AsyncIterator[Command]:
    """With Prefect 3 and Prefect 2, in turn."""
    async for command in commanding(admin, aws, tmp_path):
        yield command


async def value(command: Command, kind: str = "prefect-api-key") -> str:
    secret = await command.aws.secretsmanager.get_secret_value(SecretId=f"ecs-worker/{command.stack}/{kind}")
    return str(secret["SecretString"])


async def test_a_dry_run_shows_all_and_leaves_nothing(command: Command) -> None:
    before = await command.defaults()
    ended = await command.new("--dry-run", PREFECT_API_KEY=KEY)
    assert ended.code == 0, ended
    for shown in (
        f"Stack {command.stack} in us-east-1, account 123456789012 (new)",
        "  Cpu: 256",
        "  AssignPublicIp: ENABLED",
        "  + AWS::ECS::Cluster Cluster",
        f"  + make the secret ecs-worker/{command.stack}/prefect-api-key (the Prefect API key)",
        f"Work pool {command.pool}: these defaults are filled",
        "  cluster: the stack's cluster",
        "Nothing was done",
    ):
        assert shown in ended.out, ended
    assert KEY not in ended.out
    stacks_there = (await command.aws.cloudformation.describe_stacks())["Stacks"]
    assert command.stack not in [each["StackName"] for each in stacks_there]
    secrets = (await command.aws.secretsmanager.list_secrets())["SecretList"]
    assert not [each for each in secrets if command.stack in each["Name"]]
    assert await command.defaults() == before


async def test_it_asks_and_a_no_leaves_nothing(command: Command) -> None:
    terminal, its_side = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ecs_worker", "deploy", "--pool", command.pool, "--image", stacks.IMAGE),
            env=environment(command.home, api_url=command.admin.server.url, aws_url=command.aws.url),
            stdin=its_side,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        os.write(terminal, b"n\n")
        told, _ = await process.communicate()
    finally:
        os.close(terminal)
        os.close(its_side)
    assert process.returncode == 1
    assert "+ AWS::ECS::Service Service" in told.decode()
    assert "Do this? [y/N]" in told.decode()
    stacks_there = (await command.aws.cloudformation.describe_stacks())["Stacks"]
    assert command.stack not in [each["StackName"] for each in stacks_there]


async def test_prefect_aws_s_names_of_the_options_work(command: Command) -> None:
    (vpc,) = (await command.aws.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}]))["Vpcs"]
    filters = [{"Name": "vpc-id", "Values": [vpc["VpcId"]]}]
    subnets = [each["SubnetId"] for each in (await command.aws.ec2.describe_subnets(Filters=filters))["Subnets"]][:2]
    given: tuple[str, ...] = (
        "--work-pool-name",
        command.pool,
        "--stack-name",
        command.stack,
        "--docker-image",
        stacks.IMAGE,
    )
    given += ("--existing-cluster-identifier", "default", "--existing-vpc-id", vpc["VpcId"])
    given += ("--existing-subnet-ids", ",".join(subnets), "--prefect-api-url", command.admin.server.url)
    given += ("--task-cpu", "512", "--task-memory", "1024", "--work-queues", "a,b", "--desired-count", "0")
    given += ("--min-capacity", "1", "--max-capacity", "10", "--existing-log-group-name", "theirs", "--wait")
    ended = await command(*given, "--log-retention-days", "7", "--region", "us-east-1", "--yes")
    assert ended.code == 0, ended
    assert "Note: --min-capacity is without effect: a worker mostly waits" in ended.err
    assert "Note: --existing-log-group-name is without effect" in ended.err
    has = await command.parameters()
    assert has["ClusterArn"].endswith(":cluster/default")
    assert has["Subnets"] == ",".join(subnets)
    wanted = {"Cpu": "512", "Memory": "1024", "WorkQueues": "a,b", "LogRetentionDays": "7", "VpcId": vpc["VpcId"]}
    assert {name: has[name] for name in wanted} == wanted


async def test_given_again_it_keeps_what_is_not_given(command: Command) -> None:
    chosen: tuple[str, ...] = (
        "--new-cluster",
        "--work-queues",
        "a,b",
        "--cpu",
        "512",
        "--memory",
        "1024",
        "--events-queue",
    )
    chosen += ("--option", "limit=20", "--option", "env=A=1", "--log-retention-days", "7")
    assert (await command.new(*chosen)).code == 0
    first = await command.parameters()
    assert first["ExtraOptions"] == "--limit\n20\n--env\nA=1"
    assert "already up to date" in await command.well("--pool", command.pool, "--yes")
    assert "already up to date" in (await command.new(*chosen)).out
    newer = stacks.IMAGE.replace(":1", ":2")
    upgrade = ("upgrade", "--pool", command.pool, "--image", newer, "--option", "limit=30")
    told = await command.well(*upgrade, "--log-retention-days", "60", "--yes")
    assert f"  Image: {stacks.IMAGE} → {newer}" in told
    second = await command.parameters()
    changes = {"Image": newer, "ExtraOptions": "--env\nA=1\n--limit\n30", "LogRetentionDays": "60"}
    assert second == {**first, **changes}
    name = (await command.outputs())["LogGroupName"]
    (group,) = (await command.aws.logs.describe_log_groups(logGroupNamePrefix=name))["logGroups"]
    assert group["retentionInDays"] == 60
    # No dates, no numbers that change each time: CloudFormation would put them on each resource.
    (stack,) = (await command.aws.cloudformation.describe_stacks(StackName=command.stack))["Stacks"]
    assert stack["Tags"] == [{"Key": "ecs-worker:pool", "Value": command.pool}]

    ended = await command("diff", command.stack, "--no-events-queue")
    assert ended.code == 1
    assert "  - AWS::SQS::Queue Queue" in ended.out
    assert (await command("diff", command.stack)).code == 0
    assert await command.parameters() == second, "to look changes nothing"
    await command.well("rollback", command.stack, "--yes")
    assert await command.parameters() == first
    await command.well("rollback", command.stack, "--yes")
    assert await command.parameters() == second

    (row,) = [
        each for each in json.loads(await command.well("list", "--format", "json")) if each["pool"] == command.pool
    ]
    assert (row["stack"], row["image"], row["workers"]) == (command.stack, newer, "0")


async def test_a_secret_is_made_once_and_follows_its_value(command: Command) -> None:
    assert (await command.new(PREFECT_API_KEY=KEY)).code == 0
    arn = (await command.parameters())["PrefectApiKeySecretArn"]
    assert await value(command) == KEY
    assert (await command.defaults())["prefect_api_key_secret_arn"] == arn
    assert "already up to date" in await command.well("--pool", command.pool, "--yes", PREFECT_API_KEY=KEY)
    told = await command.well("--pool", command.pool, "--yes", PREFECT_API_KEY=OTHER_KEY)
    assert "~ give another value to the secret" in told
    assert "New tasks of the worker take up the new value." in told
    assert await value(command) == OTHER_KEY
    assert (await command.parameters())["PrefectApiKeySecretArn"] == arn
    # Whoever only upgrades may use another key himself.
    await command.well("upgrade", command.stack, "--cpu", "512", "--memory", "1024", "--yes", PREFECT_API_KEY=KEY)
    assert await value(command) == OTHER_KEY
    told = await command.well("upgrade", command.stack, "--prefect-auth-string", "me:secret", "--yes")
    assert await value(command, "prefect-auth-string") == "me:secret"
    outputs = await command.outputs()
    assert (await command.defaults())["prefect_api_auth_string_secret_arn"] == outputs["PrefectAuthStringSecretArn"]
    assert "me:secret" not in told
    # A deleted secret comes back with the next stack.
    await command.well("delete", command.stack, "--all", "--yes")
    found = await command.aws.secretsmanager.describe_secret(SecretId=arn)
    assert found["DeletedDate"]
    assert "~ bring back" in (await command.new(PREFECT_API_KEY=KEY)).out
    assert await value(command) == KEY
    await command.well("delete", command.stack, "--all", "--yes")


async def test_a_secret_of_one_s_own_is_left_alone(command: Command) -> None:
    made = await command.aws.secretsmanager.create_secret(Name=fresh("own"), SecretString="theirs")
    assert (await command.new("--prefect-api-key-secret-arn", made["ARN"])).code == 0
    assert "already up to date" in await command.well("--pool", command.pool, "--yes", PREFECT_API_KEY=KEY)
    secret = await command.aws.secretsmanager.get_secret_value(SecretId=made["ARN"])
    assert secret["SecretString"] == "theirs"
    told = await command.well("delete", command.stack, "--all", "--yes")
    assert made["ARN"] not in told


async def test_what_the_pool_says_already_counts_and_stays(command: Command) -> None:
    template = quick_template()
    own = {"cluster": "default", "task_role_arn": "arn:aws:iam::123456789012:role/theirs", "vpc_id": "vpc-9"}
    for name, given in own.items():
        template["variables"]["properties"][name]["default"] = given
    await command.admin.call("PATCH", f"/work_pools/{command.pool}", json={"base_job_template": template})
    assert (await command.new()).code == 0
    outputs = await command.outputs()
    assert outputs["ClusterArn"].endswith(":cluster/default"), "the pool's cluster is the worker's"
    now = await command.defaults()
    assert {name: now[name] for name in own} == own
    assert now["execution_role_arn"] == outputs["ExecutionRoleArn"]
    assert not {"subnets", "network_configuration"} & now.keys()
    await command.well("delete", command.stack, "--all", "--yes")
    now = await command.defaults()
    assert {name: now[name] for name in own} == own
    assert "execution_role_arn" not in now


async def test_of_two_stacks_of_a_pool_one_goes_and_the_other_s_defaults_stay(command: Command) -> None:
    second = f"{command.stack}-2"
    assert (await command.new("--cluster", "default")).code == 0
    assert (await command.new("--cluster", "default", "--stack-name", second)).code == 0
    first = await command.defaults()
    several = await command("status", "--pool", command.pool)
    assert several.code == 2
    assert f"There are several stacks of the work pool {command.pool!r}" in several.err
    await command.well("delete", command.stack, "--all", "--yes")
    now = await command.defaults()
    assert {name: now.get(name) for name in ("cluster", "subnets")} == {
        name: first[name] for name in ("cluster", "subnets")
    }
    assert not {"execution_role_arn", "task_role_arn"} & now.keys(), "these roles are gone"
    told = await command.well("--pool", command.pool, "--stack-name", second, "--yes")
    assert f"Set the defaults of the work pool {command.pool}: execution_role_arn, task_role_arn." in told
    await command.well("delete", second, "--all", "--yes")


async def test_a_pool_that_is_not_there_is_made(either_command: Command) -> None:
    command = either_command
    command.pool = f"{command.pool}-new"
    ended = await command.new()
    assert ended.code == 0, ended
    assert f"Work pool {command.pool}: will be made" in ended.out
    made = await command.admin.get(f"/work_pools/{command.pool}")
    assert made["type"] == "ecs"
    assert (await command.defaults())["cluster"] == (await command.outputs())["ClusterArn"]
    await command.well("delete", "--pool", command.pool, "--all", "--yes")


async def test_who_does_not_wait_is_told_that_the_pool_is_not_filled_yet(command: Command) -> None:
    before = await command.defaults()
    ended = await command.new("--no-wait")
    assert ended.code == 0, ended
    assert f"gets its defaults when `ecs-worker deploy --pool {command.pool}` is given again" in ended.out
    assert await command.defaults() == before
    await stacks.settles(command.aws, command.stack, "CREATE_COMPLETE")
    told = await command.well("--pool", command.pool, "--yes")
    assert f"Set the defaults of the work pool {command.pool}" in told
    assert (await command.defaults())["cluster"] == (await command.outputs())["ClusterArn"]


async def test_without_prefect_a_stack_can_be_looked_at_and_by_force_deleted(command: Command) -> None:
    assert (await command.new()).code == 0
    gone: dict[str, Any] = {"api_url": f"http://127.0.0.1:{free_port()}/api"}
    told = await command.well("status", command.stack, **gone)
    assert "CREATE_COMPLETE" in told
    assert f"Workers of {command.pool}: can't be told. The Prefect API at {gone['api_url']}" in told
    ended = await command("delete", command.stack, "--yes", **gone)
    assert ended.code == 2
    assert "Whether the worker holds flow runs can't be told" in ended.err
    assert "--force" in ended.err
    ended = await command("delete", command.stack, "--all", "--force", "--yes", **gone)
    assert ended.code == 0, ended
    assert f"the defaults of the work pool {command.pool} stay as they are" in ended.err


async def test_the_network_is_found_by_its_routes(command: Command) -> None:
    """Two subnets with NAT and two public ones: the worker lives behind the NAT, without a public address."""
    async with connected(command.aws.url, ("cloudformation", "ec2"), region="ap-south-1") as there:
        subnets = (await there.ec2.describe_subnets())["Subnets"]
        public, *private = [each["SubnetId"] for each in subnets][:3]
        vpc = subnets[0]["VpcId"]
        address = await there.ec2.allocate_address(Domain="vpc")
        nat = await there.ec2.create_nat_gateway(SubnetId=public, AllocationId=address["AllocationId"])
        table = (await there.ec2.create_route_table(VpcId=vpc))["RouteTable"]["RouteTableId"]
        await there.ec2.create_route(
            RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat["NatGateway"]["NatGatewayId"]
        )
        for subnet in private:
            await there.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        here = ("--region", "ap-south-1")
        ended = await command.new(*here, "--dry-run")
        assert f"  Subnets: {','.join(sorted(private))}" in ended.out, ended
        assert "  AssignPublicIp: DISABLED" in ended.out
        assert "assign_public_ip" not in ended.out
        ended = await command.new(*here, "--dry-run", "--subnets", public)
        assert "  AssignPublicIp: ENABLED" in ended.out, ended
        ended = await command.new(*here, "--dry-run", "--no-assign-public-ip", "--subnets", public)
        assert "  AssignPublicIp: DISABLED" in ended.out, ended
